"""Queries that were handed out in answers that never came: found, put back, and nobody else's touched."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from trio_worker import clock
from trio_worker.credentials import Credentials
from trio_worker.errors import Unavailable
from trio_worker.held import Held
from trio_worker.journal import Journal, open_journal
from trio_worker.lost_claims import LostClaims
from trio_worker.phrases import ENGLISH
from trio_worker.query import Done
from trio_worker.runners import inline
from trio_worker.state_folder import Address, StateFolder
from trio_worker.testing import StoredQuery, WebBuddy, trio_time
from trio_worker.webbuddy import WebBuddyClient, open_webbuddy

PUT_BACK = "put back: the answer that handed it out was lost"
REPORTED = "a query was handed out in an answer that was lost; `trio-worker stuck` puts it back"

AHEAD = 3600.0  # seconds by which WebBuddy's clock is ahead of ours


@pytest.fixture(autouse=True)
def virtual_time() -> Iterator[None]:
    """Our own clock follows Trio's; WebBuddy's is an hour ahead of it."""
    before = clock.source.set(trio_time())
    yield
    clock.source.reset(before)


@attrs.define
class Scene:
    """A worker's door and journal, and what looks for lost claims."""

    webbuddy: WebBuddy
    client: WebBuddyClient
    journal: Journal
    lost: LostClaims
    unclaimed: set[int] = attrs.field(factory=set)

    async def lose(self, query: StoredQuery | None = None) -> StoredQuery:
        """Lose the answer to a claim, as the worker does: the time is noted."""
        query = query or self.webbuddy.add_query("x")
        self.webbuddy.cut_next(endpoint="claim_next", after_commit=True)
        began = self.client.server_now()
        with pytest.raises(Unavailable):
            await self.client.claim_next()
        self.journal.note_lost(began, self.client.server_now())
        assert query.status == "in_progress"
        return query

    async def claim(self, text: str = "y") -> StoredQuery:
        """Have another worker claim a query, in this moment."""
        query = self.webbuddy.add_query(text)
        self.webbuddy.claim(query, self.webbuddy.accounts[1])
        await trio.lowlevel.checkpoint()
        return query


@asynccontextmanager
async def open_scene(
    mode: Any = "requeue", folder: StateFolder | None = None, **knobs: Any
) -> AsyncIterator[Scene]:
    real = trio_time()
    webbuddy = WebBuddy(now=lambda: real() + AHEAD, **knobs)
    named: set[int] = set()
    async with (
        webbuddy.running(),
        open_webbuddy(
            url=webbuddy.url,
            credentials=Credentials("worker", "secret"),
            request_timeout=30,
            transport=webbuddy.transport(),
        ) as client,
        open_journal(folder, runner=inline) as journal,
        trio.open_nursery() as nursery,
    ):
        await client.log_in()
        lost = LostClaims(webbuddy=client, journal=journal, mode=mode, unclaimed=lambda: named)
        nursery.start_soon(lost.find)
        yield Scene(webbuddy, client, journal, lost, named)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def scene(autojump_clock: MockClock) -> AsyncIterator[Scene]:
    async with open_scene() as scene:
        yield scene


def events_about(events: list[EventDict], text: str) -> list[int]:
    return [event["query"] for event in events if event["event"] == text]


async def wait_until(condition: Callable[[], bool], within: float) -> float:
    """Wait for it in virtual time, and give the seconds that it took."""
    began = trio.current_time()
    while not condition():
        assert trio.current_time() - began <= within, "it took too long"
        await trio.sleep(1)
    return trio.current_time() - began


# --- What is found -------------------------------------------------------------------------------


