"""What a journal consists of: whatever is written comes out again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import attrs
import pytest

from tests.journals import make_entry
from trio_worker.journal_file import Contents, Entry, HeldLine, JournalFile, LostClaim, Tombstone
from trio_worker.journal_rows import fact
from trio_worker.query import Done, Failed, Outcome, Query, Released

SURROGATES = "half a smiley: \ud83d, and \udcff of a file name"
HUGE = "ж" * 1_000_000  # 2 MB

FULL_QUERY = Query(
    id=7,
    project=2,
    user=3,
    query_text="a question",
    status="in_progress",
    query_created=datetime(2025, 1, 2, 3, 4, 5, 678901, UTC),
    query_started=datetime(2025, 1, 2, 3, 4, 6, tzinfo=timezone(timedelta(hours=5, minutes=45))),
    query_finished=datetime(2025, 1, 2, 3, 4, 7, tzinfo=UTC),
    answer_text="of an earlier run",
    project_name="проект",
    user_name="somebody",
    logs_count=4,
    extra={"priority": [1, {"a": None}], "user": "of another shape"} | {"user_name": None},
)
FULL_ENTRY = Entry(
    id="a",
    query=attrs.evolve(FULL_QUERY, extra={"priority": [1, {"a": None}]}),
    source="poll",
    claimed_at=1.1e9 + 1 / 3,
    running=True,
    attempts=2,
    retries=3,
    deaths=4,
    blamed=5,
    earlier=6,
    due=1.2e9 + 1 / 3,
    outcome=Failed("it did not work", "error"),
    ended_at=1.3e9,
    reported=True,
    entries=6,
    last_number=7,
    dead="400: no",
    saved='{"page": 7, "\\ud83d": "' + SURROGATES + '"}',
    lines=[HeldLine(8, "+0.1s", "eight"), HeldLine(9, "+0.2s", ""), HeldLine(10, "+0.3s", "ten\nlines")],
)


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


def test_an_entry_comes_out_as_it_was(path: Path) -> None:
    """Every field, none with its default."""
    plain = make_entry()
    same = [
        field.name
        for field in attrs.fields(Entry)
        if getattr(FULL_ENTRY, field.name) == getattr(plain, field.name)
    ]
    assert same == []
    assert stored(path, FULL_ENTRY) == [FULL_ENTRY]


def test_a_plain_entry_comes_out_as_it_was(path: Path) -> None:
    """With all that may be missing missing; and with either of the two flags."""
    entries = [make_entry(1), make_entry(2, running=True), make_entry(3, reported=True)]
    assert stored(path, *entries) == entries


@pytest.mark.parametrize(
    "query",
    [
        attrs.evolve(FULL_QUERY, extra={}),
        Query(id=-1, extra={"user": "of another shape"}),
        Query(id=10**30, query_text="a number of JSON has no bounds"),
        Query(id=7, query_text=SURROGATES, answer_text="\0", extra={SURROGATES: SURROGATES}),
        Query(id=7, query_text="a\0b\r\n\u2028\x7f", user_name="\ufeff"),
        Query(id=7, query_text=HUGE, answer_text=HUGE),
    ],
    ids=["full", "shapes", "great number", "surrogates", "controls", "huge"],
)
def test_a_query_comes_out_as_it_was(query: Query, path: Path) -> None:
    """Whatever WebBuddy sent: one that could not be written down would stay in_progress."""
    (entry,) = stored(path, make_entry(query=query))
    assert entry.query == query
    file = JournalFile(path, read_only=True)
    assert file.held_ids() == {query.id}
    file.close()


@pytest.mark.parametrize(
    "outcome",
    [Done("42"), Done(HUGE), Done(SURROGATES), Failed("a\0b", "said_so"), Released("stopping"), None],
    ids=["done", "huge", "surrogates", "failed", "released", "none"],
)
def test_an_outcome_comes_out_as_it_was(outcome: Outcome | None, path: Path) -> None:
    """Of its kind, with its text."""
    (entry,) = stored(path, make_entry(outcome=outcome))
    assert entry.outcome == outcome
    assert type(entry.outcome) is type(outcome)


@pytest.mark.parametrize("text", [SURROGATES, "a\0b", HUGE, ""], ids=["surrogates", "nul", "huge", "empty"])
def test_any_text_comes_out_as_it_was(text: str, path: Path) -> None:
    """A line of a log, the reason of a dead letter."""
    entry = make_entry(dead=text, lines=[HeldLine(1, "+0.1s", text)])
    assert stored(path, entry) == [entry]


def test_lines_come_out_in_order(path: Path) -> None:
    """By their numbers, whenever each was written; each once; with their own query."""
    lines = [HeldLine(number, f"+{number}s", f"line {number}") for number in range(1, 21)]
    file = JournalFile(path)
    file.apply([*make_entry(1).insertion(), *make_entry(2).insertion()])
    file.apply([line.insertion("entry-1") for line in reversed(lines)])
    file.apply([line.insertion("entry-1") for line in lines])
    file.apply([HeldLine(1, "", "another").insertion("entry-2")])
    one, two = file.load().entries
    file.close()
    assert one.lines == lines
    assert two.lines == [HeldLine(1, "", "another")]


def test_entries_come_out_in_the_order_of_their_claims(path: Path) -> None:
    """And those of one moment in the order in which they were written."""
    claims = [(9, 5.0), (10, 5.0), (8, 5.0), (3, 7.0), (100, 2.0)]
    entries = [make_entry(number, claimed_at=at) for number, at in claims]
    assert [entry.query.id for entry in stored(path, *entries)] == [100, 9, 10, 8, 3]


def test_an_update_writes_only_what_it_names(path: Path) -> None:
    """The other fields, and other entries, stay as they are on disk."""
    entry, other = make_entry(1), make_entry(2)
    file = JournalFile(path)
    file.apply(Contents(entries=[entry, other]).insertion())
    entry.outcome, entry.ended_at, entry.attempts = Done("42"), 1.5e9, 9
    file.apply([entry.update("outcome", "ended_at")])
    found = file.load().entries
    file.close()
    assert found == [make_entry(1, outcome=Done("42"), ended_at=1.5e9), other]


def test_a_removal_leaves_nothing(path: Path) -> None:
    """Nor lines, nor anything of another's."""
    other = make_entry(2, lines=[HeldLine(1, "", "stays")])
    file = JournalFile(path)
    file.apply(Contents(entries=[FULL_ENTRY, other]).insertion())
    file.apply(FULL_ENTRY.removal())
    assert file.load().entries == [other]
    file.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT text FROM lines").fetchall() == [("stays",)]


