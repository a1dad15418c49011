"""Taking over: journals that can't be taken, and neighbours that live."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
import trio
from structlog.typing import EventDict

from tests.journals import fact_in, held_in, leave_behind, make_entry, numbers, open_own, state_folder
from tests.neighbour import Neighbour, start_neighbour
from trio_worker import clock
from trio_worker.errors import JournalError
from trio_worker.journal_file import VERSION, Contents
from trio_worker.state_folder import SET_ASIDE, StateFolder
from trio_worker.takeover import OwnJournal

# --- What can't be taken --------------------------------------------------------------------------------


def test_at_the_start_a_damaged_journal_is_set_aside_and_told(tmp_path: Path) -> None:
    """One sentence with its new name; not a byte is lost; the next start goes on without it."""
    path = leave_behind(state_folder(tmp_path), make_entry(7))
    damaged = path.read_bytes()[:5000]
    path.write_bytes(damaged)
    with pytest.raises(
        JournalError, match=r"nothing was deleted\. Start again to go on without it"
    ) as caught:
        open_own(tmp_path)
    (aside,) = path.parent.iterdir()
    assert f"{path} " in str(caught.value)
    assert f"set aside as {aside};" in str(caught.value)
    assert aside.read_bytes() == damaged
    own = open_own(tmp_path)
    assert own.found == Contents()
    own.close()


def test_later_a_damaged_journal_is_set_aside_and_logged(tmp_path: Path, events: list[EventDict]) -> None:
    """We go on; what others have left is taken all the same."""
    own = open_own(tmp_path)
    path = leave_behind(own.folder, make_entry(7))
    path.write_bytes(b"garbage" * 1000)
    leave_behind(own.folder, make_entry(8))
    assert numbers(own.take_over()) == [8]
    (event,) = events
    assert event["log_level"] == "error"
    assert "set aside" in event["reason"]
    assert numbers(own.take_over()) == []
    assert len(events) == 1
    own.close()


def test_what_cannot_be_set_aside_either_stays_and_is_told(tmp_path: Path) -> None:
    """Its new name is taken: both sentences, and the next start tries again."""
    path = leave_behind(state_folder(tmp_path), make_entry(7))
    path.write_bytes(b"garbage" * 1000)
    token = clock.source.set(lambda: 1e9)
    try:
        path.with_name(f"{path.name}{SET_ASIDE}1000000000").mkdir()
        for _ in range(2):
            with pytest.raises(JournalError, match=r"is not a journal.*can't be set aside either: "):
                open_own(tmp_path)
    finally:
        clock.source.reset(token)
    assert path.read_bytes() == b"garbage" * 1000


def test_an_empty_journal_that_cannot_be_removed_harms_nobody(
    tmp_path: Path, events: list[EventDict]
) -> None:
    """At the end: it is logged, and the lock is given back."""
    own = open_own(tmp_path)
    own.lock.path.unlink()
    own.lock.path.mkdir()
    own.close()
    assert [event["event"] for event in events] == ["an empty journal can't be removed"]
    (lock,) = own.folder.take_free()
    lock.release()


def make_newer(folder: StateFolder) -> Path:
    path = leave_behind(folder, make_entry(7))
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    return path


def test_at_the_start_a_newer_journal_is_an_error(tmp_path: Path) -> None:
    """After a step back to an older version; again and again, and it stays where it is."""
    path = make_newer(state_folder(tmp_path))
    for _ in range(2):
        with pytest.raises(JournalError, match="written by a newer trio-worker"):
            open_own(tmp_path)
    assert path.exists()


def test_later_a_newer_journal_is_left_alone_and_logged_once(tmp_path: Path, events: list[EventDict]) -> None:
    """A newer worker on this folder has died: an even newer one will take it."""
    own = open_own(tmp_path)
    path = make_newer(own.folder)
    assert own.take_over() == own.take_over() == Contents()
    (event,) = events
    assert "written by a newer trio-worker" in event["reason"]
    assert path.exists()
    own.close()


def test_a_journal_that_cannot_be_opened_is_left_alone(tmp_path: Path, events: list[EventDict]) -> None:
    """Neither taken nor set aside, and it stays free."""
    own = open_own(tmp_path)
    lock = own.folder.new()
    lock.path.mkdir()
    lock.release()
    assert own.take_over() == Contents()
    assert "can't be opened" in events[0]["reason"]
    assert lock.path.is_dir()
    own.close()
    with pytest.raises(JournalError, match="can't be opened"):
        open_own(tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """Below a file nobody can make one, not even root."""
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="WORKER_STATE_DIR"):
        open_own(tmp_path / "file" / "state")


async def test_a_start_without_room_is_an_error(tmp_path: Path) -> None:
    """Wherever it runs out: one sentence, nothing is left of ours, and the dead keep what they had."""
    folder = state_folder(tmp_path)
    path = leave_behind(folder, make_entry(7, dead="x" * 20_000))
    answers = set()
    async with start_neighbour(tmp_path) as neighbour:
        for size in range(0, 80_000, 3000):
            answer = await neighbour.ask(f"cramped {size}")
            if answer == "well":
                break
            answers.add(answer.split(" can't be used: ")[1])
            assert folder.journals() == [path]
            assert list(folder.path.glob("*.lock")) == [path.with_suffix(".lock")]
        assert size > 40_000
    assert answers == {"the disk gives an error (disk I/O error)"}
    own = open_own(tmp_path)
    assert numbers(own.found) == [7]
    own.close()


def test_while_our_own_disk_is_full_nothing_is_taken(tmp_path: Path) -> None:
    """It stays with the dead, whole, until there is room."""
    own = open_own(tmp_path)
    path = leave_behind(own.folder, make_entry(7, dead="x" * 1_000_000))
    (pages,) = own.file._connection.execute("PRAGMA page_count").fetchone()
    own.file._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        own.take_over()
    assert held_in(path) == [7]
    own.file._connection.execute("PRAGMA max_page_count = 100000")
    assert numbers(own.take_over()) == [7]
    own.close()


# --- The living -----------------------------------------------------------------------------------------


async def test_what_the_living_hold_is_seen_and_not_taken(tmp_path: Path) -> None:
    """At its next death it is taken at once."""
    own = open_own(tmp_path)
    async with start_neighbour(tmp_path) as neighbour:
        await neighbour.ask("open")
        assert own.held_by_others() == set()
        await neighbour.ask("hold 7 running")
        assert own.held_by_others() == {7}
        assert own.take_over() == Contents()
        await neighbour.kill()
        (entry,) = own.take_over().entries
    assert (entry.query.id, entry.deaths, entry.blamed) == (7, 1, 1)
    assert own.held_by_others() == set()
    own.close()


def test_what_lies_in_the_journals_of_the_dead_is_held(tmp_path: Path) -> None:
    """Until it is taken over: it is nobody's business to put it back."""
    own = open_own(tmp_path)
    leave_behind(own.folder, make_entry(7))
    lock = own.folder.new()  # and one that begins at this moment
    lock.path.touch()
    assert own.held_by_others() == {7}
    lock.remove()
    own.close()


