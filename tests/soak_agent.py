"""The handlers of the workers of a soak, and what a query that they have had must look like.

A query's text says which kind it is; the async function and the plain one do the same about it.
"""

from __future__ import annotations

import logging
import time

import trio

from tests import kill_agent  # noqa: F401 - with LOOKS_APART, it makes the looks for lost claims come soon
from trio_worker import Context, PlainContext, Query, QueryFailed, RetryLater

__all__ = ["KINDS", "LIMIT", "handle", "make_text", "plain", "problem_of"]

LIMIT = 1.0  # seconds for a query, WORKER_PROCESSING_TIMEOUT
LARGE = 300_000  # characters
LINES = 400

KINDS = {
    "quick": 8,
    "sleep": 4,
    "thread": 2,
    "talk": 1,
    "large": 1,
    "no": 2,
    "raise": 1,
    "overrun": 1,
    "later": 2,
}
"""Each with how often it comes, beside the others."""

_log = logging.getLogger("agent")


def make_text(number: int, kind: str) -> str:
    """Write a query."""
    return f"{number}|{kind}"


def problem_of(text: str, status: str, answer: str) -> str | None:
    """Say what is wrong with the end of a query; None when nothing is."""
    number, kind = text.split("|")
    match kind:
        case "no":
            good = (status, answer) == ("failed", f"no. {number} is too hard")
        case "raise":
            good = status == "failed" and "ZeroDivisionError" in answer
        case "overrun":
            good = status == "failed" and f"{LIMIT:g} s" in answer
        case _:
            good = (status, answer) == ("done", _answer(text, kind))
    return None if good else f"{text} is {status} with {answer[:200]!r}"


async def handle(query: Query, ctx: Context) -> str:
    """Do what the query says. ``tasks``: how many tasks there are in this process."""
    text = query.query_text
    if text == "tasks":
        return str(trio.lowlevel.current_statistics().tasks_living)
    kind = text.split("|")[1]
    match kind:
        case "sleep":
            await trio.sleep(0.1)
        case "thread":
            await trio.to_thread.run_sync(time.sleep, 0.05)
        case "overrun":
            await trio.sleep(60)
    return _work(text, kind, ctx)


def plain(query: Query, ctx: PlainContext) -> str:
    """The same in a thread. What runs past its time limit is left behind, and ends a moment later."""
    text = query.query_text
    if text == "tasks":
        return str(trio.from_thread.run_sync(trio.lowlevel.current_statistics).tasks_living)
    kind = text.split("|")[1]
    match kind:
        case "sleep" | "thread":
            time.sleep(0.1)
        case "overrun":
            time.sleep(LIMIT + 0.3)
    return _work(text, kind, ctx)


def _work(text: str, kind: str, ctx: Context | PlainContext) -> str:
    match kind:
        case "talk":
            for line in range(LINES):
                ctx.log(f"line {line} of {text}")
            _log.info("that was a lot")
        case "no":
            raise QueryFailed(f"no. {text.split('|')[0]} is too hard")
        case "raise":
            raise ZeroDivisionError
        case "later" if ctx.saved is None:
            ctx.save({"seen": text})
            raise RetryLater(0.5, "not now")
        case "later":
            assert ctx.saved == {"seen": text}
    return _answer(text, kind)


def _answer(text: str, kind: str) -> str:
    return f"answer to {text}" + ("x" * LARGE if kind == "large" else "")
