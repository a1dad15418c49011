"""Lines in, entries out: at most 40 of them, in order, and the last line always arrives.

And what had not arrived when the process died is sent by the next, without what had.
"""

from __future__ import annotations

import itertools
import re
import threading
import tracemalloc
from collections.abc import Callable, Sequence

import pytest
import trio
from trio.testing import MockClock

from trio_worker import Context, Query
from trio_worker.log_lines import HALF, MOST_ENTRY, MOST_LINE
from trio_worker.phrases import ENGLISH
from trio_worker.query_log import (
    GROWTH,
    MOST_ENTRIES,
    PROMPT_ENTRIES,
    SEPARATOR,
    Fresh,
    LineSink,
    Past,
    QueryLog,
)
from trio_worker.testing import StoredQuery, WebBuddy, open_worker, trio_time


class Reader:
    """Ships a log to nowhere, and remembers what came when."""

    def __init__(
        self, round_trip: float = 0.0, *, sink: LineSink | None = None, past: Past | None = None
    ) -> None:
        self.log = QueryLog(ENGLISH, began=trio.current_time(), sink=sink, past=past or Past())
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


class Disk:
    """A journal of one log: what is on it when the process dies is what the next one knows.

    Args:
        at_once: Whether it is quick; else it takes something when `commit` is called.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.at_once = at_once
        self.waiting: list[Callable[[], Fresh]] = []
        self.commits: list[Fresh] = []
        self.lines: dict[int, tuple[int, str, str]] = {}
        self.entries = 0
        self.last_number = 0
        self.threads: set[int] = set()

    def lines_wait(self, collect: Callable[[], Fresh]) -> None:
        assert not self.waiting
        self.threads.add(threading.get_ident())
        self.waiting.append(collect)
        if self.at_once:
            self.commit()

    def commit(self) -> Fresh:
        """Write down what waits; the deletion comes last, as in the journal."""
        fresh = self.waiting.pop()()
        self.commits.append(fresh)
        assert not any(line.number in self.lines for line in fresh.lines)
        self.lines |= {line.number: tuple(line) for line in fresh.lines}
        if fresh.left_out is not None:
            self._delete(*fresh.left_out)
        return fresh

    def sent(self, entries: int, up_to: int) -> None:
        assert (entries, up_to) > (self.entries, self.last_number)
        self.entries, self.last_number = entries, up_to
        self._delete(0, up_to)

    @property
    def past(self) -> Past:
        last_number = max([self.last_number, *self.lines])
        return Past(self.entries, last_number, [self.lines[number] for number in sorted(self.lines)])

    def _delete(self, first: int, last: int) -> None:
        for number in range(first, last + 1):
            self.lines.pop(number, None)


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


async def test_a_flood_is_cut_in_the_middle(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Of many lines at once the first and the last arrive, with a count of the others; in bounded memory."""
    lines = 100_000
    disk = Disk()
    reader = Reader(sink=disk)
    nursery.start_soon(reader.read)
    tracemalloc.start()
    try:
        for number in range(lines):
            reader.log.write(f"line {number}")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.log.unsent_lines == lines
    reader.log.close("the end")
    await trio.sleep(10)
    assert peak < 4_000_000
    assert all(len(entry) <= MOST_ENTRY for entry in reader.entries)
    assert 2 * HALF - 2 * MOST_LINE < len(reader.text) < 2 * HALF + 100
    arrived = numbers(reader.text)
    assert arrived == sorted(arrived)
    assert arrived[0] == 0
    assert arrived[-1] == lines - 1
    assert f"[{lines - len(arrived)} more lines]" in reader.text
    assert reader.text.endswith("the end")
    assert reader.log.unsent_lines == 0


