"""Wake-ups that one worker is not free for reach another, and cost few claims; all in virtual time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio
from trio.testing import MockClock

from tests.fleet import claims, keep_the_first_busy, waited, workers
from trio_worker.bus import MOST_HINTS, Hint
from trio_worker.bus_redis import WAIT_SECONDS
from trio_worker.orders import pause
from trio_worker.state_folder import Address, StateFolder
from trio_worker.testing import WebBuddy
from trio_worker.testing.memory_bus import MemoryBus


async def test_a_push_to_a_busy_worker_reaches_one_that_is_free(
    webbuddy: WebBuddy, autojump_clock: MockClock
) -> None:
    """In a round trip or two; without a bus it waits for a poll."""
    found = {}
    for bus in (MemoryBus(), None):
        webbuddy.slow = 0.05
        async with workers(webbuddy, 4, bus):
            await keep_the_first_busy(webbuddy)
            created = []
            for _ in range(20):
                created.append(webbuddy.add_query("0.1").id)
                await trio.sleep(7.3)
            await webbuddy.until(lambda: len(webbuddy.with_status("done")) == 20)
            found[bus is None] = max(waited(webbuddy, number) for number in created)
        webbuddy.reset_database()
    assert found[False] <= 0.25
    assert found[True] > 1


async def test_of_fifty_idle_workers_one_claims(webbuddy: WebBuddy, autojump_clock: MockClock) -> None:
    """One claim for one query, and none by those who have nothing to find."""
    webbuddy.slow = 0.05
    async with workers(webbuddy, 51, MemoryBus(), polling_interval=86_400.0):
        await keep_the_first_busy(webbuddy)
        for _ in range(10):
            before = claims(webbuddy)
            query = webbuddy.add_query("1000")
            await trio.sleep(1)
            assert query.status == "in_progress"
            assert claims(webbuddy) - before == 1


async def test_a_burst_is_spread_over_all(webbuddy: WebBuddy, autojump_clock: MockClock) -> None:
    """Not the first to be woken gets it all, though it has room for most of it."""
    webbuddy.slow = 0.05
    async with workers(webbuddy, 4, MemoryBus(), num_workers=6) as found:
        for _ in range(6):
            await keep_the_first_busy(webbuddy)
        for _ in range(9):
            webbuddy.add_query("1000")
        await trio.sleep(2)
        held = [len(worker.journal.entries) if worker.journal else 0 for worker in found]
    assert held[0] == 6
    assert sum(held) == 15
    assert max(held[1:]) <= 5


@asynccontextmanager
async def beside_a_full_one(webbuddy: WebBuddy, count: int, bus: MemoryBus) -> AsyncIterator[None]:
    """Run a worker that is full and is pushed to, and others with twenty consumers each."""
    webbuddy.slow = 0.05
    async with workers(webbuddy, 1, bus, polling_interval=86_400.0):
        push = webbuddy.push_url, webbuddy.push_transport
        await keep_the_first_busy(webbuddy)
        async with workers(webbuddy, count, bus, num_workers=20, polling_interval=86_400.0):
            webbuddy.push_url, webbuddy.push_transport = push
            yield


@pytest.mark.parametrize(("count", "rate"), [(1, 40), (3, 100)])
async def test_a_steady_flow_is_not_held_up_by_round_trips(
    count: int, rate: int, webbuddy: WebBuddy, autojump_clock: MockClock
) -> None:
    """More queries a second than each free worker has round trips: none waits, and each costs a claim."""
    async with beside_a_full_one(webbuddy, count, MemoryBus()):
        before, numbers = claims(webbuddy), []
        for _ in range(4 * rate):
            numbers.append(webbuddy.add_query("0.2").id)
            await trio.sleep(1 / rate)
        await webbuddy.until(lambda: len(webbuddy.with_status("done")) == len(numbers))
        waits = sorted(waited(webbuddy, number) for number in numbers)
        assert waits[int(len(waits) * 0.99)] <= 0.25
        assert (claims(webbuddy) - before) / len(numbers) <= 1.2


async def test_what_was_claimed_for_ahead_is_given_back_when_that_fails(
    webbuddy: WebBuddy, autojump_clock: MockClock
) -> None:
    """Each hint, and none of those whose queries were found before."""
    bus = Counting()
    async with beside_a_full_one(webbuddy, 1, bus):
        for _ in range(8):  # 1, 1 ahead, 1, 3 ahead, 1, 1 ahead of 7
            query = webbuddy.add_query("0.1")
            await webbuddy.until(lambda query=query: query.status == "done")
            await trio.sleep(1)
        assert not bus.handed_back
        webbuddy.fail_next(503, calls=100, endpoint="claim_next")
        for _ in range(4):
            webbuddy.add_query("0.1")
        await trio.sleep(0.3)
        assert bus.handed_back == 4


async def test_what_is_left_of_a_burst_costs_two_claims_a_worker(
    webbuddy: WebBuddy, autojump_clock: MockClock
) -> None:
    """A hundred hints wait while all are busy; the queries are gone when the workers are free again."""
    bus = MemoryBus()
    async with workers(webbuddy, 4, bus, polling_interval=86_400.0):
        await keep_the_first_busy(webbuddy)
        for _ in range(3):
            query = webbuddy.add_query("100")
            await webbuddy.until(lambda query=query: query.status == "in_progress")
        for _ in range(100):
            query = webbuddy.add_query("1")
            webbuddy.set_status(query, "done", webbuddy.accounts[1])  # by somebody else
        await trio.sleep(10)
        before = claims(webbuddy)
        await trio.sleep(600)
        assert claims(webbuddy) - before <= 2 * 3


async def test_what_is_left_for_one_that_claims_ahead_costs_two_claims(
    webbuddy: WebBuddy, autojump_clock: MockClock
) -> None:
    """It has always found something, and so waits for no answer; then no hint is worth anything."""
    async with workers(webbuddy, 2, MemoryBus(), polling_interval=86_400.0):
        await keep_the_first_busy(webbuddy)
        for _ in range(7):
            query = webbuddy.add_query("0.1")
            await webbuddy.until(lambda query=query: query.status == "done")
        query = webbuddy.add_query("100")
        await webbuddy.until(lambda: query.status == "in_progress")
        for _ in range(100):
            query = webbuddy.add_query("1")
            webbuddy.set_status(query, "done", webbuddy.accounts[1])  # by somebody else
        await trio.sleep(10)
        before = claims(webbuddy)
        await trio.sleep(600)
        assert claims(webbuddy) - before <= 2


async def test_a_worker_alone_asks_no_more_than_without_a_bus(
    webbuddy: WebBuddy, autojump_clock: MockClock
) -> None:
    """Its own hints come back to it; it has looked already."""
    numbers = []
    for bus in (MemoryBus(), None):
        async with workers(webbuddy, 1, bus, num_workers=3):
            for index in range(50):
                webbuddy.add_query("10")
                await trio.sleep(0.1 * (index % 7))
            await webbuddy.until(webbuddy.all_ended)
            await trio.sleep(1)
        numbers.append(claims(webbuddy))
        webbuddy.calls.clear()
        webbuddy.reset_database()
    assert numbers[0] <= numbers[1] + 1  # a poll may fall differently


async def test_whoever_is_full_or_gone_takes_no_hint(webbuddy: WebBuddy, autojump_clock: MockClock) -> None:
    """It stays for one that is free."""
    async with workers(webbuddy, 4, MemoryBus(), polling_interval=86_400.0) as found:
        await keep_the_first_busy(webbuddy)
        await keep_the_first_busy(webbuddy)  # another one
        found[1].stop.ask()
        for _ in range(10):
            query = webbuddy.add_query("0.1")
            await webbuddy.until(lambda query=query: query.status == "done")
            assert waited(webbuddy, query.id) < 0.1


async def test_a_paused_worker_takes_no_hint(
    webbuddy: WebBuddy, autojump_clock: MockClock, tmp_path: Path
) -> None:
    """What is pushed to it is worked on by another one, which waits for hints."""
    bus = MemoryBus()
    pause(StateFolder(tmp_path, Address(webbuddy.url, "worker")))
    async with (
        workers(webbuddy, 1, bus, polling_interval=86_400.0, state_dir=tmp_path) as (paused,),
        workers(webbuddy, 1, bus, polling_interval=86_400.0),
    ):
        webbuddy.push_transport = httpx.ASGITransport(paused.front.app(webbuddy.url))  # type: ignore[arg-type]
        for _ in range(5):
            query = webbuddy.add_query("0.1")
            await webbuddy.until(lambda query=query: query.status == "done")
            assert waited(webbuddy, query.id) < 0.1
        assert "pause" in paused.front.readiness.reasons


async def test_in_an_outage_hints_are_left_alone(webbuddy: WebBuddy, autojump_clock: MockClock) -> None:
    """They would only make more claims that fail; after it, the backlog is found by all."""
    async with workers(webbuddy, 10, MemoryBus()):
        await keep_the_first_busy(webbuddy)
        webbuddy.down = True
        await trio.sleep(100)
        before = claims(webbuddy)
        for _ in range(9):
            webbuddy.add_query("1000")
        webbuddy.down = False
        await webbuddy.until(lambda: not webbuddy.with_status("queued"))
        assert claims(webbuddy) - before <= 2 * 9


async def test_whose_claim_fails_hands_its_hint_back(webbuddy: WebBuddy, autojump_clock: MockClock) -> None:
    """It is that worker which can't claim: the next one has the query at once."""
    async with workers(webbuddy, 3, MemoryBus(), polling_interval=86_400.0):
        await keep_the_first_busy(webbuddy)
        webbuddy.fail_next(503, calls=1, endpoint="claim_next")
        query = webbuddy.add_query("0.1")
        await webbuddy.until(lambda: query.status == "done")
        assert waited(webbuddy, query.id) < 0.001  # the other one tries again within a second


