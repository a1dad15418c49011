"""A few queries' lives, with the death of their process at any one step."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import attrs
import httpx
import trio

from trio_worker.journal_file import JournalFile
from trio_worker.testing.invariants import problems_at_death, problems_of
from trio_worker.testing.simulated_cases import LIVES, Case, Then, Verdict
from trio_worker.testing.simulated_chance import memory_folder, play
from trio_worker.testing.simulated_crash import Doors
from trio_worker.testing.simulated_evidence import Evidence, Life
from trio_worker.testing.simulated_handler import Ledger, make_handler
from trio_worker.testing.simulated_network import Losing, Way
from trio_worker.testing.simulated_process import Process, PushesTo, make_settings
from trio_worker.testing.simulated_witness import WatchedWebBuddy
from trio_worker.testing.state import StoredQuery
from trio_worker.testing.virtual_time import trio_time

__all__ = ["deaths", "live_and_die", "second_deaths"]

NEIGHBOURS = 60.0  # seconds between two looks for dead neighbours, which are not what this is about
LONGEST = 3 * 3600.0  # seconds in which everything has to be settled
SLOW = 0.01  # seconds that a call takes
FAST_DISK, SLOW_DISK = 0.002, 0.03  # seconds for one piece of work, as against the calls
OUTAGE = 3600.0  # seconds
LOST = 6  # answers, while many more calls are made
DARK = 70.0  # seconds
OTHER = 300.0  # seconds that another worker needs


def deaths(case: Case, *, each: int = 1) -> list[Case]:
    """List the deaths at all steps, or at each so-manieth.

    Args:
        case: Its step does not count.
        each: 1 for all.
    """
    steps = live_and_die(attrs.evolve(case, step=0)).steps
    return [attrs.evolve(case, step=step) for step in range(1, steps + 1, each)]


def second_deaths(case: Case, *, count: int) -> list[Case]:
    """Draw some cases in which the process that takes over dies as well, at any steps of theirs."""
    chance = random.Random(case.command)  # noqa: S311 - a simulation
    steps = live_and_die(attrs.evolve(case, step=0)).steps
    return [
        attrs.evolve(case, step=chance.randint(1, steps), again=chance.randint(1, 2 * steps))
        for _ in range(count)
    ]


def live_and_die(case: Case) -> Verdict:
    """Play one case on a disk of its own."""
    with memory_folder() as folder:
        return play(_Scene(case, folder).play, seed=case.seed)


class _Scene:
    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self.folder = folder
        self.evidence: dict[str, Evidence] = {}
        self.lives: dict[int, Life] = {}
        self.webbuddy = WatchedWebBuddy(now=trio_time(), evidence=self.evidence, lives=self.lives)
        self.webbuddy.slow = SLOW
        self.ledger = Ledger()
        self.listening = PushesTo()
        self.way = Way(self.webbuddy.transport())
        self.network: httpx.AsyncBaseTransport = self.way
        if case.then is Then.LOST:
            self.network = Losing(self.network, random.Random(case.seed), most=LOST)  # noqa: S311
        self.queries: dict[int, StoredQuery] = {}
        self.problems: list[str] = []
        self.is_struck = False

    async def play(self) -> Verdict:
        self.webbuddy.push_url, self.webbuddy.push_transport = "http://worker", self.listening
        verdict = Verdict()
        async with self.webbuddy.running(), trio.open_nursery() as nursery:
            nursery.start_soon(self._ask)
            if self.case.then in (Then.DARK, Then.STOLEN):
                nursery.start_soon(self._go_dark)
            try:
                verdict.steps = await self._live(nursery)
            except trio.TooSlowError:
                self.problems.append("it does not settle")
            nursery.cancel_scope.cancel()
        verdict.problems += [*self.problems, *self._problems()]
        verdict.history = list(self._history())
        return verdict

    async def _live(self, nursery: trio.Nursery) -> int:
        """Let one process after the other live, until one has done all; give the steps of the first."""
        steps = []
        for end_at in (self.case.step, self.case.again, 0):
            process = self._start(nursery)
            self.is_struck = False
            if end_at:
                process.doors.after(end_at, partial(self._strike, process))
            await self._see_through(process)
            steps.append(process.doors.steps)
            if not self.is_struck:
                break
            self.problems += self._note_end(process)
            if len(steps) == 1:
                await self._after_death(nursery)
            else:
                await trio.sleep(1)
        self.problems += self._process_problems(process)
        return steps[0]

    def _strike(self, process: Process) -> None:
        self.is_struck = True
        match self.case.then:
            case Then.STOPPED:
                process.stop.ask()
            case Then.HURRIED:
                process.stop.hurry()
            case _:
                process.doors.die()

    def _start(self, nursery: trio.Nursery) -> Process:
        number = len(self.lives) + 1
        disk = FAST_DISK if self.case.seed % 2 else SLOW_DISK
        doors = Doors(self.network, disk_seconds=disk, life=number, lost=self.webbuddy.note_lost)
        settings = make_settings(num_workers=2, polling_interval=120, processing_timeout=60)
        self.lives[number] = Life(account=settings.username, interval=settings.watch_interval)
        handler = make_handler(self.ledger, doors, number)
        process = Process(
            settings, self.folder, doors, handler, self.webbuddy.now, look_around_every=NEIGHBOURS
        )
        self.listening.processes.append(process)
        nursery.start_soon(process.live)
        return process

    async def _ask(self) -> None:
        for plan in LIVES[self.case.life]:
            await trio.sleep(0.1)
            self.ledger.add(plan)
            self.evidence[plan.text] = Evidence()
            query = self.webbuddy.add_query(plan.text)
            self.queries[query.id] = query

    async def _see_through(self, process: Process) -> None:
        """Wait until the process is dead, or until all has settled and it has been stopped."""
        with trio.fail_after(LONGEST):
            await trio.sleep(1)
            while process.is_alive and not self._is_settled(process):
                with trio.move_on_after(20):
                    await process.ended.wait()
            with trio.move_on_after(5):
                await process.ended.wait()
            process.stop.ask()
            await process.ended.wait()

    def _is_settled(self, process: Process) -> bool:
        ended = all(query.status in ("done", "failed") for query in self.queries.values())
        journal = process.journal
        return ended and journal is not None and not journal.entries and not journal.lost

    def _note_end(self, process: Process) -> list[str]:
        life = self.lives[len(self.lives)]
        life.died_at, life.ended_at = process.died_at, self.webbuddy.now()
        if not process.doors.dead:
            return [] if process.error is None else [f"the service crashed: {process.error!r}"]
        for entry in process.left.entries:
            text = entry.query.query_text
            self.evidence[text].note_left(entry, self.ledger.starts[text])
        ours = [q for q in self.queries.values() if self.evidence[q.query_text].is_untouched]
        return list(
            problems_at_death(process.left, ours, self.ledger, life=len(self.lives), died_at=process.died_at)
        )

    async def _after_death(self, nursery: trio.Nursery) -> None:
        then = self.case.then
        if then is Then.DOWN:
            self.webbuddy.down = True
            nursery.start_soon(self._up_again)
        await trio.sleep(0.3)
        member = self.webbuddy.accounts[2]
        for query in list(self.queries.values()):
            if query.status not in ("queued", "in_progress"):
                continue
            evidence = self.evidence[query.query_text]
            match then:
                case Then.REQUEUED:
                    evidence.requeued = True
                    self.webbuddy.set_status(query, "queued", member)
                case Then.DELETED:
                    self.webbuddy.delete_query(query.id)
                    del self.queries[query.id]
                    evidence.deleted = True
                case Then.ANSWERED:
                    evidence.taken_at = self.webbuddy.now()
                    query.answer_text = "by a person"
                    self.webbuddy.set_status(query, "done", member)
                case Then.TAKEN:
                    self._take(query)
        await trio.sleep(0.7)

    async def _go_dark(self) -> None:
        """Be out of reach from the start of the first handler on, for a while."""
        await self.webbuddy.until(lambda: bool(self.webbuddy.with_status("in_progress")))
        await trio.sleep(0.1)
        self.webbuddy.down = self.case.then is Then.DARK
        self.way.is_cut = True
        await trio.sleep(DARK / 2)
        if self.case.then is Then.STOLEN:
            self._steal()
        await trio.sleep(DARK / 2)
        self.webbuddy.down = self.way.is_cut = False

    def _steal(self) -> None:
        for query in self.webbuddy.with_status("in_progress"):
            self._take(query)

    async def _up_again(self) -> None:
        await trio.sleep(OUTAGE)
        self.webbuddy.down = False

    def _take(self, query: StoredQuery) -> None:
        self.evidence[query.query_text].taken_at = self.webbuddy.now()
        member = self.webbuddy.accounts[2]
        self.webbuddy.set_status(query, "queued", member)
        self.webbuddy.claim(query, member)
        self.webbuddy.require_nursery().start_soon(self._work_elsewhere, query)

    async def _work_elsewhere(self, query: StoredQuery) -> None:
        await trio.sleep(0.2)
        self.webbuddy.add_entry(query, query.project, "claimed by another")
        await trio.sleep(OTHER)
        query.answer_text = "by another"
        self.webbuddy.set_status(query, "done", self.webbuddy.accounts[2])

    # --- What came of it ------------------------------------------------------------------------------

    def _process_problems(self, process: Process) -> Iterator[str]:
        if process.error is not None:
            yield f"the service crashed: {process.error!r}"
        for path in sorted(self.folder.glob("*/*.journal")):
            file = JournalFile(path, read_only=True)
            numbers = sorted(file.held_ids())
            file.close()
            if numbers:
                yield f"a stopped process still holds queries {numbers}"

    def _problems(self) -> Iterator[str]:
        for query in self.queries.values():
            evidence = self.evidence[query.query_text]
            for problem in problems_of(query, self.ledger, evidence, self.lives, log_first=True):
                yield f"query {query.query_text}: {problem}"

    def _history(self) -> Iterator[str]:
        for query in self.queries.values():
            yield f"query {query.query_text}: {query.status} {query.answer_text!r}"
            yield from (f"  {change.at:.3f} {change.status} by {change.by}" for change in query.history)
            yield from (f"  {entry.at:.3f} {entry.text}" for entry in query.entries)
            yield f"  starts: {self.ledger.starts[query.query_text]}"
            yield f"  {self.evidence[query.query_text]}"