@pytest.mark.parametrize("line", ["x", "ж" * 100, "x" * 200_000], ids=["short", "middle", "long"])
async def test_memory_is_bounded_whatever_the_lines(line: str, autojump_clock: MockClock) -> None:
    """Short lines count with their times, long ones are cut: no log holds more than a few megabytes.

    What waits for the disk is part of it, not beside it.
    """
    disk = Disk()
    log = QueryLog(ENGLISH, began=0, sink=disk)
    tracemalloc.start()
    try:
        for _ in range(60_000 if len(line) < 1000 else 100):
            log.write(line)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 6_000_000
    fresh = disk.commit()
    assert sum(len(line.text) for line in fresh.lines) <= 2 * HALF


async def test_the_last_entry_takes_all_that_is_left(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """After a storm of entries the 40th may be longer than any other, so that nothing is lost."""
    reader = Reader()
    nursery.start_soon(reader.read)
    for number in range(MOST_ENTRIES - 1):
        reader.log.write(f"line {number}")
        await trio.sleep(4000)
    assert len(reader.entries) == MOST_ENTRIES - 1
    for number in range(MOST_ENTRIES - 1, 10_000):
        reader.log.write(f"line {number}")
    reader.log.close("the end")
    await trio.sleep(1)
    assert len(reader.entries) == MOST_ENTRIES
    assert len(reader.entries[-1]) > 2 * MOST_ENTRY
    assert numbers(reader.text) == list(range(10_000))
    assert reader.entries[-1].endswith("the end")


async def test_after_an_outage_of_an_hour_the_log_arrives_whole(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """100 kB of lines wait for it, and go in entries of a size that a server takes."""
    reader = Reader()
    padding = "и" * 10
    for number in range(3600):
        reader.log.write(f"line {number} {padding}")
        await trio.sleep(1)
    reader.log.close("the end")
    nursery.start_soon(reader.read)
    await trio.sleep(1)
    assert len(reader.text) > 100_000
    assert numbers(reader.text) == list(range(3600))
    assert reader.entries[-1].endswith("the end")
    assert len(reader.entries) == 2
    assert len(reader.entries[0]) <= MOST_ENTRY


async def test_long_and_short_lines_stay_in_order(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A short line finds room where a long one before it did not; it still comes after it."""
    reader = Reader()
    for number in range(150):
        reader.log.write(f"line {number} " + ("x" * 3000 if number % 2 else ""))
    reader.log.close("the end")
    await reader.read()
    arrived = numbers(reader.text)
    assert arrived == sorted(arrived)
    assert len(arrived) > 80


async def test_a_clock_that_was_put_back(autojump_clock: MockClock) -> None:
    """After a restart the claim may seem to lie ahead: no line comes before it."""
    log = QueryLog(ENGLISH, began=100)
    log.write("line 0")
    log.close("the end")
    assert await log.next_entry() == "+0.0s line 0 · +0.0s the end"


async def test_a_long_line_is_cut(autojump_clock: MockClock) -> None:
    """A line of megabytes is of no use on WebBuddy's page."""
    log = QueryLog(ENGLISH, began=0)
    log.write("x" * 1_000_000)
    assert await log.next_entry() == "x" * MOST_LINE + "…"


# --- When --------------------------------------------------------------------------------------------

TWO_HOURS = 7200  # seconds
PROMPT = [second + 0.25 for second in range(20)]
LATE = list(itertools.accumulate((1.5**number for number in range(19)), initial=PROMPT[-1]))[1:]


async def write_evenly(log: QueryLog, lines: int, seconds: int) -> int:
    """Write some lines at the beginning of each second.

    Returns:
        Bytes: the peak of what the last 200 s took; to trace them all takes a quarter of a minute.
    """
    for second in range(seconds):
        if second == max(0, seconds - 200):
            tracemalloc.start()
        for number in range(lines * second // seconds, lines * (second + 1) // seconds):
            log.write(f"line {number}")
        await trio.sleep(1)
    return tracemalloc.get_traced_memory()[1]


@pytest.mark.parametrize(
    ("lines", "seconds"), [(1, 1), (41, 41), (10_000, TWO_HOURS), (1_000_000, TWO_HOURS)]
)
async def test_the_same_schedule_for_however_many_lines(
    lines: int, seconds: int, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """When entries arrive does not depend on how many lines come, nor does the memory that they take.

    The last arrives when the handler ends. Each has its own time, and what found no room is counted.
    """
    reader = Reader()
    nursery.start_soon(reader.read)
    try:
        peak = await write_evenly(reader.log, lines, seconds)
    finally:
        tracemalloc.stop()
    reader.log.close("the end")
    await trio.sleep(0.001)

    assert reader.times == pytest.approx([time for time in PROMPT + LATE if time < seconds] + [seconds])
    assert len(reader.entries) == {1: 2, 41: 27}.get(lines, 40)
    assert reader.entries[-1].endswith("the end")
    arrived = numbers(reader.text)
    assert (arrived[0], arrived[-1]) == (0, lines - 1)
    assert arrived == sorted(set(arrived))
    left_out = sum(int(count) for count in re.findall(r"\[(\d+) more lines\]", reader.text))
    assert left_out + len(arrived) == lines
    assert (left_out > 0) == (lines == 1_000_000)
    for entry in reader.entries:
        timed = re.findall(r"\+(\d+)\.0s line (\d+)", entry)
        parts = entry.split(" · ")
        assert all(part.count("line ") <= 1 for part in parts)
        assert len(timed) == entry.count("line ") or len(parts) == 1
        for second, number in timed:
            assert lines * int(second) // seconds <= int(number) < lines * (int(second) + 1) // seconds
    assert max(map(len, reader.entries[:-1])) <= MOST_ENTRY
    assert len(reader.entries[-1]) < 2 * HALF + 100
    assert peak < 2_000_000


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


# --- What is written down ----------------------------------------------------------------------------


async def test_lines_are_written_down_once(autojump_clock: MockClock) -> None:
    """One call says that there is something; then all that has come by the time it is collected."""
    disk = Disk()
    log = QueryLog(ENGLISH, began=0, sink=disk)
    log.write("line 0")
    await trio.sleep(1)
    log.write("line 1")
    assert len(disk.waiting) == 1
    assert disk.commit() == Fresh([(1, "+0.0s", "line 0"), (2, "+1.0s", "line 1")], None)
    assert disk.waiting == []
    log.write("line 2")
    assert [line.text for line in disk.commit().lines] == ["line 2"]


async def test_what_was_sent_is_not_written_down(autojump_clock: MockClock) -> None:
    """An entry that has gone out before the disk came to its lines; one that has not is written down."""
    disk = Disk()
    log = QueryLog(ENGLISH, began=0, sink=disk)
    log.write("line 0")
    await log.next_entry()
    log.sent()
    log.write("line 1")
    await log.next_entry()
    log.write("line 2")
    assert [line.text for line in disk.commit().lines] == ["line 1", "line 2"]
    log.sent()
    assert (disk.entries, disk.last_number) == (2, 2)
    assert list(disk.lines) == [3]


async def test_what_is_left_out_is_deleted_from_the_disk(autojump_clock: MockClock) -> None:
    """Each range once; then on disk is what is in memory."""
    disk = Disk(at_once=True)
    log = QueryLog(ENGLISH, began=0, sink=disk)
    for number in range(20_000):
        log.write(f"line {number}")
    ranges = [fresh.left_out for fresh in disk.commits if fresh.left_out is not None]
    gone = [number for first, last in ranges for number in range(first, last + 1)]
    assert len(gone) == len(set(gone)) == 20_000 - len(disk.lines)
    assert sum(len(time) + len(text) for _, time, text in disk.lines.values()) < 2 * HALF
    reader = Reader(past=disk.past)
    reader.log.close("")
    await reader.read()
    kept = numbers(reader.text)
    assert (kept[0], kept[-1]) == (0, 19_999)
    assert f"[{20_000 - len(kept)} more lines]" in reader.text
    assert {number + 1 for number in kept} == set(disk.lines)


async def test_ranges_that_are_left_out_never_take_a_line_along(autojump_clock: MockClock) -> None:
    """While the disk hangs entries go out, and lines are left out before and after some that stay."""
    disk = Disk()
    log = QueryLog(ENGLISH, began=0, sink=disk)
    log.write("line 0")
    disk.commit()
    texts: list[str] = []
    for number in range(1, 120_000):
        log.write(f"line {number}")
        if number % 30_000 == 0:
            texts.append(await log.next_entry() or "")
            log.write("while it was on its way")
            log.sent()
    ranges = 0
    while disk.waiting:
        ranges += disk.commit().left_out is not None
    assert ranges > 1
    reader, restored = Reader(), Reader(past=disk.past)
    reader.log = log
    for each in (reader, restored):
        each.log.close("")
        await each.read()
    assert restored.entries == reader.entries
    assert all(text.startswith("+0") for text in texts)


async def test_an_entry_on_its_way_knows_what_it_took_along(autojump_clock: MockClock) -> None:
    """What is left out after it was given out stays to be told, and is no part of what was sent."""
    disk = Disk()
    log = QueryLog(ENGLISH, began=0, sink=disk)
    for number in range(20):
        log.write(f"line {number}")
    entry = await log.next_entry()
    for number in range(20, 50_000):
        log.write(f"line {number}")
    assert await log.next_entry() == entry
    disk.commit()
    log.sent()
    assert (disk.entries, disk.last_number) == (1, 20)
    assert min(disk.lines) == 21
    assert log.unsent_lines == 50_000 - 20


async def test_the_last_lines_are_handed_over_at_the_end(autojump_clock: MockClock) -> None:
    """They go to disk together with how the query ended, so they wait for the sink when `close` returns."""
    disk = Disk()
    log = QueryLog(ENGLISH, began=0, sink=disk)
    log.close("the end")
    assert [line.text for line in disk.commit().lines] == ["the end"]


async def test_a_thread_has_written_right_before_the_end(autojump_clock: MockClock) -> None:
    """The event loop has not heard of the line yet when `close` hands it over."""
    disk = Disk()
    log = QueryLog(ENGLISH, began=0, sink=disk)
    thread = threading.Thread(target=log.write, args=("line 0",))
    thread.start()
    thread.join()
    assert disk.waiting == []
    log.close("")
    assert [line.text for line in disk.commit().lines] == ["line 0"]


async def test_without_lines_nothing_is_written_down(autojump_clock: MockClock) -> None:
    """A blank last line is none: it leaves no work to the disk."""
    disk = Disk()
    log = QueryLog(ENGLISH, began=0, sink=disk)
    log.close("")
    assert disk.waiting == []
    assert await log.next_entry() is None


async def test_only_the_first_end_counts(autojump_clock: MockClock) -> None:
    """To close a log again changes neither its last line nor when it ended."""
    log = QueryLog(ENGLISH, began=0)
    await trio.sleep(5)
    log.close("the end")
    await trio.sleep(5)
    log.close("again")
    assert log.closed_at == 5
    assert await log.next_entry() == "the end"


async def test_only_what_is_given_out_can_be_sent(autojump_clock: MockClock) -> None:
    """Anything else would be counted among the forty."""
    log = QueryLog(ENGLISH, began=0)
    log.write("line 0")
    with pytest.raises(RuntimeError, match="no entry is given out"):
        log.sent()


async def test_lines_of_threads_are_written_down() -> None:
    """All of them, and the journal hears of them on the thread of the event loop only. (Real clock.)"""
    disk = Disk(at_once=True)
    log = QueryLog(ENGLISH, began=0, sink=disk)

    def write() -> None:
        for number in range(1000):
            log.write(f"line {number}")

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(trio.to_thread.run_sync, write)
        log.close("the end")
    assert sorted(disk.lines) == list(range(1, 4002))
    assert disk.threads == {threading.get_ident()}


# --- After a restart ---------------------------------------------------------------------------------


async def test_what_was_written_down_is_sent_by_the_next_process(autojump_clock: MockClock) -> None:
    """With the times at which it was written, then what is new, numbered on; nothing is written twice."""
    disk = Disk(at_once=True)
    log = QueryLog(ENGLISH, began=0, sink=disk)
    log.write("line 0")
    await log.next_entry()
    log.sent()
    log.write("line 1")
    await trio.sleep(1)
    log.write("line 2")
    await log.next_entry()

    log = QueryLog(ENGLISH, began=0, sink=disk, past=disk.past)
    assert log.unsent_lines == 2
    assert disk.waiting == []
    log.write("line 3")
    assert await log.next_entry() == "+0.2s line 1 · +1.2s line 2 · +1.2s line 3"
    assert sorted(disk.lines) == [2, 3, 4]
    log.sent()
    assert (disk.entries, disk.last_number, disk.lines) == (2, 4, {})


async def test_a_number_is_never_used_twice(autojump_clock: MockClock) -> None:
    """Also when every line had gone out: a late deletion must not hit a new line."""
    disk = Disk(at_once=True)
    log = QueryLog(ENGLISH, began=0, sink=disk, past=Past(entries=3, last_number=17))
    assert log.unsent_lines == 0
    log.write("line 17")
    assert list(disk.lines) == [18]


async def test_restart_after_restart_loses_nothing(autojump_clock: MockClock) -> None:
    """Not even when the memory is full and an entry is on its way each time."""
    disk = Disk(at_once=True)
    log = QueryLog(ENGLISH, began=0, sink=disk)
    line = "line 100000"
    each = len(f"+0.0s {line}{SEPARATOR}")
    fits, on_its_way = 2 * (HALF // each), MOST_ENTRY // each
    written = 0
    while log.unsent_lines < fits:
        log.write(f"line {100_000 + written}")
        written += 1
    for _ in range(4):
        await log.next_entry()
        while log.unsent_lines < fits + on_its_way:
            log.write(f"line {100_000 + written}")
            written += 1
        log = QueryLog(ENGLISH, began=0, sink=disk, past=disk.past)
    reader = Reader()
    reader.log = log
    log.close("")
    await reader.read()
    assert numbers(reader.text) == list(range(100_000, 100_000 + written))


@pytest.mark.parametrize("restart_at", [1, 19, 20, 30, 39])
async def test_entries_are_counted_over_all_attempts(
    restart_at: int, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A restart gives no new prompt entries, and starts no second forty."""
    disk = Disk(at_once=True)
    reader = Reader(sink=disk, past=Past(entries=restart_at, last_number=restart_at))
    nursery.start_soon(reader.read)
    began = trio.current_time()
    for number in range(7200):
        reader.log.write(f"line {number}")
        await trio.sleep(1)
    reader.log.close("the end")
    await trio.sleep(1)
    assert disk.entries <= MOST_ENTRIES
    assert len(reader.entries) == disk.entries - restart_at
    assert numbers(reader.text) == list(range(7200))
    if restart_at == MOST_ENTRIES - 1:
        assert len(reader.entries) == 1
    elif restart_at >= PROMPT_ENTRIES:
        pause = GROWTH ** (restart_at - PROMPT_ENTRIES)
        assert reader.times[0] - began == pytest.approx(max(pause, 0.25), abs=0.01)


# --- After a restart: what arrived just before it ----------------------------------------------------


def restored(*texts: str, entries: int = 0, disk: Disk | None = None) -> QueryLog:
    """A log whose journal knows these lines as unsent: one a second, from +1.0s on."""
    lines = [(entries + number, f"+{number}.0s", text) for number, text in enumerate(texts, 1)]
    past = Past(entries=entries, last_number=entries + len(texts), lines=lines)
    return QueryLog(ENGLISH, began=0, sink=disk, past=past)


@pytest.mark.parametrize(
    ("texts", "skipped", "entries"),
    [
        ([], 0, 0),
        (["a"], 1, 1),
        (["a", "b"], 2, 2),
        (["+1.0s a · +2.0s b"], 2, 1),
        (["a", "+2.0s b · +3.0s c"], 3, 2),
        (["+1.0s a · +2.0s b · +3.0s c"], 3, 1),
        (["a note of somebody", "a", "another", "+2.0s b · +3.0s c", "a third"], 3, 2),
        (["b"], 0, 0),
        (["+2.0s b · +3.0s c"], 0, 0),
        (["+1.0s a · +2.0s bb"], 0, 0),
        (["+1.0s a · +2.0"], 0, 0),
        (["+1.1s a · +2.0s b"], 0, 0),
        (["a · b"], 0, 0),
        (["aa"], 0, 0),
        ([""], 0, 0),
    ],
)
async def test_what_had_arrived_is_not_sent_again(
    texts: Sequence[str], skipped: int, entries: int, autojump_clock: MockClock
) -> None:
    """Entry by entry, as they were made of the lines; whatever others have written between them."""
    disk = Disk(at_once=True)
    log = restored("a", "b", "c", disk=disk)
    assert log.skip_arrived(texts) == skipped
    assert (disk.entries, disk.last_number) == (entries, skipped)
    assert log.unsent_lines == 3 - skipped
    log.close("d")
    left = ["a", "b", "c", "d"][skipped:]
    entry = await log.next_entry()
    assert entry is not None
    assert [part.split()[-1] for part in entry.split(SEPARATOR)] == left


async def test_what_arrived_with_lines_that_never_got_to_the_disk(autojump_clock: MockClock) -> None:
    """The disk was slow, and the process died: the entry has all that the disk has, and more."""
    log = restored("a", "b")
    log.write("of the next attempt")
    assert log.skip_arrived(["+1.0s a · +2.0s b · +3.0s c"]) == 2
    assert await log.next_entry() == "of the next attempt"


async def test_what_is_known_to_be_sent_is_not_taken_for_something_new(autojump_clock: MockClock) -> None:
    """A handler that says the same each minute: its later words are not lost for its earlier ones."""
    log = restored("still at it", "still at it", entries=2)
    assert log.skip_arrived(["still at it"] * 2) == 0
    log = restored("still at it", "still at it", entries=2)
    assert log.skip_arrived(["still at it"] * 3) == 1
    assert await log.next_entry() == "still at it"


async def test_an_entry_with_a_gap_is_known_again(autojump_clock: MockClock) -> None:
    """The note about lines left out is part of the entry that had arrived."""
    disk = Disk(at_once=True)
    log = QueryLog(ENGLISH, began=0, sink=disk)
    for number in range(30_000):
        log.write(f"line {number}")
    past = disk.past
    reader = Reader()
    reader.log = log
    log.close("")
    await reader.read()
    assert "more lines]" in reader.text
    log = QueryLog(ENGLISH, began=0, past=past)
    assert log.skip_arrived(reader.entries) == 30_000
    assert log.unsent_lines == 0


async def test_the_note_of_a_gap_goes_with_the_line_before_it(autojump_clock: MockClock) -> None:
    """Also when that is the only line of the entry; and so it is known again after a restart."""
    lines = [(1, "+1.0s", "a"), (5, "+5.0s", "b" * MOST_ENTRY)]
    past = Past(entries=0, last_number=5, lines=lines)
    disk = Disk()
    log = QueryLog(ENGLISH, began=0, sink=disk, past=past)
    assert log.unsent_lines == 5
    entry = await log.next_entry()
    assert entry == "+1.0s a · [3 more lines]"
    log.sent()
    assert (disk.entries, disk.last_number, log.unsent_lines) == (1, 4, 1)
    again = QueryLog(ENGLISH, began=0, past=past)
    assert again.skip_arrived(["a"]) == 0
    assert again.skip_arrived([entry]) == 4
    assert again.unsent_lines == 1


async def test_after_what_had_arrived_the_schedule_goes_on(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """What is found to have arrived counts among the prompt entries, and among the forty."""
    reader = Reader()
    reader.log = restored("a", "b", "c", entries=PROMPT_ENTRIES + 2)
    assert reader.log.skip_arrived([*["earlier"] * (PROMPT_ENTRIES + 2), "a", "b"]) == 2
    nursery.start_soon(reader.read)
    await trio.sleep(100)
    assert reader.times == pytest.approx([GROWTH**4])


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
