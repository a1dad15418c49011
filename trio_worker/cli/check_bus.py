"""Whether the Redis would answer over which workers wake each other."""

from __future__ import annotations

from trio_worker.bus_opening import ask_bus, require_bus
from trio_worker.cli.check_report import WRONG_SETTINGS, Report
from trio_worker.errors import SettingsError
from trio_worker.settings import Settings

__all__ = ["check_bus"]


async def check_bus(settings: Settings, report: Report) -> None:
    """Ask it, where one is set. Nothing is taken from it, and nothing left there.

    Args:
        settings: The settings.
        report: Where to say what was found.
    """
    if settings.bus is None:
        return
    try:
        require_bus(settings)
        trouble = await ask_bus(settings)
    except SettingsError as error:
        for problem in error.problems:
            report.fail("bus", problem, WRONG_SETTINGS)
        return
    if trouble is None:
        report.say("fine", "bus", f"{settings.bus} answers")
    else:
        # No problem: a worker that was started now would work.
        report.say(
            "note", "bus", f"{trouble}. Workers do not wake each other: queries are found by push and poll."
        )
