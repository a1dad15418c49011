"""What a journal consists of, and how each of it is written in SQL."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import attrs

from trio_worker.journal_usage import USAGE_SCHEMA, StoredUsage
from trio_worker.query import Done, Failed, Outcome, Query, Released

__all__ = ["SCHEMA", "Contents", "Entry", "HeldLine", "LostClaim", "Statement", "Tombstone", "fact"]

Statement = tuple[str, Sequence[object]]
"""SQL and its values. It can be repeated where it is not known whether it was carried out."""

SCHEMA = f"""{USAGE_SCHEMA};
CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE held (
    id TEXT PRIMARY KEY,
    query_id TEXT NOT NULL,
    query TEXT NOT NULL,
    source TEXT NOT NULL,
    claimed_at REAL NOT NULL,
    running INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    retries INTEGER NOT NULL,
    deaths INTEGER NOT NULL,
    blamed INTEGER NOT NULL,
    earlier INTEGER NOT NULL,
    due REAL,
    outcome TEXT,
    ended_at REAL,
    reported INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    last_number INTEGER NOT NULL,
    dead TEXT,
    saved TEXT
);
CREATE TABLE lines (
    held TEXT NOT NULL, number INTEGER NOT NULL, time TEXT NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY (held, number)
) WITHOUT ROWID;
CREATE TABLE tombstones (
    query_id TEXT NOT NULL, created TEXT NOT NULL, until REAL NOT NULL,
    attempts INTEGER NOT NULL, retries INTEGER NOT NULL, deaths INTEGER NOT NULL, blamed INTEGER NOT NULL,
    earlier INTEGER NOT NULL, saved TEXT,
    PRIMARY KEY (query_id, created)
) WITHOUT ROWID;
CREATE TABLE lost (id TEXT PRIMARY KEY, since REAL NOT NULL, until REAL NOT NULL, noted_at REAL NOT NULL);
"""
# A query's number is TEXT: an integer of JSON has no bounds, and SQLite's has 64 bits.


def fact(name: str, value: object) -> Statement:
    """Write down a fact of the process."""
    known = _storable(value) if isinstance(value, str) else value
    return ("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", (name, known))


class HeldLine(NamedTuple):
    """A line of a query's log that WebBuddy does not have yet."""

    number: int
    time: str
    text: str

    def insertion(self, held: str) -> Statement:
        """Write it down, unless it is there.

        Args:
            held: The name of its query's entry.
        """
        values = (held, self.number, self.time, _storable(self.text))
        return ("INSERT OR IGNORE INTO lines (held, number, time, text) VALUES (?, ?, ?, ?)", values)

    @classmethod
    def from_row(cls, number: int, time: str, text: str | bytes) -> HeldLine:
        """Read what `insertion` has written."""
        return cls(number, time, _stored(text))


