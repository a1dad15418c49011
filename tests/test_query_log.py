"""Lines in, entries out: at most 40 of them, in order, and the last line always arrives."""

from __future__ import annotations

import itertools
import threading
import tracemalloc

import pytest
import trio
from trio.testing import MockClock

from trio_worker import Context, Query
from trio_worker.phrases import ENGLISH
from trio_worker.query_log import MOST_ENTRIES, MOST_HALF, MOST_LINE, PROMPT_ENTRIES, SEPARATOR, QueryLog
from trio_worker.testing import StoredQuery, WebBuddy, open_worker, trio_time


class Reader:
    """Ships a log to nowhere, and remembers what came when."""

    def __init__(self, round_trip: float = 0.0) -> None:
        self.log = QueryLog(ENGLISH, began=trio.current_time())
        self.round_trip = round_trip
        self.entries: list[str] = []
        self.times: list[float] = []

    async def read(self) -> None:
        while (entry := await self.log.next_entry()) is not None:
            self.entries.append(entry)
            self.times.append(trio.current_time())
            await trio.sleep(self.round_trip)
            self.log.sent()

    @property
    def text(self) -> str:
        return SEPARATOR.join(self.entries)


def numbers(text: str) -> list[int]:
    """The lines "line <n>" of a text, in order."""
    return [int(word) for before, word in itertools.pairwise(text.split()) if before == "line"]


# --- How many entries, and which lines ---------------------------------------------------------------


