"""Whether the worker could keep its journal where ``WORKER_STATE_DIR`` says, and what is held there."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import trio

from trio_worker.cli.check_report import Mark, Report
from trio_worker.cli.outbox_table import counted
from trio_worker.cli.trial_journal import try_out
from trio_worker.disk_kind import disk_warning, read_mounts
from trio_worker.errors import JournalError
from trio_worker.holdings import Holdings, Others, look_beside, look_into
from trio_worker.launch import state_folder
from trio_worker.settings import JournalSync, Settings
from trio_worker.state_folder import Address, StateFolder

__all__ = ["check_folder"]

DISK_SECONDS = 10.0  # for all that the disk is asked

Finding = tuple[Mark, str]


async def check_folder(settings: Settings, report: Report) -> None:
    """Write to the folder as a start would, and look at what is held there. Nothing is left behind.

    Args:
        settings: The settings.
        report: Where to say what was found.
    """
    look = partial(_look, state_folder(settings), settings.journal_sync)
    findings: list[Finding] = [
        ("problem", f"{settings.state_dir}: the disk has not answered for {DISK_SECONDS:g} s")
    ]
    with trio.move_on_after(DISK_SECONDS):
        findings = await trio.to_thread.run_sync(look, abandon_on_cancel=True)
    for mark, sentence in findings:
        if mark == "problem":
            report.fail("state folder", sentence)
        else:
            report.say(mark, "state folder", sentence)


def _look(folder: StateFolder, sync: JournalSync) -> list[Finding]:
    try:
        try_out(folder, sync)
        return list(_findings(folder, look_into(folder), look_beside(folder)))
    except JournalError as error:
        return [("problem", f"{error}. No worker starts without: a crash would lose what it holds.")]


def _findings(folder: StateFolder, holdings: Holdings, others: list[Others]) -> Iterator[Finding]:
    for problem in holdings.problems:
        yield "problem", problem
    held = _held(holdings, folder.address if others else None)
    warning = disk_warning(folder.root.resolve(), read_mounts())
    if warning is not None:
        yield "note", f"{warning}. {held}"
    elif not holdings.problems:
        yield "fine", f"{folder.path} can be written to. {held}"
    if holdings.set_aside:
        journals = counted(len(holdings.set_aside), "unreadable journal was", "unreadable journals were")
        yield "note", f"{journals} set aside there (trio-worker outbox)"
    for other in others:
        yield "note", _held_beside(other)


def _held_beside(other: Others) -> str:
    held = f"{counted(other.held, 'query is', 'queries are')} held beside it for {other.whose}"
    if not other.left:
        return f"{held}, by a worker that lives" if other.held else f"{held}, in an unreadable journal"
    them = "it" if other.left == 1 else "them"
    return (
        f"{held}: only a worker with these settings takes {them} up. If yours have changed, start it once"
        f" as it was: {other.settings} trio-worker run"
    )


def _held(holdings: Holdings, address: Address | None) -> str:
    """Say how many; with the address where there are others, or "nothing" would not be the whole truth."""
    if not holdings.found:
        whose = "there" if address is None else f"for {address.account!r} at {address.webbuddy_url}"
        return f"Nothing is held {whose}."
    held = counted(len(holdings.found), "query is", "queries are")
    if not holdings.dead_letters:
        return f"{held} held there."
    letters = counted(len(holdings.dead_letters), "dead letter")
    return f"{held} held there, with {letters} (trio-worker outbox)."