@attrs.define(kw_only=True)
class Entry:
    """What the journal knows of one query that a process holds.

    Attributes:
        id: The entry's own name, the same in whichever file it is.
        query: As WebBuddy handed it out.
        source: ``"push"`` or ``"poll"``.
        claimed_at: When, in epoch seconds of this machine's clock.
        running: Whether its handler was at work when this was written.
        attempts: How often its handler has been started.
        retries: How often it was put aside by the handler's own wish.
        deaths: How often a process died, not by an orderly stop, while its handler was at work.
        blamed: How many of these deaths came while it was the only one at work.
        earlier: How many log entries went out in earlier claims of ours, before a crash and a requeue.
        due: When a query that was put aside is to be tried again, in epoch seconds.
        outcome: How it ended, or None.
        ended_at: When, in epoch seconds.
        reported: Whether WebBuddy has taken the outcome, and only log entries are missing.
        entries: How many log entries have gone out.
        last_number: The number of the newest line of its log that has gone out.
        dead: Why WebBuddy will never take the outcome, or None.
        saved: What its handler has saved for its next attempt, as JSON, or None.
        lines: The lines that have not gone out, in order.
    """

    id: str
    query: Query
    source: Literal["push", "poll"]
    claimed_at: float
    running: bool = False
    attempts: int = 0
    retries: int = 0
    deaths: int = 0
    blamed: int = 0
    earlier: int = 0
    due: float | None = None
    outcome: Outcome | None = None
    ended_at: float | None = None
    reported: bool = False
    entries: int = 0
    last_number: int = 0
    dead: str | None = None
    saved: str | None = None
    lines: list[HeldLine] = attrs.field(factory=list)

    def insertion(self) -> list[Statement]:
        """Write it down as a whole, unless it is there."""
        # All that is written as it is at once: this is done for each query that is claimed.
        values = (str(self.query.id), *_as_they_are(self), *(_value(self, field) for field in _WRITERS))
        return [(_INSERT_ENTRY, values), *(line.insertion(self.id) for line in self.lines)]

    def update(self, *fields: str) -> Statement:
        """Write down what has changed.

        Args:
            *fields: The attributes that are to be written as they are now.
        """
        return (_update_sql(fields), (*(_value(self, field) for field in fields), self.id))

    def removal(self) -> list[Statement]:
        """Forget it."""
        return [
            ("DELETE FROM held WHERE id = ?", (self.id,)),
            ("DELETE FROM lines WHERE held = ?", (self.id,)),
        ]

    @classmethod
    def from_row(cls, row: Mapping[str, Any], lines: list[HeldLine]) -> Entry:
        """Read what `insertion` and `update` have written.

        Raises:
            ValueError: It can't be what they have written; so do AttributeError, KeyError, TypeError.
        """
        values = {field: row[field] for field in _FIELDS}
        values["query"] = Query.from_json(json.loads(values["query"]))
        values["outcome"] = _read_outcome(values["outcome"])
        values["dead"], values["saved"] = _stored(values["dead"]), _stored(values["saved"])
        values["running"], values["reported"] = bool(values["running"]), bool(values["reported"])
        return cls(**values, lines=lines)


@attrs.frozen(kw_only=True)
class Tombstone:
    """What is remembered of a query that was put back after a crash, in case it is claimed here again.

    Attributes:
        query_id: Its number.
        created: When it was created, as text; a number may be used again in a new database.
        until: When it may be forgotten, in epoch seconds.
        attempts: As in `Entry`; so are the following.
        retries: …
        deaths: …
        blamed: …
        earlier: …
        saved: …
    """

    query_id: int
    created: str
    until: float
    attempts: int
    retries: int
    deaths: int
    blamed: int
    earlier: int = 0
    saved: str | None = None

    def write_on(self, entry: Entry) -> None:
        """Let a new claim of the query begin where the earlier one has ended."""
        entry.attempts, entry.retries = self.attempts, self.retries
        entry.deaths, entry.blamed, entry.earlier = self.deaths, self.blamed, self.earlier
        entry.saved = self.saved

    def insertion(self) -> Statement:
        """Write it down; of two for one query the worst stays, and what was saved last."""
        saved = None if self.saved is None else _storable(self.saved)
        row = attrs.asdict(self) | {"query_id": str(self.query_id), "saved": saved}
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        worst = ", ".join(f"{name} = max({name}, excluded.{name})" for name in list(row)[2:-1])
        worst += ", saved = coalesce(excluded.saved, saved)"
        sql = f"INSERT INTO tombstones ({names}) VALUES ({marks}) ON CONFLICT DO UPDATE SET {worst}"  # noqa: S608
        return (sql, tuple(row.values()))

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Tombstone:
        """Read what `insertion` has written."""
        return cls(**{**row, "query_id": int(row["query_id"]), "saved": _stored(row["saved"])})


