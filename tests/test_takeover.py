"""Taking over what dead processes have left on disk."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import attrs
import pytest

from tests.journals import ADDRESS, held_in, leave_behind, make_entry, numbers, open_own, read, state_folder
from trio_worker import clock
from trio_worker.errors import JournalError
from trio_worker.journal_file import Contents, Entry, HeldLine, LostClaim, Tombstone
from trio_worker.journal_rows import fact
from trio_worker.query import Done
from trio_worker.state_folder import Address, StateFolder
from trio_worker.takeover import boot_id, settle

STONE = Tombstone(query_id=5, created="2025", until=2e9, attempts=1, retries=0, deaths=1, blamed=0)
LOST = LostClaim(id="lost", since=1.0, until=2.0, noted_at=3.0)


# --- Who was to blame -------------------------------------------------------------------------------


def settled(*entries: Entry, boot: str | None = "this", **facts: object) -> list[tuple[int, int]]:
    """The deaths, and the blame, of each after its process has died."""
    contents = Contents(facts={"boot": "this", **facts}, entries=list(entries))
    settle(contents, boot=boot)
    assert not any(entry.running for entry in contents.entries)
    return [(entry.deaths, entry.blamed) for entry in contents.entries]


def test_who_was_alone_is_blamed() -> None:
    """For a death in the middle of its handler."""
    assert settled(make_entry(1, running=True, deaths=2, blamed=1)) == [(3, 2)]


def test_of_several_nobody_is_blamed() -> None:
    """A death counts for each, and it may have been anyone's fault."""
    assert settled(make_entry(1, running=True), make_entry(2, running=True)) == [(1, 0), (1, 0)]


def test_who_was_not_at_work_has_nothing_to_do_with_it() -> None:
    """One that had ended, or was put aside, neither dies nor makes company."""
    ended, aside = make_entry(2, outcome=Done("42")), make_entry(3, due=5.0)
    assert settled(make_entry(1, running=True), ended, aside) == [(1, 1), (0, 0), (0, 0)]


def test_a_stop_is_nobodys_fault() -> None:
    """One that was asked for, however rudely it ended."""
    assert settled(make_entry(1, running=True), stopping=1) == [(0, 0)]


def test_a_reboot_is_nobodys_fault() -> None:
    """The machine has been started anew since."""
    assert settled(make_entry(1, running=True), boot="another") == [(0, 0)]


def test_where_the_system_does_not_tell_a_death_counts() -> None:
    """On macOS no boot has a name."""
    contents = Contents(facts={"boot": None}, entries=[make_entry(running=True)])
    settle(contents, boot=None)
    assert contents.entries[0].deaths == 1


def test_the_boot_has_a_name_on_linux() -> None:
    """The same in every process."""
    assert boot_id() == boot_id()


def test_a_claim_under_way_may_be_lost() -> None:
    """What the process had noted before it claimed becomes a note, and is a fact no longer."""
    contents = Contents(facts={"boot": "this", "claiming_since": 5.5, "claiming_until": 66.5})
    token = clock.source.set(lambda: 70.0)
    try:
        settle(contents, boot="this")
    finally:
        clock.source.reset(token)
    (lost,) = contents.lost
    assert (lost.since, lost.until, lost.noted_at) == (5.5, 66.5, 70.0)
    assert contents.facts == {}


def test_without_a_claim_nothing_is_lost() -> None:
    """An idle worker that is killed."""
    contents = Contents(facts={"boot": "this"})
    settle(contents, boot="this")
    assert contents.lost == []


# --- What was left is ours now ------------------------------------------------------------------------


def test_what_was_left_is_found_and_kept(tmp_path: Path) -> None:
    """All of it, in our file; the other's is gone, and so is its lock."""
    entry = make_entry(7, outcome=Done("42"), lines=[HeldLine(1, "+0.1s", "one")], entries=3)
    folder = state_folder(tmp_path)
    path = leave_behind(folder, entry, statements=[STONE.insertion(), LOST.insertion()])
    own = open_own(tmp_path)
    assert own.found == Contents(entries=[entry], tombstones=[STONE], lost=[LOST])
    assert attrs.evolve(read(own.lock.path), facts={}) == own.found
    assert not path.exists()
    assert not path.with_suffix(".lock").exists()
    own.close()
    again = open_own(tmp_path)
    assert again.found == own.found
    again.close()


def test_the_oldest_is_first(tmp_path: Path) -> None:
    """Whoever held it."""
    folder = state_folder(tmp_path)
    for number, at in [(1, 30.0), (2, 10.0), (3, 20.0)]:
        leave_behind(folder, make_entry(number, claimed_at=at))
    own = open_own(tmp_path)
    assert numbers(read(own.lock.path)) == [2, 3, 1]
    own.close()


