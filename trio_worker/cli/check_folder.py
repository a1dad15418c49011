"""Whether the worker could keep its journal where ``WORKER_STATE_DIR`` says, and what is held there."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import trio

from trio_worker.cli.check_report import Mark, Report
from trio_worker.cli.outbox_journals import Holdings, Others, look_beside, look_into
from trio_worker.cli.outbox_table import counted
from trio_worker.disk_kind import disk_warning, read_mounts
from trio_worker.errors import JournalError
from trio_worker.launch import state_folder
from trio_worker.settings import Settings
from trio_worker.state_folder import StateFolder

__all__ = ["check_folder"]

DISK_SECONDS = 10.0  # for all that the disk is asked

Finding = tuple[Mark, str]


async def check_folder(settings: Settings, report: Report) -> None:
    """Write to the folder as a start would, and look at what is held there. Nothing is left behind.

    Args:
        settings: The settings.
        report: Where to say what was found.
    """
    look = partial(_look, state_folder(settings))
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


def _look(folder: StateFolder) -> list[Finding]:
    try:
        folder.try_out()
        return list(_findings(folder, look_into(folder), look_beside(folder)))
    except JournalError as error:
        return [("problem", f"{error}. No worker starts without: a crash would lose what it holds.")]


def _findings(folder: StateFolder, holdings: Holdings, others: list[Others]) -> Iterator[Finding]:
    for problem in holdings.problems:
        yield "problem", problem
    warning = disk_warning(folder.root.resolve(), read_mounts())
    if warning is not None:
        yield "note", f"{warning}. {_held(holdings)}"
    elif not holdings.problems:
        yield "fine", f"{folder.path} can be written to. {_held(holdings)}"
    if holdings.set_aside:
        journals = counted(len(holdings.set_aside), "unreadable journal was", "unreadable journals were")
        yield "note", f"{journals} set aside there (trio-worker outbox)"
    for other in others:
        held = counted(other.held, "query is", "queries are")
        whose = f"{other.account!r} at {other.url}" if other.account is not None else str(other.path)
        yield "note", f"{held} held beside it for {whose}: only a worker with these settings takes them up"


def _held(holdings: Holdings) -> str:
    if not holdings.found:
        return "Nothing is held there."
    held = counted(len(holdings.found), "query is", "queries are")
    if not holdings.dead_letters:
        return f"{held} held there."
    letters = counted(len(holdings.dead_letters), "dead letter")
    return f"{held} held there, with {letters} (trio-worker outbox)."