@pytest.mark.parametrize("pause", [0.0, 0.001, 0.3, 10.0])
@pytest.mark.parametrize("lines", [0, 1, 2, 40, 41, 1000])
async def test_at_most_forty_entries_and_no_line_is_lost(
    lines: int, pause: float, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Whatever the rate, up to a thousand lines all arrive, in order, in at most 40 entries."""
    reader = Reader(round_trip=0.05)
    nursery.start_soon(reader.read)
    for number in range(lines):
        reader.log.write(f"line {number}")
        await trio.sleep(pause)
    reader.log.close("the end")
    await trio.sleep(10)
    assert len(reader.entries) <= MOST_ENTRIES
    assert numbers(reader.text) == list(range(lines))
    assert reader.entries[-1].endswith("the end")


@pytest.mark.parametrize("lines", [10_000, 1_000_000])
async def test_a_flood_is_cut_in_the_middle(
    lines: int, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Of many lines at once the first and the last arrive, with a count of the others; in bounded memory."""
    reader = Reader()
    nursery.start_soon(reader.read)
    traced = 8_000  # the last lines; to trace all of them takes a quarter of a minute
    for number in range(lines - traced):
        reader.log.write(f"line {number}")
    tracemalloc.start()
    try:
        for number in range(lines - traced, lines):
            reader.log.write(f"line {number}")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    reader.log.close("the end")
    await trio.sleep(1)
    (entry,) = reader.entries
    assert peak < 500_000
    assert len(entry) < 2 * MOST_HALF + 100
    arrived = numbers(entry)
    assert arrived == sorted(arrived)
    assert arrived[0] == 0
    assert arrived[-1] == lines - 1
    assert f"[{lines - len(arrived)} more lines]" in entry
    assert entry.endswith("the end")


@pytest.mark.parametrize("line", ["x", "ж" * 100, "x" * 5_000_000], ids=["short", "middle", "long"])
async def test_memory_is_bounded_whatever_the_lines(line: str, autojump_clock: MockClock) -> None:
    """Short lines count with their times, long ones are cut: no log holds more than a few megabytes."""
    log = QueryLog(ENGLISH, began=0)
    tracemalloc.start()
    try:
        for _ in range(20_000 if len(line) < 1000 else 20):
            log.write(line)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_000_000
    log.close("the end")
    entry = await log.next_entry()
    assert entry is not None
    assert len(entry) < 2 * MOST_HALF + MOST_LINE


async def test_a_long_line_is_cut(autojump_clock: MockClock) -> None:
    """A line of megabytes is of no use on WebBuddy's page."""
    log = QueryLog(ENGLISH, began=0)
    log.write("x" * 1_000_000)
    assert await log.next_entry() == "x" * MOST_LINE + "…"


# --- When --------------------------------------------------------------------------------------------


async def test_the_schedule(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A handler that logs each second: 20 entries at once, then 1, 1.5, 2.25, … seconds apart."""
    reader = Reader()
    nursery.start_soon(reader.read)
    for number in range(3600):
        reader.log.write(f"line {number}")
        await trio.sleep(1)
    reader.log.close("the end")
    await trio.sleep(1)
    gaps = [later - earlier for earlier, later in itertools.pairwise(reader.times)]
    assert gaps[: PROMPT_ENTRIES - 1] == pytest.approx([1] * (PROMPT_ENTRIES - 1))
    late = gaps[PROMPT_ENTRIES - 1 : -1]
    assert len(late) > 15
    for number, gap in enumerate(late):
        assert 1.5**number - 0.01 <= gap <= max(1.5**number, 1) + 1.25
    assert numbers(reader.text) == list(range(3600))
    assert len(reader.entries) <= MOST_ENTRIES


async def test_the_first_line_comes_within_a_quarter_of_a_second(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A line is not kept waiting for more lines than that."""
    reader = Reader()
    nursery.start_soon(reader.read)
    await trio.sleep(100)
    reader.log.write("line 0")
    await trio.sleep(0.26)
    assert reader.times == pytest.approx([100.25])


async def test_lines_of_a_quarter_of_a_second_travel_together(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Each with the seconds since the claim, because WebBuddy's page shows no times."""
    reader = Reader()
    nursery.start_soon(reader.read)
    await trio.sleep(1)
    for number in range(3):
        reader.log.write(f"line {number}")
        await trio.sleep(0.1)
    await trio.sleep(1)
    assert reader.entries == ["+1.0s line 0 · +1.1s line 1 · +1.2s line 2"]


async def test_lines_written_during_a_request_travel_in_the_next(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Two requests for one log are never under way at once."""
    reader = Reader(round_trip=5)
    nursery.start_soon(reader.read)
    for number in range(10):
        reader.log.write(f"line {number}")
        await trio.sleep(0.4)
    await trio.sleep(10)
    assert len(reader.entries) == 2
    assert numbers(reader.text) == list(range(10))


async def test_the_end_is_not_kept_waiting(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Once the log is closed the rest goes out at once, however long the schedule's next pause."""
    reader = Reader()
    nursery.start_soon(reader.read)
    for number in range(1000):
        reader.log.write(f"line {number}")
        await trio.sleep(1)
    reader.log.close("the end")
    await trio.sleep(0.001)
    assert numbers(reader.text) == list(range(1000))
    assert reader.entries[-1].endswith("the end")


# --- What else is promised ---------------------------------------------------------------------------


async def test_blank_lines_are_left_out(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """WebBuddy refuses them."""
    reader = Reader()
    nursery.start_soon(reader.read)
    for text in ("", "  ", "\n", "\0"):
        reader.log.write(text)
        await trio.sleep(1)
    reader.log.close("\0")
    await trio.sleep(1)
    assert reader.entries == []


async def test_what_is_written_after_the_end_is_ignored(autojump_clock: MockClock) -> None:
    """The context of a handler that was left behind is dead."""
    log = QueryLog(ENGLISH, began=0)
    log.close("the end")
    log.write("a ghost")
    assert await log.next_entry() == "the end"
    log.sent()
    log.write("a ghost")
    assert await log.next_entry() is None


async def test_an_entry_is_given_out_until_it_was_sent(autojump_clock: MockClock) -> None:
    """Cancelled between two tries, nothing is lost; and what is still to be sent can be counted."""
    log = QueryLog(ENGLISH, began=0)
    log.write("line 0")
    log.write("line 1")
    first = await log.next_entry()
    log.write("line 2")
    assert await log.next_entry() == first
    assert log.unsent_lines == 3
    log.sent()
    assert log.unsent_lines == 1
    assert await log.next_entry() == "line 2"
    log.sent()
    assert log.unsent_lines == 0


async def test_cancelled_it_keeps_its_lines(autojump_clock: MockClock) -> None:
    """A reader that is cancelled while it waits takes nothing along."""
    log = QueryLog(ENGLISH, began=0)
    log.write("line 0")
    with trio.move_on_after(0.1) as scope:
        await log.next_entry()
    assert scope.cancelled_caught
    assert await log.next_entry() == "line 0"


async def test_lines_come_from_any_thread() -> None:
    """Four threads at once: no line is lost, and each thread's lines are in order. (Real clock.)"""
    reader = Reader()
    lines = 300

    def write(name: str) -> None:
        for number in range(lines):
            reader.log.write(f"{name}:{number}")

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.read)
            async with trio.open_nursery() as writers:
                for name in "abcd":
                    writers.start_soon(trio.to_thread.run_sync, write, name)
            reader.log.close("the end")
    for name in "abcd":
        written = [int(word.partition(":")[2]) for word in reader.text.split() if word.startswith(f"{name}:")]
        assert written == list(range(lines))


async def test_a_line_from_a_thread_is_not_kept_until_the_end(nursery: trio.Nursery) -> None:
    """It wakes the reader, as a line of the event loop's own does. (Real clock.)"""
    reader = Reader()
    nursery.start_soon(reader.read)
    with trio.fail_after(30):
        await trio.to_thread.run_sync(reader.log.write, "line 0")
        while not reader.entries:  # noqa: ASYNC110 - what is shown is that it comes, whenever
            await trio.sleep(0.01)
    assert reader.entries == ["line 0"]
    nursery.cancel_scope.cancel()


def test_a_thread_may_outlive_the_event_loop() -> None:
    """A thread that was left behind and still logs gets no exception. (Real clock.)"""
    go, ended = threading.Event(), threading.Event()
    problems: list[BaseException] = []

    def late(log: QueryLog) -> None:
        go.wait(30)
        try:
            log.write("a ghost")
        except BaseException as problem:  # noqa: BLE001, ASYNC103
            problems.append(problem)
        ended.set()

    async def main() -> None:
        threading.Thread(target=late, args=(QueryLog(ENGLISH, began=0),)).start()

    trio.run(main)
    go.set()
    assert ended.wait(30)
    assert problems == []


# --- With a whole worker -----------------------------------------------------------------------------


def order_of_calls(webbuddy: WebBuddy, query: StoredQuery) -> list[str]:
    calls = [call for call in webbuddy.requests if call.query == query.id and call.endpoint != "claim_next"]
    return [call.endpoint for call in calls]


async def chatty(query: Query, ctx: Context) -> str:
    for number in range(100):
        ctx.log(f"line {number}")
        await trio.sleep(0.1)
    ctx.log("last words")
    return "ok"


async def test_all_entries_are_at_webbuddy_before_the_result(autojump_clock: MockClock) -> None:
    """And the worker's own stages are among them: who claimed it, how it started, how it ended."""
    webbuddy = WebBuddy(now=trio_time(), slow=0.5)
    async with open_worker(chatty, webbuddy=webbuddy) as worker:
        query = await worker.ask("chat")
    assert order_of_calls(webbuddy, query)[-1] == "patch"
    assert "patch" not in order_of_calls(webbuddy, query)[:-1]
    patch = next(call for call in webbuddy.requests if call.endpoint == "patch")
    assert all(entry.at <= patch.began for entry in query.entries)
    assert "Claimed by test-worker (push)" in query.logs[0]
    assert "Started, time limit 300 s" in query.logs[0]
    assert "last words" in query.logs[-1]
    assert query.logs[-1].endswith("Done after 10.0 s")
    assert numbers(SEPARATOR.join(query.logs)) == list(range(100))


async def test_the_workers_sentences_are_in_the_users_language(autojump_clock: MockClock) -> None:
    """`WORKER_LANGUAGE=ru`."""
    async with open_worker(chatty, language="ru") as worker:
        query = await worker.ask("чат")
    assert "Запрос взял test-worker (по уведомлению)" in query.logs[0]
    assert query.logs[-1].endswith("Готово за 10.0 с")


async def test_an_hour_of_a_line_a_second(autojump_clock: MockClock) -> None:
    """Seen to be alive to the end, in 40 entries, though WebBuddy shows only 50."""

    async def handle(query: Query, ctx: Context) -> str:
        for number in range(3600):
            ctx.log(f"line {number}")
            await trio.sleep(1)
        return "ok"

    async with open_worker(handle, processing_timeout=4000) as worker:
        query = await worker.ask("an hour")
    assert query.status == "done"
    assert len(query.entries) <= MOST_ENTRIES
    assert numbers(SEPARATOR.join(query.logs)) == list(range(3600))
    assert query.entries[-2].at - query.entries[0].at > 1200
