"""``trio-worker pause``, ``resume`` and ``drain``: orders to the workers that run on this state folder."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import click

from trio_worker import orders
from trio_worker.cli.ending import complain
from trio_worker.cli.outbox_table import counted
from trio_worker.cli.settings_here import folder_here
from trio_worker.errors import JournalError, SettingsError
from trio_worker.state_folder import StateFolder

__all__ = ["drain_workers", "pause_workers", "resume_workers"]

DONE, NOT_DONE, WRONG_SETTINGS, BAD_FOLDER = 0, 1, 2, 4

SOON = "within 2 s"  # that often they look
LOOK = 0.5  # seconds between two looks whether they have ended


def pause_workers() -> int:
    """Order a pause.

    Returns:
        The exit code: 0, 2 a setting is wrong, 4 the folder can't be used.
    """
    return _with_folder(_pause)


def resume_workers() -> int:
    """Take it back.

    Returns:
        The exit code, as of `pause_workers`.
    """
    return _with_folder(_resume)


def drain_workers(*, wait: bool) -> int:
    """Order a drain. Blocks, with ``wait``, until the processes have ended.

    Returns:
        The exit code, as of `pause_workers`; 1 when no worker runs here.
    """
    return _with_folder(lambda folder: _drain(folder, wait=wait))


def _with_folder(obey: Callable[[StateFolder], int]) -> int:
    try:
        return obey(folder_here())
    except SettingsError as error:
        for problem in error.problems:
            complain(problem)
        return WRONG_SETTINGS
    except JournalError as error:
        complain(error)
        return BAD_FOLDER


def _pause(folder: StateFolder) -> int:
    if not orders.pause(folder):
        _say("It is paused already.")
        return DONE
    count = len(orders.living(folder))
    now = f"{_processes(count)} here will take nothing new, {SOON}" if count else "no worker runs here now"
    _say(
        f"Paused: {now}. What workers hold goes on. Those that start later are paused as well, until"
        " trio-worker resume."
    )
    return DONE


def _resume(folder: StateFolder) -> int:
    if orders.resume(folder):
        _say(f"Resumed: queries are taken again, {SOON}.")
    else:
        _say("It is not paused.")
    return DONE


def _drain(folder: StateFolder, *, wait: bool) -> int:
    journals = orders.order_drain(folder)
    if not journals:
        complain(f"no worker runs on this state folder: {folder.path}")
        return NOT_DONE
    _say(
        f"{_processes(len(journals))} will take nothing new, {SOON}, and end when what runs there has ended."
    )
    if wait:
        _wait_for(folder, journals)
    return DONE


def _wait_for(folder: StateFolder, journals: list[Path]) -> None:
    left = journals
    while left:
        time.sleep(LOOK)
        alive = set(orders.living(folder))
        before, left = left, [journal for journal in left if journal in alive]
        if len(left) < len(before):
            _say(f"{len(journals) - len(left)} of {len(journals)} ended.")


def _processes(count: int) -> str:
    return counted(count, "worker process", "worker processes")


def _say(sentence: str) -> None:
    click.echo(textwrap.fill(sentence, 80, break_long_words=False, break_on_hyphens=False))