@attrs.frozen(kw_only=True)
class LostClaim:
    """A time in which WebBuddy may have handed out a query of which nobody here has heard.

    Attributes:
        id: Its own name.
        since: The beginning, in epoch seconds by WebBuddy's clock.
        until: The end.
        noted_at: When it was noted, in epoch seconds of this machine's clock.
    """

    id: str
    since: float
    until: float
    noted_at: float

    def insertion(self) -> Statement:
        """Write it down, unless it is there."""
        row = attrs.astuple(self)
        return ("INSERT OR IGNORE INTO lost (id, since, until, noted_at) VALUES (?, ?, ?, ?)", row)

    def update(self) -> Statement:
        """Write down its time as it is now."""
        return ("UPDATE lost SET since = ?, until = ? WHERE id = ?", (self.since, self.until, self.id))

    def removal(self) -> Statement:
        """Forget it."""
        return ("DELETE FROM lost WHERE id = ?", (self.id,))


@attrs.define
class Contents:
    """All that is in a journal.

    Attributes:
        facts: Of the process: ``url``, ``account``, ``boot``, ``stopping``, ``claiming_since`` and so on.
        entries: What it holds, the oldest claim first.
        tombstones: Of queries that were put back.
        lost: The claims whose answers were lost.
        usages: What models have used, in order.
    """

    facts: dict[str, Any] = attrs.field(factory=dict)
    entries: list[Entry] = attrs.field(factory=list)
    tombstones: list[Tombstone] = attrs.field(factory=list)
    lost: list[LostClaim] = attrs.field(factory=list)
    usages: list[StoredUsage] = attrs.field(factory=list)

    def insertion(self) -> list[Statement]:
        """Write all of it down in another journal, but for the facts."""
        statements = [statement for entry in self.entries for statement in entry.insertion()]
        statements += [tombstone.insertion() for tombstone in self.tombstones]
        statements += [usage.insertion() for usage in self.usages]
        return statements + [lost.insertion() for lost in self.lost]


# --- Values -----------------------------------------------------------------------------------------


def _storable(text: str) -> str | bytes:
    """SQLite takes no lone surrogate in a text; in bytes it takes anything."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def _stored(value: Any) -> Any:
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def _query_text(query: Query) -> str:
    return _encode(query.to_json())


# In ASCII, so that any text can be stored. Made once: `json.dumps` makes one for each call.
_encode = json.JSONEncoder(separators=(",", ":")).encode


def _outcome_text(outcome: Outcome) -> str:
    # Not `attrs.asdict`, which looks for more of its kind in each value: this is done for each query.
    return _encode(
        {"is": _NAMES[type(outcome)], **{name: getattr(outcome, name) for name in _PARTS[type(outcome)]}}
    )


def _read_outcome(text: str | None) -> Outcome | None:
    if text is None:
        return None
    values = json.loads(text)
    return _OUTCOMES[values.pop("is")](**values)


_OUTCOMES: dict[str, type[Outcome]] = {"done": Done, "failed": Failed, "released": Released}
_NAMES = {kind: name for name, kind in _OUTCOMES.items()}
_PARTS = {kind: tuple(field.name for field in attrs.fields(kind)) for kind in _NAMES}

_WRITERS: dict[str, Callable[[Any], object]] = {
    "query": _query_text,
    "outcome": _outcome_text,
    "dead": _storable,
    "saved": _storable,
}
_PLAIN = tuple(field.name for field in attrs.fields(Entry) if field.name not in ("lines", *_WRITERS))
_FIELDS = (*_PLAIN, *_WRITERS)
_as_they_are = attrgetter(*_PLAIN)
_INSERT_ENTRY = (
    f"INSERT OR IGNORE INTO held (query_id, {', '.join(_FIELDS)}) VALUES (?{', ?' * len(_FIELDS)})"  # noqa: S608 - our names
)


def _value(entry: Entry, field: str) -> object:
    value = getattr(entry, field)
    writer = _WRITERS.get(field)
    return value if writer is None or value is None else writer(value)


@cache
def _update_sql(fields: tuple[str, ...]) -> str:
    return f"UPDATE held SET {', '.join(f'{field} = ?' for field in fields)} WHERE id = ?"  # noqa: S608 - our names
