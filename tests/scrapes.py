"""Looking at `/metrics` as Prometheus does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx
import trio
from prometheus_client.parser import text_string_to_metric_families

from trio_worker.figures import PREFIX
from trio_worker.testing import RunningWorker, WebBuddy, open_worker, trio_time

__all__ = ["Sample", "Watched", "parse", "watched"]

Sample = tuple[str, tuple[tuple[str, str], ...]]


def parse(text: str) -> dict[Sample, float]:
    """Read Prometheus's own format: a value for each name with its labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@attrs.define
class Watched:
    """A worker, and what its figures were when they were last looked at."""

    worker: RunningWorker
    before: dict[Sample, float] = attrs.field(factory=dict)

    @property
    def webbuddy(self) -> WebBuddy:
        return self.worker.webbuddy

    async def get(self, accept: str = "") -> httpx.Response:
        """Ask as Prometheus does."""
        transport = self.worker.webbuddy.push_transport
        assert transport is not None
        async with httpx.AsyncClient(transport=transport, base_url="http://worker.test") as client:
            return await client.get("/metrics", headers={"Accept": accept})

    async def values(self, name: str) -> dict[str, float]:
        """Give a figure as it is: by the values of its labels, one behind the other."""
        return _of(name, parse((await self.get()).text))

    async def changes(self, *names: str) -> Any:
        """Give what has changed since the last call: by name, then by the values of its labels.

        Args:
            *names: Of figures, without their prefix. With one, what has changed of that alone.
        """
        now = parse((await self.get()).text)
        changed = {sample: value - self.before.get(sample, 0.0) for sample, value in now.items()}
        self.before = now
        found = {
            name: {labels: round(value, 6) for labels, value in _of(name, changed).items() if round(value, 6)}
            for name in names
        }
        return found if len(names) != 1 else found[names[0]]


def _of(name: str, samples: dict[Sample, float]) -> dict[str, float]:
    return {
        " ".join(value for label, value in labels if label != "process"): value
        for (full, labels), value in samples.items()
        if full == PREFIX + name
    }


@asynccontextmanager
async def watched(handler: Any, webbuddy: WebBuddy | None = None, **settings: Any) -> AsyncIterator[Watched]:
    """Run a worker in virtual time, with its first look at an empty queue behind it."""
    webbuddy = webbuddy or WebBuddy(now=trio_time())
    async with open_worker(handler, webbuddy=webbuddy, **{"polling_interval": 86_400, **settings}) as worker:
        await webbuddy.until(lambda: webbuddy.count("claim_next") > 0)
        seen = Watched(worker)
        await seen.changes()
        await webbuddy.until(lambda: webbuddy.count("by_status") > 0)  # who reads has the queue counted
        await trio.sleep(1)
        await seen.changes()
        yield seen
