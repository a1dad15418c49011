"""Queries that WebBuddy has handed out in answers that never came.

WebBuddy has no lease: such a query is ``in_progress``, and nobody works on it. The journal keeps the
times in which claims were lost; whatever was claimed at such a time, says nothing, and is held by nobody
here, is taken for lost. Another worker's query is never silent for that long: the first line of its log
leaves within a second.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Literal, Never

import attrs
import structlog
import trio

from trio_worker.backoff import Backoff
from trio_worker.errors import JournalError, NotFound, Refused, Unavailable, WebBuddyError
from trio_worker.journal import Journal
from trio_worker.journal_file import LostClaim
from trio_worker.liveness import Pulse
from trio_worker.query import Query
from trio_worker.trouble import Trouble
from trio_worker.webbuddy import WebBuddyClient

__all__ = ["LostClaims"]

log = structlog.get_logger(__name__)

LOOKS_APART = 60.0  # seconds
SLACK = 2.0  # seconds that our idea of WebBuddy's clock may be wrong
LATE = 60.0  # seconds after which a claim whose answer was given up shows, if it was carried out at all
LONGEST_PAUSE = 600.0  # seconds, beside LOOKS_APART, while WebBuddy is down
MOST_NAMED = 20  # numbers of queries in one line of the operator's log

Key = tuple[int, datetime | None]


@attrs.frozen
class _Suspect:
    """A query that may be lost.

    Attributes:
        query: As the first look has shown it.
        seen_at: When that was, on Trio's clock.
    """

    query: Query
    seen_at: float


@attrs.define(kw_only=True, eq=False)
class LostClaims:
    """Finds the queries of lost claims.

    Attributes:
        webbuddy: The door to WebBuddy.
        journal: Where lost claims are noted.
        mode: ``requeue``: they are put back; ``report``: the operator is told.
        unclaimed: Gives the numbers that pushes have named and no claim of this process has brought. Asked
            only where WebBuddy does not say when a query was claimed, or can't be asked at all.
        said_before: Whether a claim of the query that is over here has sent this entry to its log.
        put_back: Told of each query that is in the queue again; synchronous.
        pulse: Says when the next look is due.
        found: How many queries were found to be lost.
    """

    webbuddy: WebBuddyClient
    journal: Journal
    mode: Literal["requeue", "report"]
    unclaimed: Callable[[], Collection[int]]
    said_before: Callable[[int, str], bool] = lambda _query_id, _entry: False
    put_back: Callable[[], None] = lambda: None
    pulse: Pulse = attrs.field(factory=Pulse)
    found: int = attrs.field(default=0, init=False)
    _suspects: dict[Key, _Suspect] = attrs.field(factory=dict, init=False)
    _looked_for: set[LostClaim] = attrs.field(factory=set, init=False)
    _in_doubt: list[Query] = attrs.field(factory=list, init=False)
    _settled: set[Key] = attrs.field(factory=set, init=False)
    _unaskable_at: float | None = attrs.field(default=None, init=False)
    _told: bool = attrs.field(default=False, init=False)
    _pauses: Backoff = attrs.field(init=False)
    _unreadable: Trouble = attrs.field(
        factory=lambda: Trouble(log, "can't look for the queries of lost claims"), init=False
    )

    def __attrs_post_init__(self) -> None:
        self._pauses = Backoff(first=1.0, most=LONGEST_PAUSE)

    async def find(self) -> Never:
        """Look every minute, as long as there is something to look for. Never returns.

        Cancelled, the notes stay in the journal.
        """
        while True:
            wait = LOOKS_APART
            self.pulse.rest()  # calls, and the disk, are watched by themselves
            try:
                if self.journal.lost:
                    await self._look()
                    self._pauses.reset()
                else:
                    self._forget_all()
            # Soon again, not in a minute: where one call in ten breaks, no look comes to its end at once.
            except WebBuddyError as error:  # the intake tells the operator
                log.debug("can't look for the queries of lost claims", reason=str(error))
                wait = self._pauses.next(error.retry_after if isinstance(error, Unavailable) else None)
            except JournalError as error:
                self._unreadable.happened(reason=str(error))
                wait = self._pauses.next()
            await self.pulse.sleep(wait)

    async def _look(self) -> None:
        """Deal with what the look before has found, and look again."""
        notes = list(self.journal.lost)
        try:
            await self._settle_suspects()
            await self._find_suspects(notes)
        except Refused as error:
            self._cannot_ask(notes, error)
            return
        self._unaskable_at = None
        for note in notes:
            # Looked for twice, since a query is left out of a list that changes while its pages are read.
            open_questions = [*(suspect.query for suspect in self._suspects.values()), *self._in_doubt]
            waits = any(_fits(query, note) for query in open_questions)
            if note in self._looked_for and not waits:
                self._drop(note)
        self._looked_for |= set(notes)

    # --- The first look --------------------------------------------------------------------------

    async def _find_suspects(self, notes: list[LostClaim]) -> None:
        queries = await self.webbuddy.in_progress()
        # Read after the list: what was claimed here before it was made is written down by now.
        held = await self.journal.held_here()
        # Perhaps by an earlier claim, and it is the later one that was lost: which shows when that is let go.
        ours = {_key(entry.query) for entry in self.journal.entries.values()}
        self._in_doubt = [query for query in queries if query.id in held and _key(query) not in ours]
        for query in queries:
            key = _key(query)
            if key in self._suspects or key in self._settled or query.id in held or key in ours:
                continue
            if self._may_be_lost(query, notes) and await self._was_heard_of(query) is not True:
                self._suspects[key] = _Suspect(query, trio.current_time())

    def _may_be_lost(self, query: Query, notes: list[LostClaim]) -> bool:
        if query.query_started is None and query.id not in self.unclaimed():
            return False
        return any(_fits(query, note) for note in notes)

    async def _was_heard_of(self, query: Query) -> bool | None:
        """Whether anything was logged since its claim; None when that can't be seen.

        What was logged before is of an earlier claim: a query that was put back keeps its log.
        """
        if query.logs_count == 0:
            return False
        try:
            entries = await self.webbuddy.log_entries(query.id)
        except NotFound:
            return None
        started = query.query_started
        return any(
            entry.created is None or started is None or entry.created >= started
            for entry in entries
            if not self.said_before(query.id, entry.text)
        )

    # --- The second look -------------------------------------------------------------------------

    async def _settle_suspects(self) -> None:
        if not self._suspects:
            return
        held = await self.journal.held_here()
        old = trio.current_time() - LOOKS_APART
        for key, suspect in list(self._suspects.items()):
            if suspect.seen_at > old:
                continue
            if suspect.query.id not in held:
                await self._settle(suspect.query)
            del self._suspects[key]
            self._pauses.reset()

    async def _settle(self, suspect: Query) -> None:
        """Look at one by itself, and put it back or report it should it still be as it was.

        One that is missing in a list may be there all the same; its own page does not lie.
        """
        try:
            query = await self.webbuddy.get_query(suspect.id)
        except NotFound as error:
            if not error.by_api:
                raise
            return
        if query.status != "in_progress" or _key(query) != _key(suspect):
            return
        heard_of = await self._was_heard_of(query)
        if heard_of:
            return
        if self.mode == "requeue" and query.query_started is not None and heard_of is False:
            await self._put_back(query)
        else:
            log.warning(
                "a query was handed out in an answer that was lost; `trio-worker stuck` puts it back",
                query=query.id,
            )
        self._settled.add(_key(query))
        self.found += 1

    async def _put_back(self, query: Query) -> None:
        try:
            await self.webbuddy.report(query.id, status="queued")
        except Refused as error:
            log.warning("a query of a lost claim can't be put back", query=query.id, reason=str(error))
        else:
            log.warning("put back: the answer that handed it out was lost", query=query.id)
            self.put_back()

    # --- Notes -----------------------------------------------------------------------------------

    def _drop(self, note: LostClaim) -> None:
        if self.webbuddy.server_now() >= note.until + LATE:
            self.journal.forget_lost(note)
            self._looked_for.discard(note)

    def _forget_all(self) -> None:
        self._suspects.clear()
        self._looked_for.clear()
        self._settled.clear()

    def _cannot_ask(self, notes: list[LostClaim], error: Refused) -> None:
        """Tell what pushes have named, once it is certain that this WebBuddy can't be asked.

        A proxy before a WebBuddy that is down says the same: so only when something else has been
        answered properly since.
        """
        since, self._unaskable_at = self._unaskable_at, self._unaskable_at or trio.current_time()
        if since is None or self.webbuddy.well_at <= since:
            return
        if not self._told:
            self._told = True
            log.warning(
                "answers to claims were lost, and this WebBuddy can't be asked for their queries; they may be"
                " among those that were announced and not claimed here",
                announced=sorted(self.unclaimed())[-MOST_NAMED:],
                reason=str(error),
            )
        for note in notes:
            self._drop(note)


def _key(query: Query) -> Key:
    return (query.id, query.query_started)


def _fits(query: Query, note: LostClaim) -> bool:
    """Whether a query was claimed in a time in which a claim was lost. Where that is not known: perhaps."""
    if query.query_started is None:
        return True
    return note.since - SLACK <= query.query_started.timestamp() <= note.until + SLACK