def test_an_entry_that_is_there_is_not_overwritten(path: Path) -> None:
    """What is taken over a second time has perhaps gone on since."""
    file = JournalFile(path)
    file.apply(make_entry(attempts=2).insertion())
    file.apply(make_entry(attempts=1).insertion())
    assert file.load().entries == [make_entry(attempts=2)]
    file.close()


def test_tombstones_losses_and_facts_come_out_as_they_were(path: Path) -> None:
    """And of two tombstones of one query the newer."""
    stone = Tombstone(query_id=10**20, created="2025", until=5.5, attempts=1, retries=2, deaths=3, blamed=4)
    newer = attrs.evolve(stone, until=6.5, attempts=9)
    lost = [
        LostClaim(id=name, since=at, until=at + 1.5, noted_at=at + 2) for name, at in [("b", 1.0), ("a", 2.0)]
    ]
    file = JournalFile(path)
    file.apply(Contents(tombstones=[stone], lost=lost).insertion())
    file.apply([newer.insertion(), fact("url", SURROGATES), fact("n", 1), fact("since", 0.5), fact("n", 2)])
    found = file.load()
    file.close()
    assert found.tombstones == [newer]
    assert found.lost == lost
    assert found.facts["n"] == 2
    assert found.facts["since"] == 0.5