async def test_a_backlog_that_a_full_worker_sees_is_passed_on(
    webbuddy: WebBuddy, autojump_clock: MockClock
) -> None:
    """One finds it, by a poll, and has no room for more of it."""
    async with workers(webbuddy, 4, MemoryBus(), polling_interval=86_400.0) as found:
        for _ in range(4):
            webbuddy.add_query("3600", push=False)
        found[0].front.wakeups.tick()
        with trio.fail_after(1):
            await webbuddy.until(lambda: len(webbuddy.with_status("in_progress")) == 4)


async def test_a_bus_that_lies_costs_a_few_claims_a_second(
    webbuddy: WebBuddy, autojump_clock: MockClock
) -> None:
    """Hints without end, and no query."""

    class Liar(MemoryBus):
        async def take(self, wanted: Callable[[], bool]) -> Hint:
            await trio.lowlevel.checkpoint()
            return Hint(4711, 1)

        async def clear(self) -> bool:
            await trio.lowlevel.checkpoint()
            return True

    webbuddy.slow = 0.01
    async with workers(webbuddy, 1, Liar()):
        before = claims(webbuddy)
        await trio.sleep(60)
        assert claims(webbuddy) - before < 60 * 4
        query = webbuddy.add_query("0.1")
        await webbuddy.until(lambda: query.status == "done")
        assert waited(webbuddy, query.id) < 0.1