def test_it_is_judged_as_it_is_taken(tmp_path: Path) -> None:
    """And that is on disk: the next death is counted on top."""
    leave_behind(state_folder(tmp_path), make_entry(7, running=True))
    own = open_own(tmp_path)
    (entry,) = read(own.lock.path).entries
    assert (entry.deaths, entry.blamed, entry.running) == (1, 1, False)
    own.close()
    again = open_own(tmp_path)
    assert again.found.entries[0].deaths == 1  # it was not at work when we ended
    again.close()


def test_our_journal_says_who_we_are(tmp_path: Path) -> None:
    """For those who look at it, and for whoever judges our end."""
    own = open_own(tmp_path)
    assert read(own.lock.path).facts == {
        "url": ADDRESS.webbuddy_url,
        "account": ADDRESS.account,
        "boot": boot_id(),
    }
    own.close()


def test_another_addresss_queries_are_left_alone(tmp_path: Path) -> None:
    """In one WORKER_STATE_DIR: they are for another WebBuddy."""
    other = StateFolder(tmp_path, Address("http://elsewhere", "worker"))
    other.make()
    path = leave_behind(other, make_entry(7))
    own = open_own(tmp_path)
    assert own.found == Contents()
    assert own.take_over() == Contents()
    assert own.held_by_others() == set()
    own.close()
    assert held_in(path) == [7]


def test_who_died_before_it_could_write_has_left_nothing(tmp_path: Path) -> None:
    """A file of no bytes, or one without tables, is removed."""
    folder = state_folder(tmp_path)
    for journal_mode in ("", "PRAGMA journal_mode = WAL"):
        lock = folder.new()
        connection = sqlite3.connect(lock.path)
        connection.execute(journal_mode)
        connection.close()
        assert lock.path.exists()
        lock.release()
    own = open_own(tmp_path)
    assert own.found == Contents()
    assert folder.journals() == [own.lock.path]
    own.close()


def test_with_nothing_in_it_our_journal_is_removed(tmp_path: Path) -> None:
    """The folder of a worker that ended well is empty."""
    own = open_own(tmp_path)
    own.close()
    assert list(own.folder.path.iterdir()) == []


def test_with_something_in_it_our_journal_stays(tmp_path: Path) -> None:
    """Free for the next."""
    own = open_own(tmp_path)
    own.file.apply(make_entry(7).insertion())
    own.close()
    assert held_in(own.lock.path) == [7]
    (lock,) = own.folder.take_free()
    lock.release()


def test_what_was_taken_by_a_call_that_nobody_waited_for_stays(tmp_path: Path) -> None:
    """A stop in the middle of a look round: it is in no memory, but in the file."""
    own = open_own(tmp_path)
    leave_behind(own.folder, make_entry(7))
    own.take_over()
    own.close()
    assert held_in(own.lock.path) == [7]


# --- Dying half-way -----------------------------------------------------------------------------------


def test_copied_but_not_deleted_nothing_is_doubled(tmp_path: Path) -> None:
    """Its taker died in between: two journals have it, and it is found once, with one death."""
    folder = state_folder(tmp_path)
    marks = [fact("claiming_since", 5.5), fact("claiming_until", 66.5)]
    running = make_entry(7, running=True, lines=[HeldLine(1, "", "one")])
    path = leave_behind(folder, running, statements=[STONE.insertion(), LOST.insertion(), *marks])
    left = {file: file.read_bytes() for file in (path, path.with_suffix(".lock"))}
    own = open_own(tmp_path)
    once = own.found
    own.close()
    for file, data in left.items():
        file.write_bytes(data)
    own = open_own(tmp_path)
    assert numbers(own.found) == [7]
    found = read(own.lock.path)
    assert found.entries == own.found.entries == once.entries
    assert found.tombstones == [STONE]
    assert found.lost == own.found.lost
    assert [lost.id for lost in found.lost] == [lost.id for lost in once.lost]
    assert folder.journals() == [own.lock.path]
    own.close()


def test_what_went_on_since_is_not_set_back(tmp_path: Path) -> None:
    """A copy of an earlier state turns up, while we have the query."""
    own = open_own(tmp_path)
    own.file.apply(make_entry(7, outcome=Done("42")).insertion())
    leave_behind(own.folder, make_entry(7, running=True))
    own.take_over()
    assert read(own.lock.path).entries == [make_entry(7, outcome=Done("42"))]
    own.close()


def test_what_others_left_before_the_error_is_kept(tmp_path: Path) -> None:
    """The first journal is taken, the second is damaged: the first one's queries are in ours, which stays."""
    folder = state_folder(tmp_path)
    leave_behind(folder, make_entry(7))
    bad = leave_behind(folder, make_entry(8))
    last = bad.with_name("f" * 16 + "-0000.journal")
    bad.rename(last)
    last.write_bytes(b"garbage" * 1000)
    with pytest.raises(JournalError, match="set aside"):
        open_own(tmp_path)
    own = open_own(tmp_path)
    assert numbers(own.found) == [7]
    own.close()
