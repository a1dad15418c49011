"""Years of a worker's life in minutes: ``python -m trio_worker.testing.simulation --days 365 --seed 7``.

The whole service, journal and all, against the embedded WebBuddy, in virtual time and from one integer seed:
the same seed is the same run. At the end, and all the time, it is checked that no query is lost, stuck or
answered wrongly.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import attrs
import structlog
import trio

from trio_worker.testing.simulated_cases import LIVES, Case, Then
from trio_worker.testing.simulated_chance import memory_folder, play
from trio_worker.testing.simulated_crash import Doors
from trio_worker.testing.simulated_lives import deaths, live_and_die
from trio_worker.testing.simulated_network import Way
from trio_worker.testing.simulated_people import ask_on, interfere_on
from trio_worker.testing.simulated_trouble import glitch_on, trouble_on
from trio_worker.testing.simulated_workers import Worker
from trio_worker.testing.simulated_world import DAY, Problem, World

__all__ = ["simulate"]

QUERIES = 45.0  # a day; each costs about ten calls
LONGEST = 288  # times ten minutes after the last trouble in which everything has to be settled


def simulate(
    *,
    days: float,
    seed: int,
    workers: int = 1,
    trouble: float = 1.0,
    doors: type[Doors] = Doors,
    way: type[Way] = Way,
) -> World:
    """Simulate some days.

    Args:
        days: How many.
        seed: Decides everything.
        workers: How many workers share the queue.
        trouble: How many times as much goes wrong as in a usual day.
        doors: Of each process. Those of a subclass may be faulty, to see that it is noticed.
        way: To WebBuddy, of each worker. Likewise.

    Returns:
        The world, as it is at the end.
    """
    with memory_folder() as folder:
        return play(partial(_live, folder, days, seed, workers, trouble, doors, way), seed=seed)


async def _live(
    folder: Path, days: float, seed: int, number: int, trouble: float, doors: type[Doors], way: type[Way]
) -> World:
    command = f"--days {days:g} --seed {seed} --workers {number} --trouble {trouble:g}"
    world = World(seed, folder, command)
    workers = _workers(world, number, doors, way)
    async with world.webbuddy.running(), trio.open_nursery() as working:
        for worker in workers:
            working.start_soon(worker.live)
        await _trouble(world, workers, days, trouble)
        if not world.problems:
            await _settle(world, workers)
        working.cancel_scope.cancel()
    return world


async def _trouble(world: World, workers: Sequence[Worker], days: float, trouble: float) -> None:
    """Let the days pass, or as many of them as go well."""
    async with trio.open_nursery() as nursery:
        for worker in workers:
            nursery.start_soon(partial(worker.die_and_restart, a_day=4 * trouble))
        nursery.start_soon(partial(ask_on, world, a_day=QUERIES))
        nursery.start_soon(partial(interfere_on, world, a_day=4 * trouble))
        nursery.start_soon(partial(glitch_on, world, a_day=20 * trouble))
        nursery.start_soon(partial(trouble_on, world, workers, a_day=3 * trouble))
        nursery.start_soon(world.keep_files)
        with trio.move_on_after(days * DAY):
            await world.failed.wait()
        nursery.cancel_scope.cancel()


def _workers(world: World, number: int, doors: type[Doors], way: type[Way]) -> list[Worker]:
    shared = number > 1 and world.chance("workers").random() < 0.5
    if number > 1:
        world.counts["a shared folder"] = int(shared)
    found = []
    for index in range(number):
        name = "worker" if shared or index == 0 else f"worker{index + 1}"
        if name != "worker":
            world.webbuddy.add_user(name, "secret", is_service=True)
        to_webbuddy = way(world.webbuddy.transport())
        found.append(Worker(world, index + 1, name, to_webbuddy, doors, has_neighbours=shared))
    return found


async def _settle(world: World, workers: Sequence[Worker]) -> None:
    """Wait until nothing is under way any more, stop everybody and check everything."""
    for _ in range(LONGEST):
        await trio.sleep(600)
        if _is_settled(world):
            break
    await trio.sleep(600)
    for worker in workers:
        await worker.stop()
    for text in list(world.queries):
        world.file(text)
    for number in sorted(world.still_held()):
        world.fail(f"query {number} is still held by somebody")


def _is_settled(world: World) -> bool:
    ended = all(
        query.status in ("done", "failed") or world.evidence[text].deleted
        for text, query in world.queries.items()
    )
    journals = [process.journal for process in world.alive.values()]
    return ended and all(
        journal is not None and not journal.entries and not journal.lost for journal in journals
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it from the command line.

    Returns:
        The exit code: 1 when something is wrong.
    """
    wishes = _parser().parse_args(arguments)
    _silence(wishes)
    if wishes.life is not None:
        return _die(
            Case(wishes.life, wishes.then, wishes.step or 0, wishes.again, wishes.seed),
            every=wishes.step is None,
        )
    if wishes.seeds > 1:
        return _run_many(wishes)
    began = time.perf_counter()
    verdict = _run(wishes.seed, wishes)
    print(f"{wishes.days:g} days in {time.perf_counter() - began:.1f} s")
    _print_counts(verdict.counts)
    print(f"  {'trace':24} {verdict.digest:>10}")
    _print_problems(verdict)
    return 1 if verdict.problems else 0


