"""Days in the lives of whole workers, in which much goes wrong; and that it would be noticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

import httpx
import pytest

from trio_worker.runners import Job
from trio_worker.takeover import OwnJournal
from trio_worker.testing.simulated_chance import repeatable
from trio_worker.testing.simulated_crash import Doors
from trio_worker.testing.simulated_network import Way
from trio_worker.testing.simulation import main, simulate

T = TypeVar("T")


@pytest.mark.parametrize("seed", range(12))
def test_a_bad_day(seed: int) -> None:
    """Crashes, outages, lost answers and interfering people: no query is lost, stuck or answered wrongly."""
    world = simulate(days=1, seed=seed, workers=1 + seed % 2, trouble=10)
    assert world.problems == [], f"python -m trio_worker.testing.simulation {world.command}"
    assert world.counts["done"] > 10
    assert world.counts["deaths"] > 5
    assert world.counts["glitches"] > 100


def test_the_same_seed_is_the_same_day() -> None:
    """What went wrong can be looked at again, and another seed is another day."""
    with repeatable(0) as can_be_repeated:
        assert can_be_repeated
    first, again, other = (simulate(days=0.3, seed=seed, workers=2, trouble=20) for seed in (1, 1, 2))
    assert (first.digest, first.counts) == (again.digest, again.counts)
    assert first.digest != other.digest


class LyingDisk(Doors):
    """Says that all is written, and writes nothing once it is open."""

    def runner(self, function: Callable[[], T]) -> Job[T]:
        if self.own is not None and getattr(function, "func", None) == self.own.file.apply:
            return super().runner(lambda: None)  # type: ignore[arg-type, return-value]
        return super().runner(function)


class Deaf(Way):
    """Takes all log entries, and keeps none."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/api/logs/"):
            return httpx.Response(201, json={"id": 1})
        return await super().handle_async_request(request)


class Forgetful(Way):
    """Takes all results, and forgets them."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "PATCH":
            return httpx.Response(200, json={"id": 1})
        return await super().handle_async_request(request)


class Confused(Way):
    """Takes each result for another's."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "PATCH":
            body = (await request.aread()).replace(b"answer of run", b"answer of walk")
            request = httpx.Request("PATCH", request.url, headers=request.headers, content=body)
            request.headers["Content-Length"] = str(len(body))
        return await super().handle_async_request(request)


class Unchanging(Way):
    """Shows each query as it was when it was claimed: nobody sees what has become of it since."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        super().__init__(inner)
        self.claimed: dict[str, dict[str, object]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        number = request.url.path.removesuffix("/").rpartition("/")[2]
        if request.method == "GET" and number in self.claimed:
            return httpx.Response(200, json=self.claimed[number])
        if number == "by_status":
            return httpx.Response(200, json={"results": list(self.claimed.values()), "next": None})
        response = await super().handle_async_request(request)
        if number == "claim_next" and response.status_code == 200:
            self._remember(await response.aread())
        return response

    def _remember(self, answer: bytes) -> None:
        try:
            query = json.loads(answer)
        except ValueError:
            return  # garbage
        self.claimed[str(query["id"])] = query


class Twice(Way):
    """Adds each log entry twice."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/api/logs/"):
            body = await request.aread()
            first = httpx.Request("POST", request.url, headers=request.headers, content=body)
            await super().handle_async_request(first)
        return await super().handle_async_request(request)


class Belated(Way):
    """Reports the first answer to a query once more, after the answer of a later run."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        super().__init__(inner)
        self.first: dict[httpx.URL, bytes] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if request.method == "PATCH" and b"answer of run" in (body := await request.aread()):
            first = self.first.setdefault(request.url, body)
            if json.loads(first)["answer_text"] != json.loads(body)["answer_text"]:
                again = httpx.Request("PATCH", request.url, headers=request.headers, content=first)
                again.headers["Content-Length"] = str(len(first))
                await super().handle_async_request(again)
        return response


class Forgetting(Doors):
    """Has a process that takes over forget the last line of each log."""

    def runner(self, function: Callable[[], T]) -> Job[T]:
        def forget() -> T:
            result = function()
            if isinstance(result, OwnJournal):
                for entry in result.found.entries:
                    del entry.lines[-1:]
            return result

        return super().runner(forget)


@pytest.mark.parametrize(
    ("doors", "way", "trouble", "first", "noticed"),
    [
        (LyingDisk, Way, 10, 1, "on disk"),
        (Doors, Deaf, 0.1, 1, "its log lacks"),
        (Doors, Forgetful, 0.1, 1, "stuck"),
        (Doors, Confused, 0.1, 1, "wrong: it is done with 'answer of walk"),
        (Doors, Unchanging, 10, 1, "without a look"),
        (Doors, Twice, 0.1, 1, "its log has '<1.1>' 2 times, and no answer was lost"),
        (Doors, Belated, 20, 5, "by a claim, after a later claim of ours had ended it"),
        (Forgetting, Way, 20, 2, "which was on disk when its process died"),
    ],
)
def test_a_fault_is_noticed(
    doors: type[Doors], way: type[Way], trouble: float, first: int, noticed: str
) -> None:
    """The days that go well do so since nothing is wrong, not since nobody looks.

    Where a seed's day has changed since this was written, one of the next will do.
    """
    for seed in range(first, first + 8):
        world = simulate(days=1, seed=seed, trouble=trouble, doors=doors, way=way)
        if any(noticed in problem.text for problem in world.problems):
            return
    pytest.fail("nobody has noticed")


def test_the_command_prints_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    """A table, and exit code 0 where nothing is wrong."""
    assert main(["--days", "0.2", "--seed", "3"]) == 0
    assert "queries" in capsys.readouterr().out


def test_many_seeds_in_one_command(capsys: pytest.CaptureFixture[str]) -> None:
    """What CI runs: the sums of all, and the exit code of the worst."""
    assert main(["--days", "0.1", "--seed", "3", "--seeds", "2"]) == 0
    assert "0.1 days of 2 seeds" in capsys.readouterr().out
