"""The journal on disk: transactions, and what can't be used."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.journals import held_in, make_entry, read
from trio_worker.errors import JournalError
from trio_worker.journal_file import (
    VERSION,
    Contents,
    CorruptJournalError,
    Entry,
    HeldLine,
    JournalFile,
    LostClaim,
    NewerJournalError,
    Tombstone,
    describe,
)
from trio_worker.journal_rows import fact


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.journal"


def stored(path: Path | None, *entries: Entry) -> list[Entry]:
    """What comes out when this is put in."""
    file = JournalFile(path)
    try:
        file.apply(Contents(entries=list(entries)).insertion())
        return file.load().entries
    finally:
        file.close()


# --- Transactions -----------------------------------------------------------------------------------


def test_a_transaction_is_done_as_a_whole_or_not_at_all(path: Path) -> None:
    """And the next one is not disturbed by one that failed."""
    file = JournalFile(path)
    with pytest.raises(sqlite3.OperationalError):
        file.apply([*make_entry(1).insertion(), ("INSERT INTO nowhere VALUES (1)", ())])
    assert held_in(path) == []
    file.apply(make_entry(2).insertion())
    assert held_in(path) == [2]
    file.close()


def test_a_transaction_can_be_repeated(path: Path) -> None:
    """It may have been carried out although the disk complained."""
    entry = make_entry(1, lines=[HeldLine(1, "", "x")])
    lost = LostClaim(id="a", since=1.0, until=2.0, noted_at=3.0)
    statements = [*entry.insertion(), entry.update("running"), lost.insertion(), lost.update(), fact("n", 1)]
    file = JournalFile(path)
    file.apply(statements)
    before = file.load()
    file.apply(statements)
    assert file.load() == before
    file.close()


@pytest.mark.parametrize(("sync", "level"), [("full", 2), ("normal", 1)])
def test_a_commit_is_as_safe_as_was_asked_for(sync: Any, level: int, path: Path) -> None:
    """`full`: each is synchronized with the disk. In WAL mode, so that others may read meanwhile."""
    file = JournalFile(path, sync=sync)
    settings = [
        file._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")
    ]
    assert settings == [level, "wal"]
    file.close()


def test_others_read_while_it_is_written(path: Path) -> None:
    """What is committed, and no more; and they make nothing."""
    file = JournalFile(path)
    file.apply(make_entry(1).insertion())
    file._connection.execute("BEGIN IMMEDIATE")
    file._connection.execute(*make_entry(2).insertion()[0])
    reader = JournalFile(path, read_only=True)
    assert reader.held_ids() == {1}
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.apply(make_entry(3).insertion())
    reader.close()
    file._connection.execute("COMMIT")
    assert held_in(path) == [1, 2]
    file.close()
    with pytest.raises(JournalError, match="can't be opened or created"):
        JournalFile(path.with_name("none.journal"), read_only=True)


def test_what_is_read_is_of_one_moment(path: Path) -> None:
    """Another process goes on while we look: its query, and that query's lines, are of before or of after."""
    file = JournalFile(path)
    entry = make_entry(1, lines=[HeldLine(1, "", "one")])
    file.apply(entry.insertion())
    reader = JournalFile(path, read_only=True)
    reader._connection.set_trace_callback(
        lambda sql: file.apply(entry.removal()) if "FROM held" in sql else None
    )
    assert reader.load().entries == [entry]
    assert reader.load().entries == []
    reader.close()
    file.close()


def test_another_journal_without_a_schema_is_empty(path: Path) -> None:
    """Its process has begun this moment."""
    path.touch()
    reader = JournalFile(path, read_only=True)
    assert reader.load() == Contents()
    assert reader.held_ids() == set()
    reader.close()


def test_it_knows_when_nothing_is_left(path: Path) -> None:
    """Whatever the next process must know of counts, and facts of this one do not."""
    file = JournalFile(path)
    file.apply([fact("url", "http://a"), fact("stopping", 1)])
    assert file.is_empty()
    stone = Tombstone(query_id=1, created="", until=5.5, attempts=1, retries=2, deaths=3, blamed=4)
    lost = LostClaim(id="a", since=1.0, until=2.0, noted_at=3.0)
    removals = ["held", "tombstones", "lost", "facts"]
    for something in (
        make_entry().insertion()[0],
        stone.insertion(),
        lost.insertion(),
        fact("claiming_since", 1.0),
    ):
        file.apply([something])
        assert not file.is_empty()
        file.apply([(f"DELETE FROM {removals.pop(0)}", ())])  # noqa: S608
        assert file.is_empty()
    file.close()