async def test_a_lost_query_is_put_back(
    scene: Scene, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """After two looks that are a minute apart; the operator is told, and the note is dropped."""
    query = await scene.lose()
    took = await wait_until(lambda: query.status == "queued", within=125)
    assert took >= 60
    assert query.statuses == ["queued", "in_progress", "queued"]
    await wait_until(lambda: not scene.journal.lost, within=130)
    assert events_about(events, PUT_BACK) == [query.id]
    assert scene.lost.found == 1


async def test_all_that_were_lost(scene: Scene, autojump_clock: MockClock) -> None:
    """Several claims, at different times, each with its own query."""
    queries = []
    for _ in range(3):
        queries.append(await scene.lose())
        await trio.sleep(45)
    await wait_until(lambda: all(query.status == "queued" for query in queries), within=200)
    await wait_until(lambda: not scene.journal.lost, within=200)


async def test_a_claim_that_brought_nothing(scene: Scene, autojump_clock: MockClock) -> None:
    """The queue was empty when the answer was lost: the note is dropped, nothing is changed."""
    scene.journal.note_lost(scene.client.server_now(), scene.client.server_now())
    await wait_until(lambda: not scene.journal.lost, within=200)
    assert scene.webbuddy.count("patch") == 0
    assert scene.lost.found == 0


async def test_without_a_note_nobody_asks(scene: Scene, autojump_clock: MockClock) -> None:
    """A worker that has lost nothing costs WebBuddy nothing."""
    await scene.claim()
    await trio.sleep(3600)
    assert scene.webbuddy.count("by_status") == 0


async def test_what_was_logged_before_the_claim_does_not_count(
    scene: Scene, autojump_clock: MockClock
) -> None:
    """A query that had been put back earlier has a log already."""
    query = scene.webbuddy.add_query("x")
    scene.webbuddy.claim(query, scene.webbuddy.accounts[1])
    scene.webbuddy.add_entry(query, 1, "Claimed by another")
    scene.webbuddy.requeue(query.id)
    await trio.sleep(10)
    scene.webbuddy.cut_next(endpoint="claim_next", after_commit=True)
    began = scene.client.server_now()
    with pytest.raises(Unavailable):
        await scene.client.claim_next()
    scene.journal.note_lost(began, scene.client.server_now())
    await wait_until(lambda: query.status == "queued", within=125)


async def test_looks_that_fail_bring_the_second_one_no_nearer(
    scene: Scene, autojump_clock: MockClock
) -> None:
    """After a failure it looks soon again; what was found before that still has its minute."""
    webbuddy = scene.webbuddy
    old = webbuddy.add_query("put back before")
    webbuddy.claim(old, webbuddy.accounts[1])
    webbuddy.add_entry(old, 1, "Claimed by another")
    webbuddy.requeue(old.id)
    await trio.sleep(10)
    await scene.lose(old)
    lost = await scene.lose()
    webbuddy.fail_next(502, calls=6, endpoint="query_logs")  # as for a minute or so, with pauses that grow
    await webbuddy.until(lambda: webbuddy.count("query_logs") == 1)
    assert await wait_until(lambda: lost.status == "queued", within=300) >= 59
    await wait_until(lambda: old.status == "queued", within=300)


async def test_more_than_a_page(scene: Scene, autojump_clock: MockClock) -> None:
    """It may be on WebBuddy's last page."""
    query = await scene.lose()
    await trio.sleep(10)
    for _ in range(120):
        await scene.claim()
    await wait_until(lambda: query.status == "queued", within=125)
    assert len(scene.webbuddy.with_status("in_progress")) == 120


async def test_one_that_the_first_look_misses(scene: Scene, autojump_clock: MockClock) -> None:
    """A list that changes while its pages are read may lack it; the next look has it."""
    began = scene.client.server_now()
    await trio.sleep(310)
    scene.journal.note_lost(began, began + 20)
    await trio.sleep(70)  # the first look was at 360
    query = await scene.claim()
    query.started = began + 10
    await wait_until(lambda: query.status == "queued", within=130)


# --- What is not touched -------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [-10.0, 10.0])
async def test_one_that_was_claimed_at_another_time(
    scene: Scene, autojump_clock: MockClock, seconds: float
) -> None:
    """Before or after a lost claim: it is somebody's who is slow to say so."""
    await trio.sleep(100)
    query = await scene.claim()
    await trio.sleep(max(0.0, -seconds))
    at = scene.client.server_now() if seconds < 0 else scene.client.server_now() - seconds
    scene.journal.note_lost(at - 1, at)
    await wait_until(lambda: not scene.journal.lost, within=200)
    assert query.status == "in_progress"


@pytest.mark.parametrize("when", [1.0, 100.0])
async def test_one_whose_worker_says_something(scene: Scene, autojump_clock: MockClock, when: float) -> None:
    """It was claimed at just that time, by a worker that lives: at the first look or at the second."""
    query = await scene.claim()
    scene.journal.note_lost(scene.client.server_now() - 1, scene.client.server_now())
    await trio.sleep(when)
    scene.webbuddy.add_entry(query, 1, "Claimed by another")
    await wait_until(lambda: not scene.journal.lost, within=200)
    assert query.status == "in_progress"
    assert (scene.webbuddy.count("patch"), scene.lost.found) == (0, 0)


async def test_one_that_is_claimed_again_in_between(scene: Scene, autojump_clock: MockClock) -> None:
    """A person put it back, and somebody has it now."""
    query = await scene.lose()
    await trio.sleep(100)
    scene.webbuddy.requeue(query.id)
    scene.webbuddy.claim(query, scene.webbuddy.accounts[1])
    await wait_until(lambda: not scene.journal.lost, within=200)
    assert scene.webbuddy.count("patch") == 0


@pytest.mark.parametrize("status", ["done", "queued", None])
async def test_one_that_has_ended_in_between(
    scene: Scene, autojump_clock: MockClock, events: list[EventDict], status: str | None
) -> None:
    """Ended, put back or deleted by a person: it needs no help."""
    query = await scene.lose()
    await trio.sleep(100)
    if status is None:
        scene.webbuddy.delete_query(query.id)
    else:
        scene.webbuddy.set_status(query, status, scene.webbuddy.accounts[2])
    await wait_until(lambda: not scene.journal.lost, within=200)
    assert scene.webbuddy.count("patch") == 0
    assert not [event for event in events if event["log_level"] == "warning"]


async def test_one_that_is_held_here(tmp_path: Path, autojump_clock: MockClock) -> None:
    """By this process, or by another one of the same folder: its log may be late, it is at work."""
    folder = StateFolder(tmp_path, Address("http://localhost:8000", "worker"))
    async with open_scene(folder=folder) as scene, open_journal(folder, runner=inline) as neighbour:
        lost = await scene.lose()
        for journal in (scene.journal, neighbour):
            query = await scene.client.get_query((await scene.claim()).id)
            await Held.claimed(journal, query, "poll", ENGLISH)[1].durable()
        await wait_until(lambda: lost.status == "queued", within=200)
        await trio.sleep(200)
        assert len(scene.webbuddy.with_status("in_progress")) == 2
        assert scene.webbuddy.count("patch") == 1
        for journal in (scene.journal, neighbour):
            for entry in list(journal.entries.values()):
                journal.forget(entry)


@pytest.mark.parametrize("whose", ["ours", "a neighbour's"])
async def test_one_whose_earlier_claim_is_still_held(
    whose: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Put aside for an hour, and requeued meanwhile: the later claim is found when that is over."""
    folder = StateFolder(tmp_path, Address("http://localhost:8000", "worker"))
    async with open_scene(folder=folder) as scene, open_journal(folder, runner=inline) as neighbour:
        journal = scene.journal if whose == "ours" else neighbour
        earlier = await scene.client.get_query((await scene.claim()).id)
        held, receipt = Held.claimed(journal, earlier, "poll", ENGLISH)
        await receipt.durable()
        query = scene.webbuddy.queries[earlier.id]
        await trio.sleep(100)
        scene.webbuddy.set_status(query, "queued", scene.webbuddy.accounts[2])
        await scene.lose(query)
        await trio.sleep(3600)
        assert query.status == "in_progress"
        held.forget()
        await wait_until(lambda: query.status == "queued", within=200)
        await wait_until(lambda: not scene.journal.lost, within=200)


async def test_a_dead_letter_hides_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A person has put its query back, and the answer to the next claim of it was lost."""
    folder = StateFolder(tmp_path, Address("http://localhost:8000", "worker"))
    async with open_scene(folder=folder) as scene:
        earlier = await scene.client.get_query((await scene.claim()).id)
        held, _ = Held.claimed(scene.journal, earlier, "poll", ENGLISH)
        held.end(Done("refused"))
        held.died("400: it is too long")
        await trio.sleep(100)
        query = scene.webbuddy.queries[earlier.id]
        scene.webbuddy.set_status(query, "queued", scene.webbuddy.accounts[2])
        await scene.lose(query)
        await wait_until(lambda: query.status == "queued", within=200)


async def test_notes_do_not_pile_up(scene: Scene, autojump_clock: MockClock, events: list[EventDict]) -> None:
    """Where no list can be read, for good: the oldest notes go, and the operator is told once."""
    scene.webbuddy.fail_next(500, calls=10**9, endpoint="by_status")
    for _ in range(150):
        now = scene.client.server_now()
        scene.journal.note_lost(now, now + 1)
        await trio.sleep(300)
    assert len(scene.journal.lost) == 100
    assert sum("trio-worker stuck" in event["event"] for event in events) == 1


async def test_one_that_is_taken_up_in_between(scene: Scene, autojump_clock: MockClock) -> None:
    """Written down here only after the first look."""
    query = await scene.lose()
    await trio.sleep(100)
    Held.claimed(scene.journal, await scene.client.get_query(query.id), "poll", ENGLISH)
    await wait_until(lambda: not scene.journal.lost, within=200)
    assert (query.status, scene.webbuddy.count("patch")) == ("in_progress", 0)


# --- When WebBuddy is not well -------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ["by_status", "read", "patch"])
async def test_an_outage(scene: Scene, autojump_clock: MockClock, endpoint: str) -> None:
    """It is sat out, in whichever step it comes; nothing is forgotten, and nothing done twice."""
    query = await scene.lose()
    scene.webbuddy.fail_next(503, endpoint=endpoint, calls=3)
    await wait_until(lambda: query.status == "queued", within=1000)
    await wait_until(lambda: not scene.journal.lost, within=1000)
    assert query.statuses.count("queued") == 2
    assert scene.lost.found == 1


async def test_a_lost_answer_to_the_putting_back(
    scene: Scene, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """Another look shows that it has gone back already."""
    query = await scene.lose()
    scene.webbuddy.cut_next(endpoint="patch", after_commit=True)
    await wait_until(lambda: not scene.journal.lost, within=1000)
    assert query.statuses == ["queued", "in_progress", "queued"]
    assert scene.webbuddy.count("patch") == 1


async def test_one_that_cannot_be_put_back(
    scene: Scene, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """WebBuddy refuses: said once, never repeated."""
    await scene.lose()
    scene.webbuddy.fail_next(
        403, endpoint="patch", headers={"Content-Type": "application/json"}, body=b'{"detail": "no"}', calls=9
    )
    await wait_until(lambda: not scene.journal.lost, within=1000)
    assert scene.webbuddy.count("patch") == 1
    assert "a query of a lost claim can't be put back" in [event["event"] for event in events]


async def test_a_page_now_and_then(scene: Scene, autojump_clock: MockClock, events: list[EventDict]) -> None:
    """Two looks that meet a proxy's page, with a good one in between, say nothing about WebBuddy."""
    query = await scene.lose()
    scene.webbuddy.fail_next(404, endpoint="by_status")
    await wait_until(lambda: scene.webbuddy.count("by_status", 200) == 1, within=200)
    scene.webbuddy.fail_next(404, endpoint="by_status")
    await wait_until(lambda: not scene.journal.lost, within=500)
    assert query.status == "queued"
    assert not [event for event in events if "announced" in event]


async def test_the_look_waits_for_the_late(scene: Scene, autojump_clock: MockClock) -> None:
    """A note is kept for a minute after its end, however early the first looks were."""
    until = scene.client.server_now() + 300
    scene.journal.note_lost(scene.client.server_now(), until)
    await wait_until(lambda: not scene.journal.lost, within=500)
    assert scene.client.server_now() >= until + 59


# --- Only told -----------------------------------------------------------------------------------


async def test_report(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """Told once, never changed; the note is dropped."""
    async with open_scene("report") as scene:
        query = await scene.lose()
        await wait_until(lambda: not scene.journal.lost, within=200)
        await scene.lose()
        await wait_until(lambda: not scene.journal.lost, within=200)
        assert query.status == "in_progress"
        assert scene.webbuddy.count("patch") == 0
        assert events_about(events, REPORTED) == [1, 2]
        assert scene.lost.found == 2


async def test_without_the_time_of_the_claim(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """Told of those that a push had named, that nobody works on; never put back."""
    async with open_scene(shows_started=False) as scene:
        query = await scene.lose()
        at_work, unnamed = await scene.claim(), await scene.claim()
        scene.webbuddy.add_entry(at_work, 1, "Claimed by another")
        scene.unclaimed |= {query.id, at_work.id, 99}
        await wait_until(lambda: not scene.journal.lost, within=300)
        assert events_about(events, REPORTED) == [query.id]
        assert (query.status, unnamed.status) == ("in_progress", "in_progress")


async def test_without_a_way_to_see_the_log(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """Where it can't be seen whether anything was logged, nothing is put back."""
    async with open_scene(missing=frozenset({"query_logs"})) as scene:
        query = await scene.lose()
        scene.webbuddy.add_entry(query, 1, "of whichever attempt")
        await wait_until(lambda: not scene.journal.lost, within=300)
        assert events_about(events, REPORTED) == [query.id]
        assert scene.webbuddy.count("patch") == 0


@pytest.mark.parametrize("missing", ["by_status", "read"])
async def test_without_the_reads(autojump_clock: MockClock, events: list[EventDict], missing: str) -> None:
    """One warning, with what pushes have named; the note is dropped."""
    async with open_scene(missing=frozenset({missing})) as scene:
        await scene.lose()
        scene.unclaimed |= {1, 7}
        for _ in range(20):
            await trio.sleep(30)
            await scene.client.claim_next()  # as a worker does all the time
        assert not scene.journal.lost
        await scene.lose()
        for _ in range(20):
            await trio.sleep(30)
            await scene.client.claim_next()
        assert not scene.journal.lost
        warnings = [event for event in events if event["log_level"] == "warning"]
        assert [event["announced"] for event in warnings] == [[1, 7]]
        assert scene.webbuddy.count("patch") == 0


async def test_a_proxys_page_is_no_missing_read(
    scene: Scene, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """While a backend is replaced its proxy may say 404 to all calls: that is an outage."""
    query = await scene.lose()
    scene.webbuddy.fail_next(404, calls=5)
    await wait_until(lambda: query.status == "queued", within=1000)
    assert not [event for event in events if "announced" in event]
