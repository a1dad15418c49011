"""``trio-worker outbox``: what this machine's workers hold, and what is to become of dead letters."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Literal

import attrs
import click

from trio_worker.cli.ending import complain
from trio_worker.cli.outbox_journals import Change, change_letters, let_go
from trio_worker.cli.outbox_query import in_full
from trio_worker.cli.outbox_table import counted, table, to_json
from trio_worker.cli.settings_here import folder_here
from trio_worker.errors import JournalError, SettingsError
from trio_worker.holdings import Found, Holdings, Others, look_beside, look_into
from trio_worker.state_folder import StateFolder

__all__ = ["Action", "Wish", "open_outbox"]

DONE, NOT_DONE, WRONG_SETTINGS, BAD_JOURNAL = 0, 1, 2, 4

NARROWEST, WIDEST = 40, 160  # cells of a line
UNATTENDED = 80  # cells, where there is no terminal

Action = Literal["retry", "drop", "export"]


@attrs.frozen
class Wish:
    """What is to be shown, or done with dead letters.

    Attributes:
        action: What is done; None: queries are only shown.
        numbers: With those of these queries; to be dropped, also with what a dead worker has left of them.
        every: With all dead letters there are.
        file: Where to they are exported; ``-`` is stdout.
        ask: Whether to ask before something is lost.
    """

    action: Action | None = None
    numbers: Sequence[int] = ()
    every: bool = False
    file: str = "-"
    ask: bool = True


def open_outbox(wish: Wish) -> int:
    """Show what is held, or do what is wished.

    Returns:
        The exit code: 0, 1 nothing to do or not done, 2 a setting is wrong, 4 a journal can't be read.
    """
    try:
        folder = folder_here()
    except SettingsError as error:
        for problem in error.problems:
            complain(problem)
        return WRONG_SETTINGS
    try:
        holdings = look_into(folder)
        code = _obey(folder, holdings, wish)
    except JournalError as error:
        complain(error)
        return BAD_JOURNAL
    for problem in holdings.problems:
        complain(problem)
    return BAD_JOURNAL if holdings.problems else code


def _obey(folder: StateFolder, holdings: Holdings, wish: Wish) -> int:
    if wish.action is not None:
        return _act(folder, holdings, wish, wish.action)
    return _show_in_full(holdings, wish) if wish.numbers else _show(folder, holdings)


# --- What is shown ----------------------------------------------------------------------------------


def _show(folder: StateFolder, holdings: Holdings) -> int:
    for paragraph in _paragraphs(folder, holdings):
        click.echo(paragraph)
    return DONE


def _show_in_full(holdings: Holdings, wish: Wish) -> int:
    chosen = [found for found in holdings.found if found.entry.query.id in wish.numbers]
    if chosen:
        click.echo("\n\n".join(in_full(found) for found in chosen))
    return NOT_DONE if _complain_of_missing(holdings, wish, chosen) else DONE


def _paragraphs(folder: StateFolder, holdings: Holdings) -> Iterator[str]:
    whose = f"{folder.address.account!r} at {folder.address.webbuddy_url}"
    if holdings.found:
        yield f"Held for {whose}\nin {folder.path}:\n"
        yield "\n".join(table(holdings.found, _width()))
        yield from (f"\n{_wrapped(hint)}" for hint in _hints(holdings))
    elif not holdings.problems:
        yield f"Nothing is held for {whose} in {folder.root}."
    if holdings.set_aside:
        yield "\nUnreadable journals that were set aside; what they hold is not known:\n"
        yield "\n".join(f"  {path}" for path in holdings.set_aside)
    others = look_beside(folder)
    if others:
        yield f"\nHeld for others in {folder.root}, and left alone:\n"
        yield "\n".join(_described(other) for other in others)
        yield from _ways_out(others)


def _hints(holdings: Holdings) -> Iterator[str]:
    left = sum(found.is_left for found in holdings.found)
    if left:
        queries, them = counted(left, "query is", "queries are"), "it" if left == 1 else "them"
        yield (
            f"{queries} held by no worker that lives: the next that starts takes {them} up, and one that runs"
            f" does within 10 s. To let go of {them} instead: trio-worker outbox --drop ID."
        )
    if holdings.dead_letters:
        yield (
            "WebBuddy will not take a dead letter. It is kept until you say what is to become of it:"
            " trio-worker outbox --retry ID, --export FILE, or --drop ID."
        )


def _described(other: Others) -> str:
    whose = other.whose if other.account is not None else "somebody"
    held, unreadable = counted(other.held, "query", "queries"), ""
    if other.unreadable:
        unreadable = ", " + counted(other.unreadable, "unreadable journal")
    return f"  {held}{unreadable}: {whose}\n    {other.path}"


def _ways_out(others: Sequence[Others]) -> Iterator[str]:
    """Say how to be rid of what is held for others and by nobody who lives."""
    stranded = [other for other in others if other.left and other.account is not None]
    left = sum(other.left for other in stranded)
    if not left:
        return
    queries, them = counted(left, "query is", "queries are"), "it" if left == 1 else "them"
    yield "\n" + _wrapped(
        f"{queries} held by no worker that lives. Only one with the same settings takes {them} up: if yours"
        f" have changed, start it once as it was. To let go of {them} instead: trio-worker outbox --drop ID"
        " with those settings."
    )
    yield "\n" + "\n".join(f"  {other.settings} trio-worker run" for other in stranded)


def _width() -> int:
    return min(max(shutil.get_terminal_size((UNATTENDED, 24)).columns, NARROWEST), WIDEST)


def _wrapped(sentence: str) -> str:
    return textwrap.fill(sentence, _width(), break_long_words=False, break_on_hyphens=False)


# --- What is done -----------------------------------------------------------------------------------


def _act(folder: StateFolder, holdings: Holdings, wish: Wish, action: Action) -> int:
    letters = [found for found in holdings.found if _is_meant(found, wish)]
    missing = _complain_of_missing(holdings, wish, letters)
    if not letters:
        if wish.every:
            complain("there is no dead letter")
        return NOT_DONE
    if action == "drop" and wish.ask and (answer := _answer(letters)) is not True:
        return DONE if answer is False else NOT_DONE
    done = _export(letters, wish.file) if action == "export" else _change(folder, action, letters)
    return DONE if done and not missing else NOT_DONE


def _is_meant(found: Found, wish: Wish) -> bool:
    if found.is_dead_letter and wish.every:
        return True
    # What the next worker takes up is dropped only by its number.
    may_be = found.is_dead_letter or (found.is_left and wish.action == "drop")
    return may_be and found.entry.query.id in wish.numbers


def _complain_of_missing(holdings: Holdings, wish: Wish, letters: Sequence[Found]) -> bool:
    """Name those that were asked for and are not there, or no dead letters."""
    there = {found.entry.query.id for found in letters}
    held = {found.entry.query.id for found in holdings.found}
    missing = [number for number in dict.fromkeys(wish.numbers) if number not in there]
    for number in missing:
        complain(f"query {number} is {'held, but no dead letter' if number in held else 'not held here'}")
    return bool(missing)


def _answer(letters: Sequence[Found]) -> bool | None:
    """Ask before they are dropped; None when there is nobody to answer."""
    click.echo("\n".join(table(letters, _width())) + "\n", err=True)
    try:
        return click.confirm(f"Drop for good, answers and all: {_named(letters)}?", err=True)
    except click.Abort:
        click.echo(err=True)
        complain("nothing was dropped: nobody has answered. With --yes there is no question.")
        return None


def _change(folder: StateFolder, change: Change, letters: Sequence[Found]) -> bool:
    problems = change_letters(folder, change, {found.entry.id for found in letters if found.is_dead_letter})
    if change == "drop":
        problems += let_go(folder, {found.entry.id for found in letters if found.is_left})
    for problem in problems:
        complain(problem)
    if problems:
        return False
    if change == "drop":
        click.echo(
            f"Dropped: {_named(letters)}. At WebBuddy nothing has changed (trio-worker stuck shows what is"
            " in_progress there)."
        )
    else:
        click.echo(
            f"To be tried again: {_named(letters)}. A worker that runs does it within 10 s, otherwise the"
            " next that starts."
        )
    return True


def _export(letters: Sequence[Found], file: str) -> bool:
    data = to_json(letters)
    if file == "-":
        sys.stdout.buffer.write(data)
        return True
    try:
        # Queries and answers are nobody else's matter, as in the journal.
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as target:
            target.write(data)
    except OSError as error:
        complain(f"{file} can't be written: {error.strerror}")
        return False
    click.echo(f"Exported to {file}: {_named(letters)}. They are still here.")
    return True


def _named(letters: Sequence[Found]) -> str:
    numbers = sorted({found.entry.query.id for found in letters})
    return f"{'query' if len(numbers) == 1 else 'queries'} {', '.join(map(str, numbers))}"