@attrs.frozen
class _Verdict:
    """What is left of a world that was simulated, perhaps in another process."""

    command: str
    counts: Counter[str]
    digest: str
    problems: list[Problem]


def _run(seed: int, wishes: argparse.Namespace) -> _Verdict:
    _silence(wishes)
    world = simulate(days=wishes.days, seed=seed, workers=wishes.workers, trouble=wishes.trouble)
    return _Verdict(world.command, world.counts, world.digest, world.problems)


def _run_many(wishes: argparse.Namespace) -> int:
    """Simulate one seed after the other, as many at a time as there are processors."""
    began, counts, wrong = time.perf_counter(), Counter[str](), 0
    seeds = range(wishes.seed, wishes.seed + wishes.seeds)
    # Not forked: whoever calls this, a test for one, may have threads.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as processors:
        for verdict in processors.map(partial(_run, wishes=wishes), seeds):
            counts.update(verdict.counts)
            wrong += bool(verdict.problems)
            _print_problems(verdict)
    took = time.perf_counter() - began
    print(f"{wishes.days:g} days of {wishes.seeds} seeds in {took:.1f} s, {wrong} of them went wrong")
    _print_counts(counts)
    return 1 if wrong else 0


def _print_counts(counts: Counter[str]) -> None:
    for what, count in sorted(counts.items()):
        print(f"  {what:24} {count:10}")


def _print_problems(verdict: _Verdict) -> None:
    for problem in verdict.problems:
        print(f"\n{problem.text}", *problem.history, sep="\n")
    if verdict.problems:
        print(f"\nagain: python -m trio_worker.testing.simulation {verdict.command}", flush=True)


def _silence(wishes: argparse.Namespace) -> None:
    if not wishes.log:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trio_worker.testing.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="decides everything")
    parser.add_argument("--seeds", type=int, default=1, help="so many, one after the other, from --seed on")
    parser.add_argument("--days", type=float, default=1)
    parser.add_argument("--workers", type=int, default=1, help="that share the queue")
    parser.add_argument("--trouble", type=float, default=1, help="how many times as much as in a usual day")
    parser.add_argument("--log", action="store_true", help="print the workers' own logs, too")
    parser.add_argument("--life", choices=list(LIVES), help="instead of days: a few queries, and one death")
    parser.add_argument("--then", type=Then, default=Then.FINE, choices=list(Then), metavar="THEN")
    parser.add_argument("--step", type=int, help="at which it dies; without it: at each, one after the other")
    parser.add_argument("--again", type=int, default=0, help="at which step the next one dies, too")
    return parser


def _die(case: Case, *, every: bool) -> int:
    """Play one death, or all that there are."""
    cases = deaths(case) if every else [case]
    wrong = 0
    for one in cases:
        verdict = live_and_die(one)
        if verdict.problems or not every:
            print(one.command, *verdict.problems, *verdict.history, sep="\n  ")
        wrong += bool(verdict.problems)
    print(f"{len(cases)} deaths, {wrong} of them went wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
