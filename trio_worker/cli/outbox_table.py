"""How what is held is shown: a table for people, JSON for programs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs
from rich.cells import cell_len, set_cell_size

from trio_worker import clock
from trio_worker.cli.age import age_text
from trio_worker.holdings import Found
from trio_worker.query import Done, Failed, Outcome, Released

__all__ = ["OUTCOMES", "counted", "moment", "state", "table", "to_json"]

_HEAD = ("query", "state", "attempts", "age", "outcome")
_GAP = "  "
_LEAST_OUTCOME = 12  # cells, however narrow the screen is

OUTCOMES: dict[type, str] = {Done: "done", Failed: "failed", Released: "put back"}


def table(found: Sequence[Found], width: int) -> list[str]:
    """Show queries, one a line; a dead letter's reason stands below it.

    Args:
        found: The queries.
        width: How many cells a line may have.
    """
    rows = [_row(one) for one in found]
    widths = [max(len(row[column]) for row in (_HEAD, *rows)) for column in range(len(_HEAD) - 1)]
    room = max(_LEAST_OUTCOME, width - sum(widths) - len(_GAP) * len(widths))
    lines = [_line(_HEAD, widths, room)]
    for one, row in zip(found, rows, strict=True):
        lines.append(_line(row, widths, room))
        if one.entry.dead is not None:
            indent = " " * widths[0] + _GAP
            lines += textwrap.wrap(
                _one_line(one.entry.dead), max(width, 40), initial_indent=indent, subsequent_indent=indent
            )
    return lines


def _row(found: Found) -> tuple[str, ...]:
    entry = found.entry
    return (
        str(entry.query.id),
        state(found),
        str(entry.attempts),
        age_text(clock.now() - entry.claimed_at),
        _words(entry.outcome),
    )


def _line(row: Sequence[str], widths: Sequence[int], room: int) -> str:
    query, named, attempts, old, outcome = row
    cells = [
        query.rjust(widths[0]),
        named.ljust(widths[1]),
        attempts.rjust(widths[2]),
        old.rjust(widths[3]),
        _shortened(outcome, room),
    ]
    return _GAP.join(cells).rstrip()


def state(found: Found) -> str:
    """Say in two words what a held query waits for."""
    entry = found.entry
    if entry.dead is not None:
        return "dead letter"
    if entry.outcome is not None:
        return "log waits" if entry.reported else "result waits"
    if entry.due is not None:
        return f"put aside until {moment(entry.due)}"
    if entry.running:
        return "running" if found.owned else "cut off"
    return "waits to be run"


def counted(count: int, one: str, many: str | None = None) -> str:
    """Name so many of a thing."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def moment(epoch: float) -> str:
    """Give local time; with the day, where that is not today."""
    then, now = datetime.fromtimestamp(epoch, UTC).astimezone(), datetime.fromtimestamp(clock.now(), UTC)
    if then.date() == now.astimezone().date():
        return f"{then:%H:%M:%S}"
    return f"{then:%Y-%m-%d %H:%M}"


def _words(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    text = outcome.answer if isinstance(outcome, Done) else outcome.reason
    return f"{OUTCOMES[type(outcome)]}: {_one_line(text[:1000])}"


def _one_line(text: str) -> str:
    """Text of others, as one line and without what a terminal would obey."""
    line = " ".join(text.split())
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in line)


def _shortened(text: str, room: int) -> str:
    if cell_len(text) <= room:
        return text
    return set_cell_size(text, room - 1).rstrip() + "…"


# --- JSON -------------------------------------------------------------------------------------------


def to_json(found: Iterable[Found]) -> bytes:
    """Give all that is known of dead letters, in UTF-8.

    A lone surrogate, which UTF-8 does not have, is escaped as JSON does it.
    """
    text = json.dumps([_letter(one) for one in found], ensure_ascii=False, indent=2)
    return (text + "\n").encode("utf-8", "backslashreplace")


def _letter(found: Found) -> dict[str, Any]:
    entry = found.entry
    outcome = entry.outcome
    return {
        "query": entry.query.to_json(),
        "why": entry.dead,
        "outcome": None
        if outcome is None
        else {"is": type(outcome).__name__.lower(), **attrs.asdict(outcome)},
        "claimed_at": _iso(entry.claimed_at),
        "ended_at": None if entry.ended_at is None else _iso(entry.ended_at),
        "attempts": entry.attempts,
        "retries": entry.retries,
        "log_entries_sent": entry.entries,
        # Those that WebBuddy does not have; the others are there.
        "log_lines_not_sent": [line._asdict() for line in entry.lines],
    }


def _iso(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).isoformat()
