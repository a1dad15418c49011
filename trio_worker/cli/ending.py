"""How a command ends: by itself, by a signal, or because nobody reads its output any more."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable

import click
import trio

from trio_worker.cli.check_report import WRONG_SETTINGS
from trio_worker.errors import SettingsError, leaves

__all__ = ["Interruption", "after_signal", "complain", "run_command"]

SIGNALLED = 128  # plus the signal's number, as shells count: 130 for Ctrl-C
NOBODY_READS = SIGNALLED + signal.SIGPIPE


class Interruption:
    """A signal that asks a command to end.

    Attributes:
        scope: For the command to enter, once, around what a signal cuts short. What stands outside of it
            is the command's clean-up, which a signal does not disturb.
        signals: Those that do.
        signal: The signal that came, or None.
    """

    def __init__(self) -> None:
        self.signals = _signals()
        self.scope = trio.CancelScope()
        self.signal: int | None = None

    @property
    def exit_code(self) -> int:
        """What to end with after a signal."""
        return after_signal(self.signal or 0)


def after_signal(number: int) -> int:
    """Give the exit code of what a signal has ended."""
    return SIGNALLED + number


async def _obey_signals(interruption: Interruption, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(*interruption.signals) as signals:
        task_status.started()
        async for number in signals:
            interruption.signal = interruption.signal or number
            interruption.scope.cancel()


def _signals() -> list[int]:
    wanted = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else it is nohup's wish
        wanted.append(signal.SIGHUP)
    return [int(number) for number in wanted]


def run_command(command: Callable[[Interruption], Awaitable[int]]) -> int:
    """Run a command in Trio.

    Not with Trio's KeyboardInterrupt: that is raised wherever the program happens to be, in a
    clean-up as well.

    Args:
        command: Returns the exit code.

    Returns:
        The exit code: the command's own, or 141 when its output goes into a pipe that nobody reads
        any more (``| head``), or 2 when the environment turns out to be wrong.
    """
    code: int = NOBODY_READS
    try:
        code = trio.run(_obeying_signals, command)
    except* SettingsError as group:  # a proxy's, or certificates': seen only on the way to WebBuddy
        code = WRONG_SETTINGS
        for leaf in leaves(group):
            for problem in leaf.problems if isinstance(leaf, SettingsError) else ():
                complain(problem)
    except* BrokenPipeError:
        # Python would write what is still buffered at its exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


async def _obeying_signals(command: Callable[[Interruption], Awaitable[int]]) -> int:
    interruption = Interruption()
    async with trio.open_nursery() as nursery:
        await nursery.start(_obey_signals, interruption)
        code = await command(interruption)
        nursery.cancel_scope.cancel()
    return code


def complain(sentence: object) -> None:
    """Tell the operator what went wrong, on stderr."""
    click.echo(f"trio-worker: {sentence}", err=True)
