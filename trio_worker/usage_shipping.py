"""What models have used, on its way to WebBuddy: one after the other, and in nobody's way."""

from __future__ import annotations

import json
import math
from datetime import datetime

import attrs
import structlog
import trio

from trio_worker import clock
from trio_worker.errors import AccessDenied, NotFound, Refused, Unavailable
from trio_worker.journal import Journal
from trio_worker.journal_file import StoredUsage
from trio_worker.repeats import Repeats
from trio_worker.stop import Stop
from trio_worker.tallies import Count
from trio_worker.trouble import Trouble
from trio_worker.webbuddy import MISSING_FOR, WebBuddyClient

__all__ = ["UsageShipping"]

log = structlog.get_logger(__name__)

LOOK_AFTER = 30.0  # seconds after which the number of the query may be another one's
MOST_AGE = 7 * 86_400.0  # seconds; what WebBuddy can't take for a week it never will
LAST_TRIES = 3  # while the service stops
LAST_PAUSE = 0.5  # seconds between them


@attrs.define(eq=False)
class _PutOff:
    """One that could not be sent, and waits."""

    until: float = -math.inf
    repeats: Repeats = attrs.field(factory=Repeats)


@attrs.define(eq=False)
class UsageShipping:
    """Sends what the journal keeps of it.

    No query waits for that: it belongs to none in the journal, and its failures say nothing of WebBuddy.

    Attributes:
        webbuddy: The door to WebBuddy.
        journal: Where it waits.
        stop: The stop.
        fates: How many were ``sent``, and ``dropped``: refused, or too old, or WebBuddy has no such call.
    """

    webbuddy: WebBuddyClient
    journal: Journal
    stop: Stop
    fates: Count = attrs.field(factory=lambda: Count("sent", "dropped"), init=False)
    _missing_until: float = attrs.field(default=-math.inf, init=False)
    _has_said_missing: bool = attrs.field(default=False, init=False)
    _repeats: Repeats = attrs.field(factory=Repeats, init=False)  # of all, since the last that was sent
    _put_off: dict[str, _PutOff] = attrs.field(factory=dict, init=False)  # by id
    _closing: trio.Event = attrs.field(factory=trio.Event, init=False)
    _last_tries: int = attrs.field(default=LAST_TRIES, init=False)
    _refused: Trouble = attrs.field(
        factory=lambda: Trouble(log, "WebBuddy refused a token usage; it is dropped"), init=False
    )
    _failing: Trouble = attrs.field(
        factory=lambda: Trouble(
            log, "a token usage could not be sent; it is kept", over="token usage is sent again"
        ),
        init=False,
    )

    def close(self) -> None:
        """No handler is at work any more: end when nothing is left, or WebBuddy does not take it now."""
        self._closing.set()
        self.journal.usage_came.set()

    async def run(self) -> None:
        """Send, until `close`. What is not through by then, or by a cancellation, stays in the journal."""
        with self.stop.after_a_crash():
            while True:
                usage = self._next()
                if usage is not None:
                    if not await self._ship(usage):
                        return
                elif self._closing.is_set():
                    return
                else:
                    self.journal.usage_came = trio.Event()
                    due = min((put_off.until for put_off in self._put_off.values()), default=math.inf)
                    with trio.move_on_at(due):
                        await self.journal.usage_came.wait()

    def _next(self) -> StoredUsage | None:
        """The first that is not put off; at the end, the first."""
        now = math.inf if self._closing.is_set() else trio.current_time()
        for usage in self.journal.usages.values():
            if (put_off := self._put_off.get(usage.id)) is None or put_off.until <= now:
                return usage
        return None

    async def _ship(self, usage: StoredUsage) -> bool:
        """Send one once; False: there is no time left to send anything."""
        try:
            fate = await self._try(usage)
        except (Unavailable, AccessDenied) as error:
            self._failing.happened(query=usage.query_id, reason=str(error))
            self._put_behind(usage, error)
            return await self._wait(self._repeats.pause(error))
        self.fates.add(fate)
        self._put_off.pop(usage.id, None)
        self.journal.forget_usage(usage)
        return True

    def _put_behind(self, usage: StoredUsage, error: Unavailable | AccessDenied) -> None:
        """Let the others go first: it may be this one only that WebBuddy can't save.

        It has pauses of its own, since those of all begin anew with each that gets through.
        """
        put_off = self._put_off.setdefault(usage.id, _PutOff())
        put_off.until = trio.current_time() + put_off.repeats.pause(error)
        self.journal.usages[usage.id] = self.journal.usages.pop(usage.id)

    async def _try(self, usage: StoredUsage) -> str:
        """Send one once, if it is to be sent; say what becomes of it."""
        if trio.current_time() < self._missing_until:
            return "dropped"
        if clock.now() - usage.noted_at > MOST_AGE:
            log.warning("a token usage could not be sent for a week; it is dropped", query=usage.query_id)
            return "dropped"
        try:
            if not await self._is_the_same_query(usage):
                log.warning("the query of a token usage is gone; it is dropped", query=usage.query_id)
                return "dropped"
            await self.webbuddy.add_token_usage(json.loads(usage.body))
        except NotFound as error:
            self._note_missing(error)
            return "dropped"
        except Refused as refused:
            self._refused.happened(query=usage.query_id, reason=str(refused))
            return "dropped"
        self._failing.is_over()
        self._repeats = Repeats()
        return "sent"

    def _note_missing(self, error: NotFound) -> None:
        self._missing_until = trio.current_time() + MISSING_FOR
        if not self._has_said_missing:
            self._has_said_missing = True
            log.info("this WebBuddy takes no token usage: none is sent", reason=str(error))

    async def _is_the_same_query(self, usage: StoredUsage) -> bool:
        """Look, if it has waited: WebBuddy's database may have been reset, and the number another query's."""
        if clock.now() - usage.noted_at <= LOOK_AFTER:
            return True
        try:
            query = await self.webbuddy.get_query(usage.query_id)
        except NotFound as error:
            return not error.by_api
        except Refused:  # this account may not read it
            return True
        if not usage.created or query.query_created is None:
            return True
        return query.query_created == datetime.fromisoformat(usage.created)

    async def _wait(self, seconds: float) -> bool:
        """Wait for the next try; False: there is none."""
        if self._closing.is_set():
            self._last_tries -= 1
            if self._last_tries <= 0:
                return False
            await trio.sleep(min(seconds, LAST_PAUSE))
            return True
        with trio.move_on_after(seconds):
            await self._closing.wait()
        return True
