"""Workers under mixed load, with faults, for an hour: nothing grows, and each query ends as it should, once.

    python -m tests.soak --minutes 60

Two real workers, one with an async handler and one with a plain one, each with a WebBuddy of its own that
breaks in turns (`tests.soak_faults`). All the time somebody scrapes them, asks their probes and has their
status page open. Between two rounds all is let come to rest, and memory, open files, threads and tasks are
read. Needs Linux's /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random

import attrs
import httpx
import trio

from benchmarks.process import Process
from tests.kill_checks import problems_of_journals
from tests.processes import WorkerProcess, start_worker
from tests.scrapes import Sample, parse
from tests.soak_agent import KINDS, LIMIT, make_text, problem_of
from tests.soak_faults import FAULTS, LONG, trouble
from tests.soak_readings import Reading, growth, table, total
from trio_worker import clock
from trio_worker.testing import WebBuddy, serve_webbuddy

__all__ = ["Soak", "run_soak"]

ROOT = Path(__file__).parent.parent
RATE = 15.0  # queries a second, of each worker
LOOK = 1.0  # seconds between two scrapes
REST = 0.25  # the same while it is waited for rest
AT_REST = 25.0
"""Seconds until what serves a load is gone when that is over: Trio ends a thread after 10 s without work,
and a connection may be idle for 5."""
STUCK = 600.0  # seconds in which a round's queries have ended, also behind a log-in that was refused
MEMORY = 4.0  # MB that the second half may have more than the first

SETTINGS = {
    "WORKER_PROCESSING_TIMEOUT": f"{LIMIT:g}",
    "WORKER_REQUEST_TIMEOUT": "5",
    "WORKER_WATCH_INTERVAL": "5",
    "WORKER_CAPTURE": "logging",
    "POLLING_INTERVAL": "1",
    "NUM_WORKERS": "8",
    "LOOKS_APART": "3",
    "PYTHONPATH": str(ROOT),
}


@attrs.define(eq=False, kw_only=True)
class Soak:
    """One worker, and the WebBuddy that it works for.

    Attributes:
        name: Of the handler.
        webbuddy: It.
        worker: Its process.
        client: Asks what listens there.
        random: Decides about queries and faults.
        readings: The worker at rest: the first before all queries, then one behind each round.
        ended: How many queries have ended, by status.
        events: How often each event was in its log.
        reasons: For how many looks it was not ready, by the names of the reasons.
        problems: What went wrong.
    """

    name: str
    webbuddy: WebBuddy
    worker: WorkerProcess
    client: httpx.AsyncClient
    random: Random
    readings: list[Reading] = attrs.field(factory=list)
    ended: Counter[str] = attrs.field(factory=Counter)
    events: Counter[str] = attrs.field(factory=Counter)
    reasons: Counter[str] = attrs.field(factory=Counter)
    problems: list[str] = attrs.field(factory=list)
    began: float = attrs.field(factory=trio.current_time)
    began_at: float = attrs.field(factory=clock.now)
    snapshots: int = 0
    _number: int = 0

    async def run(self, faults: Sequence[str], seconds: float, minutes: float) -> None:
        """Let it work, round by round.

        Args:
            faults: Those of each round, in another order each time.
            seconds: Of each fault, and of the pause behind it.
            minutes: In which rounds begin; one at least.
        """
        await self.webbuddy.until(lambda: self.webbuddy.count("claim_next", 404) > 0, within=STUCK)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_page)
            nursery.start_soon(self._scrape)
            await self._come_to_rest()
            while len(self.readings) < 2 or self._minutes < minutes:
                await self._work(self.random.sample(faults, len(faults)), seconds)
                await self._come_to_rest()
            nursery.cancel_scope.cancel()

    async def _work(self, faults: Sequence[str], seconds: float) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._create_queries)
            for fault in faults:
                with trouble(self.webbuddy, fault, self.random):
                    await trio.sleep(seconds)
                await trio.sleep(seconds)
            nursery.cancel_scope.cancel()

    async def _create_queries(self) -> None:
        while True:
            (kind,) = self.random.choices([*KINDS], [*KINDS.values()])
            self._ask(kind, push=self.random.random() < 0.7)
            await trio.sleep(self.random.expovariate(RATE))

    def _ask(self, kind: str, *, push: bool = True) -> None:
        self._number += 1
        self.webbuddy.add_query(make_text(self._number, kind), push=push)

    # --- At rest ----------------------------------------------------------------------------------------

    async def _come_to_rest(self) -> None:
        with trio.move_on_after(STUCK) as patience:
            while not (self.webbuddy.all_ended() and await self._holds_nothing()):  # noqa: ASYNC110
                await trio.sleep(REST)
        if patience.cancelled_caught:
            self.problems.append(f"{self._minutes:.1f} min: not through after {STUCK:g} s: {self._stuck()}")
        self._check_queries()
        await self._check_figures()
        self._check_lines()
        await self._read()

    async def _holds_nothing(self) -> bool:
        figures = await self._figures()
        return not any(total(figures, name) for name in ("held_queries", "lost_claims", "left_behind"))

    def _stuck(self) -> list[str]:
        """The first queries that have not ended, and what the worker has said last."""
        waiting = self.webbuddy.with_status("queued", "in_progress")
        return [*(f"{query.query_text} {query.statuses}" for query in waiting[:5]), *self.worker.lines[-50:]]

    def _check_queries(self) -> None:
        """Each has ended as its handler ended it, once; then it is forgotten, as there will be too many."""
        for query in list(self.webbuddy.queries.values()):
            self.ended[query.status] += 1
            ends = [change.status for change in query.history if change.status in ("done", "failed")]
            if len(ends) != 1:
                told = [(one.status, round(one.at - self.began_at, 2)) for one in query.history]
                self.problems.append(f"{query.query_text} has ended {len(ends)} times: {told}")
            problem = problem_of(query.query_text, query.status, query.answer_text)
            if problem is not None:
                self.problems.append(f"{problem}; {query.statuses}; {query.logs[:10]}")
            self.webbuddy.delete_query(query.id)

    async def _check_figures(self) -> None:
        figures = await self._figures()
        for outcome in ("done", "failed"):
            figure = total(figures, "queries_total", outcome)
            if figure != self.ended[outcome]:
                self.problems.append(
                    f"{self._minutes:.1f} min: {self.ended[outcome]} are {outcome}; /metrics says {figure:g}"
                )
        answer = await self.client.get("/readyz")
        if answer.status_code != 200:
            self.problems.append(f"{self._minutes:.1f} min: all is well, and /readyz says {answer.text}")

    def _check_lines(self) -> None:
        for line in self.worker.lines:
            event = json.loads(line)
            self.events[event["event"]] += 1
            is_raised = event["event"] == "the handler raised" and "ZeroDivisionError" in event["exception"]
            if event["level"] == "critical" or ("exception" in event and not is_raised):
                self.problems.append(f"in its log: {line}")
        self.worker.lines.clear()

    async def _read(self) -> None:
        """Read what may grow, when it is down to where it was, or has had the time for that."""
        with trio.move_on_after(AT_REST):
            while self.readings and not self._is_down(self._amounts()):  # noqa: ASYNC110
                await trio.sleep(REST)
        minutes, ended, amounts = self._minutes, self.ended.total(), self._amounts()
        # The least of some: a poll may be under way just then.
        tasks = min([await self._tasks() for _ in range(1 if self.readings else 4)])
        with trio.move_on_after(AT_REST):
            while self.readings and tasks > self.readings[0].tasks:
                await trio.sleep(0.5)
                tasks = await self._tasks()
        self.readings.append(Reading(minutes, ended, *amounts, tasks))

    async def _tasks(self) -> int:
        """Ask the handler, behind the reading of threads: it takes one."""
        query = self.webbuddy.add_query("tasks")
        await self.webbuddy.until(lambda: query.status == "done", within=STUCK)
        while not await self._holds_nothing():  # noqa: ASYNC110
            await trio.sleep(REST)
        self.webbuddy.delete_query(query.id)
        self.ended["done"] += 1
        return int(query.answer_text)

    def _amounts(self) -> tuple[float, int, int]:
        process = Process(self.worker.process.pid, Path(os.devnull))
        return process.memory(), process.files(), len(os.listdir(f"/proc/{process.pid}/task"))

    def _is_down(self, amounts: tuple[float, int, int]) -> bool:
        first, (_, files, threads) = self.readings[0], amounts
        return files <= first.files and threads <= first.threads

    @property
    def _minutes(self) -> float:
        return (trio.current_time() - self.began) / 60

    # --- Those who look ---------------------------------------------------------------------------------

    async def _figures(self) -> dict[Sample, float]:
        return parse((await self.client.get("/metrics")).text)

    async def _scrape(self) -> None:
        while True:
            alive, ready = await self.client.get("/livez"), await self.client.get("/readyz")
            if alive.status_code != 200:
                self.problems.append(f"{self._minutes:.1f} min: /livez says {alive.text}")
            self.reasons.update([*ready.json()["reasons"]])
            await self._figures()
            await trio.sleep(LOOK)

    async def _watch_page(self) -> None:
        while True:
            try:
                async with self.client.stream("GET", "/status/events") as answer:
                    async for line in answer.aiter_lines():
                        self.snapshots += line == "event: snapshot"
            except httpx.RemoteProtocolError:
                pass
            self.problems.append(f"{self._minutes:.1f} min: the status page's stream was cut")


@asynccontextmanager
async def _soaked(name: str, directory: Path, seed: int) -> AsyncIterator[Soak]:
    """Run a worker, and see it stop as it should."""
    await trio.Path(directory).mkdir()
    webbuddy = WebBuddy()
    async with serve_webbuddy(webbuddy) as url:
        handler = f"tests.soak_agent:{name}"
        started = start_worker(directory, webbuddy_url=url, **SETTINGS, WORKER_HANDLER=handler)
        async with started as worker:
            await worker.until(lambda line: "Running on" in line)
            webbuddy.push_url = worker.url
            # Two connections, the page's and another, always: those that come and go would be counted.
            limits = httpx.Limits(max_connections=2, keepalive_expiry=None)
            asking = httpx.AsyncClient(base_url=worker.url, timeout=60, limits=limits, trust_env=False)
            async with asking as client:
                random = Random(f"{name} {seed}")  # noqa: S311 - nothing is to be kept secret
                soak = Soak(name=name, webbuddy=webbuddy, worker=worker, client=client, random=random)
                yield soak
            worker.process.send_signal(signal.SIGTERM)
            code = await worker.wait()
            await worker.silent.wait()
            if code != 0:
                soak.problems.append(f"it has ended with {code}: {worker.output[-5000:]}")
    soak.problems += problems_of_journals(directory / "state")


async def run_soak(
    directory: Path, *, minutes: float, seconds: float, seed: int = 1, faults: Sequence[str] = FAULTS
) -> list[Soak]:
    """Soak both workers.

    Args:
        directory: An empty one.
        minutes: In which rounds begin, between which all comes to rest; one at least.
        seconds: Of each fault, and of the pause behind it.
        seed: Of queries and faults.
        faults: Those of each round.
    """
    async with (
        _soaked("handle", directory / "async", seed) as one,
        _soaked("plain", directory / "plain", seed) as other,
        trio.open_nursery() as nursery,
    ):
        for soak in (one, other):
            nursery.start_soon(soak.run, faults, seconds, minutes)
    return [one, other]


def main() -> int:
    """Run from the command line.

    Returns:
        The exit code: 0 when nothing has grown, was lost or was wrong.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seconds", type=float, default=4, help="of each fault, and of the pause behind it")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        run = partial(run_soak, Path(directory), **vars(options), faults=(*FAULTS, *LONG))
        soaks = trio.run(run)
    problems = []
    for soak in soaks:
        print(f"{soak.name}: {soak.ended.total()} queries; the page's stream has told {soak.snapshots} times")
        print("\n".join(table(soak.readings)))
        print(f"not ready at so many looks: {dict(soak.reasons)}")
        print(f"lines of its log: {dict(soak.events.most_common())}")
        problems += [f"{soak.name}: {problem}" for problem in soak.problems]
        problems += [f"{soak.name}: {problem}" for problem in growth(soak.readings[1:], memory=MEMORY)]
    print("\n".join(problems) or "nothing has grown, nothing was lost")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
