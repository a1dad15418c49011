"""The people around a simulated WebBuddy: they ask, and they interfere."""

from __future__ import annotations

import math
import random

import trio

from trio_worker.testing.simulated_handler import Kind, Plan
from trio_worker.testing.simulated_world import DAY, World
from trio_worker.testing.state import StoredQuery

__all__ = ["ask_on", "interfere_on"]

_KINDS = {
    Kind.ANSWER: 60,
    Kind.FAIL: 8,
    Kind.RAISE: 5,
    Kind.LATER: 8,
    Kind.TIMEOUT: 2,
    Kind.SWALLOW: 1,
    Kind.EMPTY: 3,
    Kind.REFUSED: 3,
}


async def ask_on(world: World, *, a_day: float) -> None:
    """Create queries, in waves. Never returns.

    Args:
        world: The world.
        a_day: How many, on average.
    """
    chance = world.chance("load")
    while True:
        await trio.sleep(chance.expovariate(1.4 * a_day / DAY))
        # On average every second time, more often at noon, and 1.4 of them: now and then many come at once.
        if chance.random() < 0.5 + 0.5 * math.sin(world.webbuddy.now() / DAY * 2 * math.pi):
            for _ in range(1 if chance.random() < 0.95 else chance.randint(5, 15)):
                world.ask(_plan(world, chance), push=chance.random() < 0.8)
                await trio.sleep(chance.choice((0, 0.01, 1)))


def _plan(world: World, chance: random.Random) -> Plan:
    kind = chance.choices(list(_KINDS), list(_KINDS.values()))[0]
    seconds = math.exp(chance.uniform(math.log(0.01), math.log(400)))
    lines = chance.choice((1, 2, 3, 8))
    return Plan(f"{world.counts['queries'] + 1} {kind}", kind, lines=lines, seconds=seconds)


async def interfere_on(world: World, *, a_day: float) -> None:
    """Put back, delete or answer what is under way, or has ended. Never returns.

    Args:
        world: The world.
        a_day: How often.
    """
    chance = world.chance("people")
    while True:
        await trio.sleep(chance.expovariate(a_day / DAY))
        wanted = chance.choices(("in_progress", "queued", "done"), (8, 1, 1))[0]
        if wanted == "in_progress":
            with trio.move_on_after(3600):
                await world.webbuddy.until(lambda: bool(_untouched(world, "in_progress")))
            await trio.sleep(chance.expovariate(1 / 20))
        found = _untouched(world, wanted)
        if found:
            _interfere(world, chance.choice(found), chance)


def _untouched(world: World, status: str) -> list[StoredQuery]:
    return [
        query
        for text, query in world.queries.items()
        if query.status == status and world.evidence[text].is_untouched
    ]


def _interfere(world: World, query: StoredQuery, chance: random.Random) -> None:
    webbuddy, evidence = world.webbuddy, world.evidence[query.query_text]
    member = webbuddy.accounts[2]
    act = "requeue" if query.status == "done" else chance.choice(("requeue", "delete", "answer", "steal"))
    world.counts[f"{act} by a person"] += 1
    match act:
        case "requeue":
            evidence.requeued = True
            webbuddy.set_status(query, "queued", member)
        case "delete":
            evidence.deleted = True
            webbuddy.delete_query(query.id)
        case "answer":
            evidence.taken_at = webbuddy.now()
            query.answer_text = "by a person"
            webbuddy.set_status(query, "done", member)
        case "steal":
            evidence.taken_at = webbuddy.now()
            webbuddy.set_status(query, "queued", member)
            webbuddy.claim(query, member)
            webbuddy.require_nursery().start_soon(_work_elsewhere, world, query, chance.uniform(5, 5000))


async def _work_elsewhere(world: World, query: StoredQuery, seconds: float) -> None:
    """What another kind of worker does."""
    await trio.sleep(0.3)
    world.webbuddy.add_entry(query, query.project, "claimed by another")
    await trio.sleep(seconds)
    query.answer_text = "by another"
    world.webbuddy.set_status(query, "done", world.webbuddy.accounts[2])
