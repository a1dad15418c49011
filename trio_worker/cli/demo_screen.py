"""What the demo shows while it runs: a table that lives, or plain lines where there is no terminal."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

import attrs
import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trio_worker.cli.demo_queries import Sight

__all__ = ["PlainScreen", "Screen", "make_screen"]

MOST_ROWS = 15
OTHER_LINES = 5  # of the screen: the table's head, the counts, and room for the cursor

_COLOURS = {"queued": "dim", "in_progress": "yellow", "done": "green", "failed": "red"}


class Screen(Protocol):
    """Where the queries are shown."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, sights: Sequence[Sight]) -> None:
        """Show the queries as they are now."""
        ...


def make_screen() -> Screen:
    """Make what fits stdout."""
    console = Console(highlight=False)
    if sys.stdout.isatty() and not console.is_dumb_terminal:
        return LiveScreen(console)
    return PlainScreen()


@attrs.define
class PlainScreen:
    """Prints a line for each new status of a query."""

    _seen: dict[int, str] = attrs.field(factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, sights: Sequence[Sight]) -> None:
        """Print what has changed since the last time."""
        for sight in sorted(sights, key=lambda sight: sight.changed):
            if self._seen.get(sight.number) != sight.status:
                self._seen[sight.number] = sight.status
                click.echo(_line(sight))


def _line(sight: Sight) -> str:
    start = f"query {sight.number:<3} {sight.status:<11}  {sight.text}"
    if not sight.ended or sight.waited is None:
        return start
    found = f"found{f' by {sight.found_by}' if sight.found_by else ''} after {_seconds(sight.waited)}"
    return f"{start}  ({found}, ran {_seconds(sight.ran)})  {sight.last_line}"


class LiveScreen:
    """A table, drawn anew in its place.

    Without rich's own refreshing, which is a thread: the demo looks ten times a second anyway.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, sights: Sequence[Sight]) -> None:
        """Draw the table."""
        rows = _choose(sights, min(MOST_ROWS, max(1, self._console.height - OTHER_LINES)))
        self._live.update(Group(_table(rows), _counts(sights, len(rows))), refresh=True)


def _choose(sights: Sequence[Sight], most: int) -> list[Sight]:
    """Those that changed last, in the order of their numbers."""
    latest = sorted(sights, key=lambda sight: sight.changed)[-most:]
    return sorted(latest, key=lambda sight: sight.number)


def _table(rows: Sequence[Sight]) -> Table:
    table = Table(box=None, pad_edge=False, expand=True, header_style="bold")
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("query", ratio=1, no_wrap=True)
    table.add_column("status", min_width=11, no_wrap=True)
    table.add_column("found", min_width=5, no_wrap=True)
    table.add_column("pick-up", justify="right", min_width=7, no_wrap=True)
    table.add_column("run", justify="right", min_width=5, no_wrap=True)
    table.add_column("last log entry", ratio=1, no_wrap=True)
    for row in rows:
        table.add_row(
            str(row.number),
            Text(row.text),
            Text(row.status, _COLOURS.get(row.status, "")),
            row.found_by,
            _seconds(row.waited),
            _seconds(row.ran),
            Text(row.last_line, "dim"),
        )
    return table


def _counts(sights: Sequence[Sight], shown: int) -> Text:
    counts = Counter(sight.status for sight in sights)
    parts = [f"{counts[status]} {status}" for status in _COLOURS]
    if shown < len(sights):
        parts.append(f"the latest {shown} of {len(sights)} are shown")
    return Text(" · ".join(parts), "dim", no_wrap=True, overflow="ellipsis")


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1000:.0f} ms" if seconds < 0.1 else f"{seconds:.1f} s"