def test_what_goes_from_one_journal_to_another_is_always_held(tmp_path: Path) -> None:
    """It is read, in whichever order, while a neighbour takes it over from another."""
    own = open_own(tmp_path)
    seen: list[set[int]] = []
    over = threading.Event()

    def look_again_and_again() -> None:
        while not over.is_set():
            seen.append(own.held_by_others())

    left = leave_behind(own.folder, make_entry(7))
    thread = threading.Thread(target=look_again_and_again)
    thread.start()
    try:
        for number in range(100):
            name = f"{'0f'[number % 2] * 16}-{number:04}.journal"
            new = leave_behind(own.folder, make_entry(7), name=name)
            left.unlink()
            left = new
    finally:
        over.set()
        thread.join()
    assert len(seen) > 10
    assert all(numbers == {7} for numbers in seen)
    own.close()


def test_a_journal_that_cannot_be_read_may_hold_anything(tmp_path: Path) -> None:
    """An error, and not: nothing."""
    own = open_own(tmp_path)
    path = leave_behind(own.folder, make_entry(7))
    path.write_bytes(b"garbage" * 1000)
    with pytest.raises(JournalError, match="can't be used"):
        own.held_by_others()
    own.close()


def test_that_a_stop_was_asked_for_can_be_noted_by_any_thread(tmp_path: Path) -> None:
    """While the file's own thread is in the middle of something; not when the file has gone."""
    own = open_own(tmp_path)
    own.note_stopping(seconds=0.0)
    assert fact_in(own.lock.path, "stopping") == 1
    own.close()
    own.note_stopping(seconds=0.0)
    assert own.folder.journals() == []


async def race(folder: StateFolder, neighbours: list[Neighbour]) -> list[list[str]]:
    """Let them open their journals at the same time; what each has found."""
    for neighbour in neighbours:
        await neighbour.tell("open")
    return [(await neighbour.answer()).split() for neighbour in neighbours]


async def test_of_those_who_race_for_the_dead_each_query_has_one(tmp_path: Path) -> None:
    """Three start together on a folder with thirty journals: none is taken twice, none is left."""
    folder = state_folder(tmp_path)
    held = [make_entry(number) for number in range(90)]
    for number in range(0, 90, 3):
        leave_behind(folder, *held[number : number + 3])
    async with (
        start_neighbour(tmp_path) as one,
        start_neighbour(tmp_path) as two,
        start_neighbour(tmp_path) as three,
    ):
        found = await race(folder, [one, two, three])
        assert sorted(name for names in found for name in names) == sorted(entry.id for entry in held)
        journals = folder.journals()
        assert len(journals) == 3
        assert sorted(number for path in journals for number in held_in(path)) == list(range(90))
        with trio.fail_after(60):
            for neighbour in (one, two, three):
                await neighbour.kill()
        own = open_own(tmp_path)
        assert sorted(numbers(own.found)) == list(range(90))
        own.close()


def test_in_memory_there_are_no_others() -> None:
    """Nothing to take, nothing to leave."""
    own = OwnJournal.open(None, "full")
    assert own.take_over() == Contents()
    assert own.held_by_others() == set()
    own.note_stopping(seconds=0.0)
    own.close()
