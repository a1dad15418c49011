"""The journal: what this process holds, on disk before the next step begins."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import structlog
import trio

from trio_worker import clock
from trio_worker.errors import JournalError, JournalIllError
from trio_worker.gate import Gate
from trio_worker.journal_file import (
    Contents,
    Entry,
    LostClaim,
    Statement,
    StoredUsage,
    Tombstone,
    describe,
)
from trio_worker.journal_rows import fact
from trio_worker.journal_writer import CLOSE_SECONDS, LAZY, Collector, JournalWriter, Receipt
from trio_worker.orders import Orders
from trio_worker.runners import Runner
from trio_worker.settings import JournalSync
from trio_worker.state_folder import StateFolder
from trio_worker.takeover import OwnJournal
from trio_worker.trouble import Trouble

__all__ = ["Journal", "Receipt", "open_journal"]

log = structlog.get_logger(__name__)

MARK_LIFE = 1.0  # seconds for which one mark "claiming" is good
LOSSES_APART = 2.0  # seconds between two lost claims that are noted as one
NOTE_GROWS = 60.0  # seconds for which one note takes in more
MOST_USAGE = 32 * 1024 * 1024  # bytes of what models have used and WebBuddy does not take
MOST_LOST = 100  # notes; a WebBuddy whose lists can't be read for days must not fill the disk with them


@asynccontextmanager
async def open_journal(
    folder: StateFolder | None, *, sync: JournalSync = "full", runner: Runner
) -> AsyncIterator[Journal]:
    """Open this process's journal, and take over those of dead processes.

    At the end of the block what is queued is written, for two seconds at most. A journal in which nothing
    is left is deleted; any other is left to the next process on the folder.

    Args:
        folder: Where; None: in memory, for tests and for what need not outlive the process.
        sync: ``full``: safe from a power cut; ``normal``: only from the death of the process.
        runner: Where the disk is waited for.

    Raises:
        JournalError: It can't be used.
    """
    own = await runner(partial(OwnJournal.open, folder, sync))
    journal = Journal(own, runner)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            try:
                yield journal
            finally:
                journal.close()
    finally:
        with trio.move_on_after(CLOSE_SECONDS, shield=True) as scope:
            await runner(own.close)
        if scope.cancelled_caught:
            log.error("the disk does not answer: the journal is left as it is", journal=journal.path)


class Journal:
    """What this process holds.

    All but `claiming`, `take_over`, `held_here`, `orders` and `revived` is synchronous: it queues, in order,
    and may be called in cancelled code.

    Attributes:
        entries: By their names: all that is held, dead letters too.
        tombstones: By number and creation: of queries that were put back.
        lost: The claims whose answers were lost. A note may be replaced by one of a longer time.
        usages: By their names, in order: what models have used, as far as WebBuddy does not know it.
        usage_came: Set when there are more of these. Whoever waits for that makes it anew.
        gate: Open while it can be written to.
    """

    def __init__(self, own: OwnJournal, runner: Runner) -> None:
        self.path = str(own.file.path or "in memory")  # for messages
        self.entries: dict[str, Entry] = {}
        self.tombstones: dict[tuple[int, str], Tombstone] = {}
        self.lost: list[LostClaim] = []
        self.usages: dict[str, StoredUsage] = {}
        self.usage_came = trio.Event()
        self._usage_size = 0
        self._own = own
        self._runner = runner
        self._writer = JournalWriter(own.file.apply, runner, name=self.path)
        self.gate: Gate = self._writer.gate
        self._mark: Receipt | None = None
        self._mark_good_until = 0.0
        self._claims: dict[trio.lowlevel.Task, float] = {}  # under way: when they began, by WebBuddy's clock
        self._closed = False
        self._has_told_of_losses = False
        self._too_much_usage = Trouble(log, "WebBuddy does not take what models have used; no more is kept")
        self._unreadable = Trouble(
            log, "neighbours' journals can't be read", over="neighbours' journals can be read again"
        )
        self._take_in(own.found)

    @property
    def illness(self) -> str | None:
        """Why nothing can be written, or None."""
        return self._writer.illness

    @property
    def due(self) -> float:
        """As `JournalWriter.due`."""
        return self._writer.due

    # --- Writing --------------------------------------------------------------------------------------

    def write(self, *statements: Statement, within: float = 0.0) -> Receipt:
        """As `JournalWriter.write`."""
        return self._writer.write(*statements, within=within)

    def collect_later(self, collector: Collector, *, within: float = LAZY) -> None:
        """As `JournalWriter.collect_later`."""
        self._writer.collect_later(collector, within=within)

    async def run(self) -> None:
        """As `JournalWriter.run`."""
        await self._writer.run()

    def close(self) -> None:
        """Have `run` write what is queued, and end."""
        self._closed = True
        if not self._claims:
            self.write(_MARK_REMOVAL, within=LAZY)
        self._writer.close()

    def keep(self, entry: Entry) -> Receipt:
        """Write down a query that is held now."""
        self.entries[entry.id] = entry
        return self.write(*entry.insertion())

    def forget(self, entry: Entry) -> None:
        """WebBuddy knows everything of a query, or it is not ours any more."""
        if self.entries.pop(entry.id, None) is not None:
            self.write(*entry.removal(), within=LAZY)

    def stopping(self) -> None:
        """The process has been asked to stop: whatever happens to it from now on is nobody's fault."""
        self.write(fact("stopping", 1))

    def stopping_by_force(self) -> None:
        """The same for a process that is ended now, though its event loop stands still. In any thread.

        Blocks for a second at most. What does not succeed is left: then the death counts.
        """
        self._own.note_stopping(seconds=1.0)

    def left_behind(self, number: int) -> None:
        """So many handlers run on though they were given up: who is at work alone is not alone."""
        self.write(fact("left_behind", number), within=LAZY)

    def bury(self, tombstone: Tombstone) -> Receipt:
        """Remember a query that is put back."""
        self.tombstones[tombstone.query_id, tombstone.created] = tombstone
        return self.write(tombstone.insertion())

    def exhume(self, query_id: int, created: str) -> Tombstone | None:
        """Give what is remembered of a query, and no longer remember what is old."""
        now = clock.now()
        old = [key for key, tombstone in self.tombstones.items() if tombstone.until < now]
        for key in old:
            del self.tombstones[key]
        if old:
            self.write(("DELETE FROM tombstones WHERE until < ?", (now,)), within=LAZY)
        return self.tombstones.get((query_id, created))

    async def exhume_elsewhere(self, query_id: int, created: str) -> Tombstone | None:
        """Give what neighbours on this folder remember of a query; the worst of it."""
        try:
            stones = await self._runner(partial(self._own.tombstones_of_others, query_id, created))
        except (JournalError, sqlite3.Error) as error:
            self._unreadable.happened(reason=str(error))
            return None
        self._unreadable.is_over()
        return max(stones, key=lambda stone: (stone.attempts, stone.deaths), default=None)

    # --- What models have used ------------------------------------------------------------------------

    def keep_usage(self, usage: StoredUsage) -> None:
        """Write down what a model has used, for whoever tells WebBuddy; what is beyond 32 MiB is dropped."""
        if self._usage_size + usage.size > MOST_USAGE:
            self._too_much_usage.happened(query=usage.query_id, waiting=len(self.usages))
            return
        self._add_usages(usage)
        self.write(usage.insertion(), within=LAZY)

    def forget_usage(self, usage: StoredUsage) -> None:
        """WebBuddy knows it, or never will."""
        if self.usages.pop(usage.id, None) is not None:
            self._usage_size -= usage.size
            self._too_much_usage.is_over()
            self.write(usage.removal(), within=LAZY)

    def _add_usages(self, *usages: StoredUsage) -> None:
        for usage in usages:
            if usage.id not in self.usages:
                self.usages[usage.id] = usage
                self._usage_size += usage.size
                self.usage_came.set()

    # --- Claims whose answers are lost ----------------------------------------------------------------

    async def claiming(self, server_now: float, longest: float) -> None:
        """Return when it is on disk that a claim may be under way. Then call `claimed`, however it ends.

        One such mark is good for all claims that begin within a second. A task has one claim at a time.

        Args:
            server_now: WebBuddy's clock, in epoch seconds.
            longest: Seconds that a claim may take.

        Raises:
            JournalIllError: It is not on disk; no claim may be sent.
        """
        # Before the mark is looked at: while a claim is under way nobody removes it.
        self._claims[trio.lowlevel.current_task()] = server_now
        if self._mark is None or trio.current_time() >= self._mark_good_until:
            # From the oldest claim on: this mark takes the place of that claim's own.
            since, until = min(self._claims.values()), server_now + MARK_LIFE + longest
            self._mark = self.write(fact("claiming_since", since), fact("claiming_until", until))
            self._mark_good_until = trio.current_time() + MARK_LIFE
        try:
            await self._mark.durable()
        except BaseException as error:
            if isinstance(error, JournalIllError):
                self._mark = None
            self.claimed()
            raise

    def claimed(self) -> None:
        """This task's claim has its answer, or its loss is noted."""
        del self._claims[trio.lowlevel.current_task()]
        if not self._claims:
            self.collect_later(self._without_mark)

    def _without_mark(self) -> Iterable[Statement]:
        """Remove the mark, not more often than it is made: a new one costs the next claim a commit."""
        rest = self._mark_good_until - trio.current_time()
        if self._claims or self._closed:
            return ()
        if rest > 0 and self._mark is not None:
            self.collect_later(self._without_mark, within=rest)
            return ()
        return (_MARK_REMOVAL,)

    def note_lost(self, since: float, until: float) -> None:
        """Note that a claim of this time may have been carried out, though its answer is lost.

        It becomes part of the newest note where it can: on a WebBuddy with SQLite every loser of a claim is
        told nothing but 500. The mark of the claim covers it until it is written down.
        """
        since, until = sorted((since, until))  # the clock may have been set in between
        newest = max(self.lost, key=lambda lost: lost.noted_at, default=None)
        if newest is not None and _belong_together(newest, since, until):
            longer = attrs.evolve(newest, since=min(since, newest.since), until=max(until, newest.until))
            if longer != newest:
                self.lost[self.lost.index(newest)] = longer
                self.write(longer.update(), within=LAZY)
            return
        if len(self.lost) >= MOST_LOST:
            self._forget_oldest_lost()
        lost = LostClaim(id=secrets.token_hex(8), since=since, until=until, noted_at=clock.now())
        self.lost.append(lost)
        self.write(lost.insertion(), within=LAZY)

    def _forget_oldest_lost(self) -> None:
        if not self._has_told_of_losses:
            self._has_told_of_losses = True
            log.warning(
                "so many answers to claims were lost that the oldest are no longer looked for;"
                " `trio-worker stuck` lists the queries that nobody works on",
                kept=MOST_LOST,
            )
        self.forget_lost(self.lost[0])

    def forget_lost(self, lost: LostClaim) -> None:
        """Nothing is to be found of it any more. One that has grown meanwhile is kept."""
        if lost in self.lost:
            self.lost.remove(lost)
            self.write(lost.removal(), within=LAZY)

    # --- Others' journals -----------------------------------------------------------------------------

    async def take_over(self) -> list[Entry]:
        """Take over what processes have left that have died since the last call, or since the start.

        Raises:
            JournalError: The folder can't be used, or our own journal not be written to.
        """
        try:
            found = await self._runner(self._own.take_over)
        except sqlite3.Error as error:
            raise JournalIllError(describe(error)) from error
        return self._take_in(found)

    async def orders(self) -> Orders:
        """Read what an operator wants this process to do.

        Raises:
            JournalError: The folder can't be read.
        """
        return await self._runner(self._own.orders)

    async def held_here(self) -> set[int]:
        """Read the numbers of the queries that any process of this folder holds, but for dead letters.

        Raises:
            JournalError: A journal can't be read.
        """
        try:
            on_disk = await self._runner(self._held_on_disk)
        except sqlite3.Error as error:
            raise JournalIllError(describe(error)) from error
        return on_disk | {entry.query.id for entry in self.entries.values() if entry.dead is None}

    def _held_on_disk(self) -> set[int]:
        # Our own file too: what is being taken over is there before it is in `entries`.
        return self._own.held_by_others() | self._own.file.held_ids()

    async def revived(self) -> list[Entry]:
        """Find the dead letters that an operator wants to be tried again; those dropped are forgotten.

        Raises:
            JournalError: The journal can't be read, or not be written to.
        """
        dead = [entry for entry in self.entries.values() if entry.dead is not None]
        if not dead:
            return []
        await self.write().durable()  # or what is not on disk yet would pass for the operator's will
        # Without their texts and answers, which may be many megabytes, every ten seconds.
        still_dead = await self._runner(self._own.file.dead_letters)
        alive = []
        for entry in dead:
            if entry.id not in still_dead:
                self.entries.pop(entry.id, None)
            elif not still_dead[entry.id]:
                alive.append(entry)
        if alive:
            on_disk = {entry.id: entry for entry in (await self._runner(self._own.file.load)).entries}
        for entry in alive:
            # Whoever held it before has taken its lines.
            entry.dead, entry.lines = None, on_disk[entry.id].lines
        return alive

    def _take_in(self, found: Contents) -> list[Entry]:
        new = {entry.id: entry for entry in found.entries if entry.id not in self.entries}
        self.entries |= new
        for stone in found.tombstones:
            mine = self.tombstones.get((stone.query_id, stone.created))
            # Of two the one that knows of more: a neighbour may have buried it anew.
            if mine is None or (mine.attempts, mine.deaths) < (stone.attempts, stone.deaths):
                self.tombstones[stone.query_id, stone.created] = stone
        known = {lost.id for lost in self.lost}
        self.lost += [lost for lost in found.lost if lost.id not in known]
        self._add_usages(*found.usages)
        return list(new.values())


_MARK_REMOVAL: Statement = ("DELETE FROM facts WHERE name IN ('claiming_since', 'claiming_until')", ())


def _belong_together(newest: LostClaim, since: float, until: float) -> bool:
    near = since < newest.until + LOSSES_APART and newest.since < until + LOSSES_APART
    return near and clock.now() - newest.noted_at < NOTE_GROWS
