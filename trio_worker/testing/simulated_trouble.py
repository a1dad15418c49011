"""What goes wrong in a simulated world, beside the death of processes."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio

from trio_worker.testing.faults import Answer, Cut, Fault, Hang
from trio_worker.testing.simulated_workers import Worker
from trio_worker.testing.simulated_world import DAY, SLOW, World

__all__ = ["glitch_on", "trouble_on"]

ENDLESS = 10**9  # calls
HTML = {"Content-Type": "text/html; charset=utf-8"}
GARBAGE = b'{"id": 1, "tru\xff\xfe{'  # cut off, and not UTF-8
_KINDS = {
    "down": 6,
    "cut off": 4,
    "slow": 3,
    "errors": 4,
    "answers lost": 2,
    "no logs": 2,
    "no log-in": 1,
    "sqlite": 2,
    "wrong clock": 2,
}
_WRITES = ("claim_next", "patch", "logs")
_ENDPOINTS = (*_WRITES, "read", "by_status", "query_logs", None, None)


async def glitch_on(world: World, *, a_day: float) -> None:
    """Let something go wrong with a call or three, again and again. Never returns."""
    chance = world.chance("glitches")
    while True:
        await trio.sleep(chance.expovariate(a_day / DAY))
        what = _what(chance)
        after_commit = chance.random() < 0.5 and not (isinstance(what, Answer) and what.status == 429)
        # Garbage in answer to a read would mean that this WebBuddy does not have it.
        can_be_garbage = isinstance(what, Answer) and what.status == 200
        endpoint = chance.choice(_WRITES if can_be_garbage else _ENDPOINTS)
        fault = Fault(what, chance.choice((1, 1, 2, 3)), endpoint, after_commit)
        world.webbuddy.faults.append(fault)
        world.counts["glitches"] += 1
        if chance.random() < 0.1:
            world.webbuddy.expire_tokens(refresh_tokens=chance.random() < 0.5)


def _what(chance: random.Random) -> Answer | Cut | Hang:
    match chance.randrange(6):
        case 0:
            return Hang()
        case 1:
            return Answer(200, {"Content-Type": "application/json"}, GARBAGE)
        case 2:
            return _answer(chance, (429, 503))
        case 3:
            return _answer(chance, (500, 502, 504))
    return Cut()


def _answer(chance: random.Random, statuses: tuple[int, ...]) -> Answer:
    wait = {"Retry-After": str(chance.randint(1, 120))} if chance.random() < 0.5 else {}
    return Answer(chance.choice(statuses), HTML | wait, b"<!doctype html><title>Error</title>")


async def trouble_on(world: World, workers: Sequence[Worker], *, a_day: float) -> None:
    """Let there be an outage, from seconds to a day, again and again. Never returns.

    Cancelled, whatever was out of order is in order again.
    """
    chance = world.chance("trouble")
    while True:
        await trio.sleep(chance.expovariate(a_day / DAY))
        kind = chance.choices(list(_KINDS), list(_KINDS.values()))[0]
        seconds = min(math.exp(chance.gauss(math.log(300), 1.8)), DAY)
        world.counts[f"trouble: {kind}"] += 1
        world.counts["seconds of trouble"] += int(seconds)
        with _trouble(world, chance.choice(workers), kind, chance):
            await trio.sleep(seconds)


@contextmanager
def _trouble(world: World, worker: Worker, kind: str, chance: random.Random) -> Iterator[None]:
    webbuddy, fault = world.webbuddy, None
    match kind:
        case "down":
            webbuddy.down = True
        case "cut off":
            worker.way.is_cut = True
        case "slow":
            webbuddy.slow = chance.uniform(0.1, 40)
        case "errors":
            fault = Fault(_answer(chance, (500, 502, 503, 504, 429)), ENDLESS)
        case "answers lost":
            fault = Fault(Cut(), chance.randint(3, 12), None, after_commit=True)
        case "no logs":
            fault = Fault(_answer(chance, (500, 502)), ENDLESS, "logs")
        case "no log-in":
            webbuddy.refuse_logins = True
            webbuddy.expire_tokens()
        case "sqlite":
            webbuddy.sqlite = True
        case "wrong clock":
            worker.ahead = chance.choice((-1, 1)) * math.exp(chance.uniform(0, 10))
    if fault is not None:
        webbuddy.faults.insert(0, fault)
    try:
        yield
    finally:
        webbuddy.down = webbuddy.refuse_logins = webbuddy.sqlite = worker.way.is_cut = False
        webbuddy.slow = SLOW
        if fault in webbuddy.faults:
            webbuddy.faults.remove(fault)