async def test_a_bus_that_repeats_what_it_is_told_is_left_alone_now_and_then(
    webbuddy: WebBuddy, autojump_clock: MockClock
) -> None:
    """A worker's own hints without end, each at once: it claims for none, and does little else than sleep."""

    class Echo(MemoryBus):
        taken = 0
        own: Hint | None = None

        def offer(self, hint: Hint) -> None:
            self.own = hint
            super().offer(hint)

        async def take(self, wanted: Callable[[], bool]) -> Hint | None:
            await trio.lowlevel.checkpoint()
            if self.own is None:
                return await super().take(wanted)
            self.taken += 1
            if self.taken > 120 * MOST_HINTS:
                raise AssertionError("there is no end of it")
            return self.own

    bus = Echo()
    async with workers(webbuddy, 1, bus, polling_interval=86_400.0):
        webbuddy.add_query("10")
        webbuddy.add_query("10")  # it is busy: that one is offered
        await webbuddy.until(webbuddy.all_ended)
        assert bus.own is not None
        before, claimed = bus.taken, claims(webbuddy)
        await trio.sleep(120)
        assert 0 < bus.taken - before <= 61 * MOST_HINTS
        assert claims(webbuddy) == claimed


class Counting(MemoryBus):
    """Counts how often each hint was offered that names a query. A push names each once."""

    def __init__(self, *, wait: float | None = None) -> None:
        super().__init__(wait=wait)
        self.times: Counter[Hint] = Counter()

    def offer(self, hint: Hint) -> None:
        if hint.query:
            self.times[hint] += 1
        super().offer(hint)

    @property
    def handed_back(self) -> int:
        return self.times.total() - len(self.times)


async def test_who_has_just_become_busy_hands_a_hint_back(
    webbuddy: WebBuddy, autojump_clock: MockClock
) -> None:
    """Redis gives it to one that was pushed to a moment ago; one that is free has it at once all the same."""
    bus = Counting(wait=3600)  # that no wait ends meanwhile
    async with workers(webbuddy, 4, bus, polling_interval=86_400.0) as found:
        await keep_the_first_busy(webbuddy)
        for worker in found[1:3]:  # one by one: each is given its own, and knows of nothing to pass on
            query = webbuddy.add_query("1000", push=False)
            worker.front.pushed(query.id)
            await webbuddy.until(lambda query=query: query.status == "in_progress")
        for _ in range(2):  # whoever was given the first comes last with the second
            query = webbuddy.add_query("0.1")
            await webbuddy.until(lambda query=query: query.status == "done")
            assert waited(webbuddy, query.id) < 0.1
    assert bus.handed_back


@pytest.mark.parametrize(
    ("bus", "most"), [(Counting(), 0), (Counting(wait=WAIT_SECONDS), 0.1)], ids=["pipe", "redis"]
)
async def test_a_hint_does_not_go_from_one_busy_worker_to_the_next(
    bus: Counting, most: float, webbuddy: WebBuddy, autojump_clock: MockClock
) -> None:
    """All are pushed to, half of them busy. Were nobody asked, every other hint would be handed back."""
    chance = random.Random(7)  # noqa: S311
    async with workers(webbuddy, 20, bus, polling_interval=86_400.0) as found:
        for _ in range(120):
            query = webbuddy.add_query(str(chance.uniform(5, 55)), push=False)
            chance.choice(found).front.pushed(query.id)
            await trio.sleep(chance.expovariate(20 * 0.5 / 30))
        await webbuddy.until(webbuddy.all_ended)
    assert len(bus.times) > 30
    assert bus.handed_back <= most * len(bus.times)