# --- What can't be used -------------------------------------------------------------------------------


def load(path: Path) -> Contents:
    with closing(JournalFile(path)) as file:
        return file.load()


def garbage(data: bytes) -> bytes:
    return b"this was a journal once. " * 400


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped_page(data: bytes) -> bytes:
    middle = len(data) // 2 // 4096 * 4096
    return data[:middle] + bytes(255 - byte for byte in data[middle : middle + 4096]) + data[middle + 4096 :]


def broken_index(data: bytes) -> bytes:
    """All rows can be read; what finds them by their names is destroyed."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(data[:18] + b"\1\1" + data[20:])  # in memory there is no WAL
        sql = "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_held_1'"
        begin = (connection.execute(sql).fetchone()[0] - 1) * 4096
    return data[: begin + 8] + b"?" * 4088 + data[begin + 4096 :]


def no_schema(data: bytes) -> bytes:
    """A good database, of our version, with none of our tables."""
    return make_database(f"PRAGMA user_version = {VERSION}; CREATE TABLE x (y)")


def no_json(data: bytes) -> bytes:
    return data.replace(b'{"id":3,', b'{"id":3;')


def no_query(data: bytes) -> bytes:
    return data.replace(b'{"id":3,', b'{"ie":3,')


def no_text(data: bytes) -> bytes:
    return data.replace(b'{"id":3,', b'{"id":\xff,')


def make_database(script: str) -> bytes:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(script)
        return connection.serialize()


@pytest.mark.parametrize(
    "spoil", [garbage, half, flipped_page, broken_index, no_schema, no_json, no_query, no_text]
)
def test_a_damaged_journal_is_found_out(spoil: Any, path: Path) -> None:
    """And told from a disk that gives an error: it says which, and what is wrong. It is not changed."""
    stored(path, *(make_entry(number, dead="x" * 3000) for number in range(20)))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(CorruptJournalError, match=r"the journal .*/x\.journal ") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_an_unreadable_file_is_not_called_damaged(path: Path) -> None:
    """It may be all right tomorrow: nobody must set it aside."""
    path.mkdir()
    with pytest.raises(JournalError, match="can't be opened") as caught:
        JournalFile(path)
    assert not isinstance(caught.value, CorruptJournalError)


def test_a_locked_file_is_not_called_damaged(path: Path) -> None:
    """Somebody looks at it with another program."""
    stored(path, make_entry())
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(JournalError, match="locked") as caught:
        JournalFile(path, patience=0.0)
    assert not isinstance(caught.value, CorruptJournalError)
    other.close()


def test_a_newer_journal_is_left_alone(path: Path) -> None:
    """Not changed by a byte, whether to use or to look at; it says what to do."""
    path.write_bytes(make_database(f"PRAGMA user_version = {VERSION + 1}; CREATE TABLE held (something_new)"))
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(NewerJournalError, match=f"format {VERSION + 1}, known here: {VERSION}"):
            JournalFile(path, read_only=read_only)
    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_journal(path: Path) -> None:
    """Its process died before it could write anything."""
    path.touch()
    assert stored(path, make_entry()) == [make_entry()]


def test_a_journal_in_memory_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests, and for what need not outlive the process."""
    monkeypatch.chdir(tmp_path)
    assert stored(None, make_entry()) == [make_entry()]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_refuses_the_whole_transaction(path: Path) -> None:
    """In plain words, and what was there before stays readable."""
    file = JournalFile(path)
    file.apply(make_entry(1).insertion())
    (pages,) = file._connection.execute("PRAGMA page_count").fetchone()
    file._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(sqlite3.OperationalError) as caught:
        file.apply([*make_entry(2).insertion(), *make_entry(3, dead="x" * 1_000_000).insertion()])
    assert describe(caught.value) == "the disk is full (database or disk is full)"
    assert held_in(path) == [1]
    file._connection.execute("PRAGMA max_page_count = 100000")
    file.apply(make_entry(3, dead="x" * 1_000_000).insertion())
    assert held_in(path) == [1, 3]
    file.close()


def test_the_log_of_a_journal_does_not_grow_for_ever(path: Path) -> None:
    """A worker that runs for a year: the write-ahead log is taken back into the file and begun anew."""
    file = JournalFile(path, sync="normal")
    for number in range(3000):
        file.apply(make_entry(number, dead="x" * 3000).insertion())
        file.apply(make_entry(number).removal())
    size = sum(found.stat().st_size for found in path.parent.iterdir())
    file.close()
    assert size < 16_000_000
    assert read(path).entries == []
