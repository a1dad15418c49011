"""The handler of workers that are killed. Its answer is a function of the query's text.

Workers get this file as their `agent.py`; the checks import it from here.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from trio_worker import QueryFailed, RetryLater, lost_claims

if "LOOKS_APART" in os.environ:  # a minute, and nobody in CI has time
    lost_claims.LOOKS_APART = lost_claims.LATE = float(os.environ["LOOKS_APART"])

KINDS = ("work", "work", "work", "work", "give up", "later")


def make_text(number: int, kind: str, steps: int, pause: float) -> str:
    """Write a query.

    Args:
        number: Tells it from the others.
        kind: One of `KINDS`: answered, given up, or put aside at the first attempt and then answered.
        steps: How many lines are logged.
        pause: Seconds after each of them.
    """
    return f"{number}|{kind}|{steps}|{pause}"


def lines_of(text: str) -> list[str]:
    """What the handler logs for a query."""
    return [f"step {step} of {text}" for step in range(int(text.split("|")[2]))]


def ending_of(text: str) -> tuple[str, str]:
    """The status and the answer with which a query ends."""
    number, kind, *_ = text.split("|")
    return ("failed", f"no. {number} is too hard") if kind == "give up" else ("done", f"answer to {text}")


async def handle(query, ctx):
    """Do what the query says."""
    _, kind, _, pause = query.query_text.split("|")
    with _noted(query.id):
        for line in lines_of(query.query_text):
            ctx.log(line)
            await trio.sleep(float(pause))
    if kind == "later" and ctx.attempt == 1:
        raise RetryLater(0.2, "not now")
    status, answer = ending_of(query.query_text)
    if status == "failed":
        raise QueryFailed(answer)
    return answer


@contextmanager
def _noted(number: int) -> Iterator[None]:
    """Write down when it runs, where all workers do: no query may run twice at the same time."""
    name = secrets.token_hex(4)
    _note(f"begin {number} {name}\n")
    try:
        yield
    finally:
        _note(f"end {number} {name}\n")


def _note(line: str) -> None:
    descriptor = os.open(os.environ["RUNS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, line.encode())
    os.close(descriptor)
