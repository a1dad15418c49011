"""What the measured worker runs: does nothing, unless a query's text says otherwise."""

from __future__ import annotations

import time

import trio

from trio_worker import Context, Query

__all__ = ["handle"]

ANSWER = "An answer of the usual length, in one sentence."


async def handle(query: Query, ctx: Context) -> str:
    """Do what the text of the query says.

    ``sleep SECONDS``; ``lines NUMBER PAUSE``: log lines, and answer with the microseconds that each took;
    ``tasks``: answer with the number of tasks of this process. Anything else: nothing.
    """
    match (query.query_text or "").split():
        case ["sleep", seconds]:
            await trio.sleep(float(seconds))
        case ["lines", number, pause]:
            return str(await _log(ctx, int(number), float(pause)))
        case ["tasks"]:
            return str(trio.lowlevel.current_statistics().tasks_living)
    return ANSWER


async def _log(ctx: Context, number: int, pause: float) -> float:
    took = 0.0
    for line in range(number):
        text = f"step {line} of {number}: nothing was found"
        began = time.perf_counter()
        ctx.log(text)
        took += time.perf_counter() - began
        if pause:
            await trio.sleep(pause)
    return 1e6 * took / number
