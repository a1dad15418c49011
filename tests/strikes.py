"""How workers are started, and how and when they are struck."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from random import Random

import attrs
import trio

from tests.broken_way import Call, Kind
from tests.processes import WorkerProcess

__all__ = ["LAUNCHES", "Launch", "Trap", "first_of", "follow", "strike"]

IMPATIENCE = 10  # calls

_HYPERCORN = ("-m", "hypercorn", "trio_worker.asgi:app", "-k", "trio", "-b", "127.0.0.1:0")
_RUN = ("-m", "trio_worker", "run")
_ALONE = ("kill", "kill", "term", "term and kill", "term twice")
_PARENT = ("kill", "kill child", "kill parent", "term", "term and kill", "term group")


@attrs.frozen
class Launch:
    """A way to start workers.

    Attributes:
        command: What the interpreter is given.
        blows: How it may be struck.
        beside: How many are started beside each other, on one state folder.
    """

    command: Sequence[str]
    blows: Sequence[str]
    beside: int = 1


LAUNCHES = {
    "run": Launch(_RUN, _ALONE),
    "hypercorn": Launch(_HYPERCORN, _PARENT),
    "hypercorn2": Launch((*_HYPERCORN, "--workers", "2"), _PARENT),
    "shared": Launch(_RUN, _ALONE, beside=2),
}


@attrs.define(eq=False)
class Trap:
    """Strikes when something is seen on the way between workers and WebBuddy.

    Attributes:
        calls: How many calls that matter are let through first. A claim that finds nothing, and a look, do
            not: else a worker that waits for something would never live long enough.
        kind: What it strikes at; should that not come, at anything after some more calls.
        answered: Whether it strikes before the answer is passed on; else before the request is.
        strike: Does it.
        sprung: Set when it has.
    """

    calls: int
    kind: Kind
    answered: bool
    strike: Callable[[], None]
    sprung: trio.Event = attrs.field(factory=trio.Event)

    def see(self, call: Call, status: int | None) -> None:
        """Look at a request, or at its answer."""
        if self.sprung.is_set():
            return
        if self.calls <= -IMPATIENCE or (self.calls <= 0 and self._is_meant(call, status)):
            self.sprung.set()
            self.strike()
        self.calls -= status in (200, 201) and call.kind in ("claim", "log", "report")

    def _is_meant(self, call: Call, status: int | None) -> bool:
        return call.kind == self.kind and (status in (200, 201) if self.answered else status is None)


def strike(worker: WorkerProcess, blow: str, random: Random) -> None:
    """Deal a blow, or the first part of one, at once: it is meant for this very moment."""
    parent = worker.process.pid
    number = signal.SIGKILL if blow.startswith("kill") else signal.SIGTERM
    if blow in ("kill", "term group"):
        _send(os.killpg, parent, number)
    elif blow == "kill child":
        _send(os.kill, random.choice(_children(worker) or [parent]), number)
    else:
        _send(os.kill, parent, number)


async def follow(worker: WorkerProcess, blow: str) -> None:
    """Deal the second part of a blow, in the middle of the worker's orderly stop."""
    if blow in ("term and kill", "term twice"):
        await first_of(partial(worker.until, lambda line: "stopping" in line), worker.silent.wait)
        number = signal.SIGKILL if blow == "term and kill" else signal.SIGINT
        _send(os.killpg, worker.process.pid, number)


def _send(send: Callable[[int, int], None], pid: int, number: signal.Signals) -> None:
    try:
        send(pid, number)
    except ProcessLookupError:
        pass  # it has just ended


def _children(worker: WorkerProcess) -> list[int]:
    """The processes in which hypercorn runs the app: those that have said that they started."""
    names = [json.loads(line)["worker"] for line in worker.lines if '"event": "started"' in line]
    return [int(name.rpartition(":")[2]) for name in names]


async def first_of(*functions: Callable[[], Awaitable[object]]) -> None:
    """Wait until one of them returns; the others are cancelled."""
    async with trio.open_nursery() as nursery:

        async def run(function: Callable[[], Awaitable[object]]) -> None:
            await function()
            nursery.cancel_scope.cancel()

        for function in functions:
            nursery.start_soon(run, function)
