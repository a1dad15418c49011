"""A world in which workers live: a WebBuddy, its users, and all that goes wrong with both, from one seed."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import trio

from trio_worker.journal_file import JournalFile
from trio_worker.testing.invariants import problems_at_death, problems_of
from trio_worker.testing.simulated_evidence import Evidence, Life
from trio_worker.testing.simulated_handler import Ledger, Plan
from trio_worker.testing.simulated_process import Process, PushesTo
from trio_worker.testing.simulated_witness import WatchedWebBuddy
from trio_worker.testing.state import StoredQuery
from trio_worker.testing.virtual_time import trio_time

__all__ = ["DAY", "SLOW", "Problem", "World"]

DAY = 86_400.0
QUIET = 2 * 3600.0  # seconds after which nobody has anything more to do with a query that has ended
SLOW = 0.02
"""Seconds that a call takes on a good day."""
TOO_LONG = 5 * DAY  # for a query to be under way, whatever happens


@attrs.frozen
class Problem:
    """A violation of what must hold.

    Attributes:
        text: What is wrong.
        history: What happened before.
    """

    text: str
    history: tuple[str, ...] = ()


@attrs.define(eq=False)
class World:
    """What all parts of the simulation share.

    Attributes:
        seed: Decides everything.
        folder: Where the disks of all workers are.
        command: Repeats it.
        webbuddy: WebBuddy.
        listening: Where its pushes go.
        ledger: What handlers have done.
        evidence: What is known of each query beside that, by its text.
        queries: Those that are not yet put on file, by their texts.
        alive: The processes that run, by the number of their worker.
        lives: What is known of all processes that there were, by their numbers, from 1 on.
        counts: What happened, for the table at the end.
        problems: What is wrong.
        failed: Set when something is.
    """

    seed: int
    folder: Path
    command: str
    webbuddy: WatchedWebBuddy = attrs.field(init=False)
    listening: PushesTo = attrs.field(factory=PushesTo)
    ledger: Ledger = attrs.field(factory=Ledger)
    evidence: dict[str, Evidence] = attrs.field(factory=dict)
    queries: dict[str, StoredQuery] = attrs.field(factory=dict)
    alive: dict[int, Process] = attrs.field(factory=dict)
    lives: dict[int, Life] = attrs.field(factory=dict)
    counts: Counter[str] = attrs.field(factory=Counter)
    problems: list[Problem] = attrs.field(factory=list)
    failed: trio.Event = attrs.field(factory=trio.Event)
    _trace: Any = attrs.field(factory=hashlib.sha256, init=False)

    def __attrs_post_init__(self) -> None:
        self.webbuddy = WatchedWebBuddy(
            now=trio_time(),
            access_lifetime=5 * 3600,
            refresh_lifetime=2 * DAY,
            evidence=self.evidence,
            lives=self.lives,
        )
        self.webbuddy.slow = SLOW
        self.webbuddy.push_url, self.webbuddy.push_transport = "http://worker", self.listening

    @property
    def digest(self) -> str:
        """What all that happened comes to: the same for the same run."""
        return str(self._trace.hexdigest()[:10])

    def chance(self, what: str) -> random.Random:
        """Make a source of chances for one part, so that a change in one does not change all others."""
        return random.Random(f"{self.seed} {what}")  # noqa: S311 - a simulation

    def ask(self, plan: Plan, *, push: bool) -> None:
        """Let a user create a query."""
        self.ledger.add(plan)
        self.evidence[plan.text] = Evidence()
        self.queries[plan.text] = self.webbuddy.add_query(plan.text, push=push)
        self.counts["queries"] += 1

    def fail(self, text: str, query: StoredQuery | None = None) -> None:
        """Note a violation."""
        self.failed.set()
        self.problems.append(Problem(text, () if query is None else tuple(self.history(query))))

    # --- The end of a process -------------------------------------------------------------------------

    def note_death(self, process: Process, life: int) -> None:
        """Look at what a dead process has left."""
        for entry in process.left.entries:
            text = entry.query.query_text
            if text in self.evidence:
                self.evidence[text].note_left(entry, self.ledger.starts[text])
        untouched = [query for text, query in self.queries.items() if self.evidence[text].is_untouched]
        for problem in problems_at_death(
            process.left, untouched, self.ledger, life=life, died_at=process.died_at
        ):
            self.fail(f"at a death: {problem}")

    # --- Putting on file ------------------------------------------------------------------------------

    async def keep_files(self) -> None:
        """Check what has settled, and let it go, or a year of it would make each call slow. Never returns."""
        while True:
            await trio.sleep(QUIET)
            self.file_settled()

    def file_settled(self) -> None:
        """Check what has settled since the last time."""
        now, held = self.webbuddy.now(), self.still_held()
        for text, query in list(self.queries.items()):
            since = now - query.history[-1].at
            has_ended = query.status in ("done", "failed") or self.evidence[text].deleted
            if (has_ended and since > QUIET and query.id not in held) or since > TOO_LONG:
                self.file(text)

    def file(self, text: str) -> None:
        """Check one query, and forget it."""
        query, evidence = self.queries.pop(text), self.evidence[text]
        problems = "; ".join(problems_of(query, self.ledger, evidence, self.lives))
        if problems:
            self.fail(f"query {query.id} ({text}): {problems}", query)
        self._count(query, evidence)
        self.webbuddy.queries.pop(query.id, None)
        del self.ledger.plans[text], self.ledger.starts[text], self.evidence[text]

    def _count(self, query: StoredQuery, evidence: Evidence) -> None:
        how = "deleted" if evidence.deleted else "taken by others" if evidence.taken_at else query.status
        self.counts[how] += 1
        starts = self.ledger.starts[query.query_text]
        self.counts["handlers started"] += len(starts)
        self.counts["run more than once"] += len(starts) > 1
        self.counts["log entries"] += len(query.entries)
        for line in self.history(query):
            self._trace.update(line.encode())

    def still_held(self) -> set[int]:
        """List the queries in all journals that there are."""
        numbers: set[int] = set()
        for path in self.folder.glob("*/*.journal"):
            file = JournalFile(path, read_only=True)
            numbers |= file.held_ids()
            file.close()
        return numbers

    def history(self, query: StoredQuery) -> Iterator[str]:
        """Tell all that happened to a query."""
        yield f"query {query.id} ({query.query_text}): {query.status} {query.answer_text!r}"
        happened = [(change.at, f"{change.status} by {change.by}") for change in query.history]
        happened += [(entry.at, f"log: {entry.text}") for entry in query.entries]
        for at, what in sorted(happened):
            yield f"  {at - self.webbuddy.now() + trio.current_time():14.3f}  {what}"
        for start in self.ledger.starts.get(query.query_text, ()):
            yield f"  {start}"
        yield f"  {self.evidence.get(query.query_text)}"
