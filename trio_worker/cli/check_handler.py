"""What a handler itself says to ``trio-worker check``: whether what it needs is there."""

from __future__ import annotations

import trio

from trio_worker.cli.check_report import WRONG_SETTINGS, Mark, Report
from trio_worker.errors import SettingsError
from trio_worker.handlers.checking import Check, check_of
from trio_worker.handlers.loading import Handler

__all__ = ["ask_handler"]

PATIENCE = 30.0  # seconds


def ask_handler(handler: Handler, report: Report) -> None:
    """Let a handler's own check look, if it has one.

    Args:
        handler: It.
        report: Where to say what was found.
    """
    check = check_of(handler.function)
    if check is None:
        return
    try:
        trio.run(_ask, check, report)
    except SettingsError as error:
        for problem in error.problems:
            report.fail("handler", problem, WRONG_SETTINGS)


async def _ask(check: Check, report: Report) -> None:
    def say(mark: Mark, what: str, sentence: str) -> None:
        if mark == "problem":
            report.fail(what, sentence)
        else:
            report.say(mark, what, sentence)

    with trio.move_on_after(PATIENCE) as patience:
        try:
            await check(say)
        except SettingsError:
            raise
        except Exception as error:  # noqa: BLE001 - the user's code: its bug is a line, too
            report.fail("handler", f"its check raised {type(error).__name__}: {error}")
    if patience.cancelled_caught:
        report.fail("handler", f"its check was not done within {PATIENCE:g} s")
