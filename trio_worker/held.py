"""A query that this process holds: each change of it goes to the journal before the next step begins."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from typing import Literal

import trio

from trio_worker import clock
from trio_worker.errors import JournalIllError
from trio_worker.journal import Journal, Receipt
from trio_worker.journal_file import Entry, HeldLine, Statement, StoredUsage, Tombstone
from trio_worker.journal_writer import LAZY
from trio_worker.masks import masks
from trio_worker.phrases import Phrases
from trio_worker.query import Done, Failed, Outcome, Query, Released
from trio_worker.query_log import Fresh, Past, QueryLog

__all__ = ["SUSPECT_DEATHS", "Held"]

SUSPECT_DEATHS = 2
"""Deaths of a process after which a query that was at work each time is only run alone: the first may
have been anybody's fault, and to run all one by one would punish the many for the one."""

OUTCOME_WAITS = 0.01
"""Seconds that an outcome may wait for the entry of the next claim, to go to the disk with it. A commit of
its own would often be in that entry's way, for which a consumer waits."""

TOMBSTONE_SECONDS = 7 * 86_400.0


class Held:
    """A query that is ours, from its claim to the moment in which WebBuddy knows everything.

    Args:
        journal: Where it is written down.
        entry: What is written down.
        phrases: The language of its log.
        resumed: Whether it comes out of the journal: WebBuddy has to be asked whether it is still ours.

    Attributes:
        log: Its log, over all attempts.
        instead: What is reported instead of the outcome, which WebBuddy has refused; in memory only, so that
            a dead letter is what the handler has said.
        on_disk: Whether its claim is known to be on disk. If not, it must not be started.
        seen_at: `trio.current_time` at which WebBuddy last showed it as ours; -inf: not in this process.
        resumed: As above; False once that is done.
        after_crash: Whether a process died in the middle of it, and its author has not read that yet.
    """

    def __init__(self, journal: Journal, entry: Entry, phrases: Phrases, *, resumed: bool) -> None:
        self.entry = entry
        self.resumed = resumed
        self.on_disk = resumed
        self.instead: Outcome | None = None
        self.after_crash = resumed and entry.due is None and entry.attempts > 0
        self.seen_at = -math.inf if resumed else trio.current_time()
        self._journal = journal
        self._phrases = phrases
        self.log = self._restored_log()
        entry.lines = []  # they are the log's now

    def _restored_log(self) -> QueryLog:
        entry = self.entry
        return QueryLog(
            self._phrases,
            began=trio.current_time() - (clock.now() - entry.claimed_at),
            sink=self,
            past=Past(
                entry.entries,
                max([entry.last_number, *(line.number for line in entry.lines)]),
                entry.lines,
                earlier=entry.earlier,
            ),
        )

    @classmethod
    def claimed(
        cls, journal: Journal, query: Query, source: Literal["push", "poll"], phrases: Phrases
    ) -> tuple[Held, Receipt]:
        """Write down a query that was just handed out. Synchronous.

        It is written as being at work already, which spares a second commit, unless it is a suspect of an
        earlier crash.

        Returns:
            It, and the receipt for its claim.
        """
        entry = Entry(id=secrets.token_hex(8), query=query, source=source, claimed_at=clock.now())
        stone = journal.exhume(query.id, _created(query))
        if stone is not None:
            stone.write_on(entry)
        if entry.deaths < SUSPECT_DEATHS:
            entry.running, entry.attempts = True, entry.attempts + 1
        receipt = journal.keep(entry)
        return cls(journal, entry, phrases, resumed=False), receipt

    @property
    def query(self) -> Query:
        """As WebBuddy handed it out."""
        return self.entry.query

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, or None."""
        return self.instead or self.entry.outcome

    @property
    def is_over(self) -> bool:
        """Whether nothing is to be done with it any more: it was forgotten, or is a dead letter."""
        return self.entry.dead is not None or self.entry.id not in self._journal.entries

    @property
    def is_suspect(self) -> bool:
        """Whether it is only to be run alone: it may be what kills our processes."""
        return self.entry.deaths >= SUSPECT_DEATHS

    @property
    def is_put_aside(self) -> bool:
        """Whether it waits for the time at which its handler wants to be called again."""
        return self.entry.due is not None and self.entry.outcome is None

    # --- What happens to it ---------------------------------------------------------------------------

    def start(self) -> Receipt:
        """Its handler is to be started once this is on disk."""
        self.entry.running = True
        self.entry.attempts += 1
        self.entry.due = None
        return self._update("running", "attempts", "due")

    def save(self, data: str) -> None:
        """Its handler wants to find this, JSON, in its next attempt."""
        self.entry.saved = data
        # Only the last counts: a handler may save more often than the disk can write.
        self._journal.collect_later(self._saved_statement)

    def _saved_statement(self) -> list[Statement]:
        return [self.entry.update("saved")]

    def note_usage(self, body: Mapping[str, object]) -> None:
        """Its handler has called a model: WebBuddy is to be told this, whatever becomes of the query."""
        entry = self.entry
        known = {"project": entry.query.project, "query": entry.query.id}
        self._journal.keep_usage(StoredUsage.of(entry.query.id, _created(entry.query), {**known, **body}))

    async def written(self) -> None:
        """Wait until all that was noted is on disk; one that is ill is given up on within seconds."""
        try:
            await self._journal.write().durable()
        except JournalIllError:
            pass  # it is queued, and sent, all the same

    def end(self, outcome: Outcome) -> Receipt:
        """It has ended; to be reported once this is on disk."""
        self.entry.running = False
        self.entry.outcome = _without_secrets(outcome)
        self.entry.ended_at = clock.now()
        return self._update("running", "outcome", "ended_at", within=OUTCOME_WAITS)

    def postpone(self, seconds: float) -> None:
        """Its handler wants to be called again later."""
        self.entry.running = False
        # When it was put aside stands in `ended_at`: so a clock that is set back later is noticed.
        self.entry.ended_at = clock.now()
        self.entry.due = self.entry.ended_at + seconds
        self.entry.retries += 1
        self._update("running", "due", "ended_at", "retries")

    def seconds_until_due(self) -> float:
        """How long it is still put aside, by the wall clock, for it may be after a restart."""
        now, put_aside_at = clock.now(), self.entry.ended_at
        if put_aside_at is not None and now < put_aside_at:
            return 0.0  # the clock was wrong then, or is now
        return max(0.0, (self.entry.due or 0.0) - now)

    def reported(self) -> None:
        """WebBuddy has taken the outcome; log entries are still missing there."""
        self.entry.reported = True
        self._update("reported")

    def died(self, reason: str) -> None:
        """WebBuddy will never take the outcome: a dead letter, kept until an operator decides."""
        self.entry.dead = reason
        self._update("dead")

    def forget(self) -> None:
        """WebBuddy knows everything, or it is not ours any more."""
        self._journal.forget(self.entry)

    async def ask_neighbours(self) -> None:
        """Take over what another process of this folder remembers of it: deaths of an earlier claim.

        Only for a query that was just claimed, before its handler starts. What can't be read is left.
        """
        stone = await self._journal.exhume_elsewhere(self.query.id, _created(self.query))
        if stone is None or (stone.attempts, stone.deaths) <= (self.entry.attempts - 1, self.entry.deaths):
            return
        stone.write_on(self.entry)
        self.entry.running = not self.is_suspect
        self.entry.attempts += self.entry.running
        self.log = self._restored_log()  # nothing was written to it yet
        await self._update("running", "attempts", "retries", "deaths", "blamed", "earlier", "saved").durable()

    def bury(self) -> Receipt:
        """Remember its attempts, deaths and log entries: it is put back, and may be claimed here again."""
        entry = self.entry
        return self._journal.bury(
            Tombstone(
                query_id=entry.query.id,
                created=_created(entry.query),
                until=clock.now() + TOMBSTONE_SECONDS,
                attempts=entry.attempts,
                retries=entry.retries,
                deaths=entry.deaths,
                blamed=entry.blamed,
                earlier=entry.earlier + entry.entries,
                saved=entry.saved,
            )
        )

    def _update(self, *fields: str, within: float = 0.0) -> Receipt:
        return self._journal.write(self.entry.update(*fields), within=within)

    # --- Its log (`LineSink`) -------------------------------------------------------------------------

    def lines_wait(self, collect: Callable[[], Fresh]) -> None:
        """Write down what `collect` gives, with the next commit."""
        self._journal.collect_later(lambda: self._line_statements(collect()))

    def sent(self, entries: int, up_to: int) -> None:
        """So many entries have gone out in all, and every line up to this number."""
        self.entry.entries, self.entry.last_number = entries, up_to
        self._journal.write(
            self.entry.update("entries", "last_number"),
            ("DELETE FROM lines WHERE held = ? AND number <= ?", (self.entry.id, up_to)),
            within=LAZY,
        )

    def _line_statements(self, fresh: Fresh) -> list[Statement]:
        statements = [HeldLine(*line).insertion(self.entry.id) for line in fresh.lines]
        if fresh.left_out is not None:
            first, last = fresh.left_out
            gone = (
                "DELETE FROM lines WHERE held = ? AND number BETWEEN ? AND ?",
                (self.entry.id, first, last),
            )
            statements.append(gone)
        return statements


def _without_secrets(outcome: Outcome) -> Outcome:
    match outcome:
        case Done(answer):
            return Done(masks.hide(answer))
        case Failed(reason, kind):
            return Failed(masks.hide(reason), kind)
        case Released():
            return outcome


def _created(query: Query) -> str:
    return query.query_created.isoformat() if query.query_created is not None else ""
