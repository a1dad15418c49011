"""Asking again: within the query's time while the model is away, and later when that does not help."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import attrs
import structlog
import trio

from trio_worker import clock
from trio_worker.backoff import Backoff
from trio_worker.context import Context
from trio_worker.errors import RetryLater
from trio_worker.handlers.chat.failures import Misconfigured, NotNow
from trio_worker.handlers.chat.reply import Reply
from trio_worker.handlers.chat.sentences import Sentences
from trio_worker.trouble import Trouble

__all__ = ["Patience"]

log = structlog.get_logger(__name__)

Ask = Callable[[Callable[[], None]], Awaitable[Reply]]
"""Asks once, and calls what it is given as soon as anything comes."""

SHARE = 0.5  # of the time that the query has, for asking again; the rest is for the answer
FIRST, MOST = 1.0, 30.0  # seconds: the ceilings of the pauses meanwhile
FIRST_LATER, MOST_LATER = 60.0, 3_600.0  # seconds: those of `RetryLater`, by the attempt


def _away() -> Trouble:
    return Trouble(log, "the model server is away or busy", over="the model server answers again")


def _wrong() -> Trouble:
    return Trouble(
        log,
        "the model can't be used with these settings (CHAT_…), see the reason; queries are put aside",
        over="the model can be used again",
        level="error",
    )


@attrs.define(kw_only=True)
class Patience:
    """Of all queries together, for what is said of it in the log.

    Attributes:
        model: Its name, for the log.
        sentences: The language.
    """

    model: str
    sentences: Sentences
    _away: Trouble = attrs.field(factory=_away, init=False)
    _wrong: Trouble = attrs.field(factory=_wrong, init=False)

    async def ask(self, ask: Ask, ctx: Context) -> Reply:
        """Ask until a reply begins, or half of the query's time is over; once it has begun, it has all.

        A consumer is held meanwhile, hence only half, and not as often as goes; then the query is put aside,
        and holds none. So it is with a server that takes the request and says nothing.

        Args:
            ask: Asks.
            ctx: Of the query.

        Raises:
            RetryLater: The time is over, or the pause that the server asks for goes beyond it. At once when
                the operator has to do something: with a wrong key every query would fail, and none has
                deserved that before it was put aside ``WORKER_MAX_RETRIES`` times.
            NoAnswer: As ``ask`` does.
        """
        give_up = trio.current_time() + SHARE * (ctx.deadline - clock.utc_now()).total_seconds()
        backoff = Backoff(FIRST, MOST)
        told = 0
        while True:
            try:
                reply = await _begun_by(give_up, ask)
            except Misconfigured as error:
                self._wrong.happened(about=str(error.status), model=self.model, reason=error.reason)
                raise _later(ctx, self.sentences.misconfigured) from error
            except NotNow as error:
                self._away.happened(model=self.model, reason=error.reason)
                pause = backoff.next(error.retry_after)
                if trio.current_time() + pause > give_up:
                    raise _later(ctx, self.sentences.not_now, error.retry_after) from error
                # Of the fifty lines that the author sees, these are to take a few: each says a longer pause.
                if math.ceil(pause) > told:
                    told = math.ceil(pause)
                    ctx.log(self.sentences.again.format(seconds=told))
            else:
                self._away.is_over()
                self._wrong.is_over()
                return reply
            await trio.sleep(pause)


async def _begun_by(moment: float, ask: Ask) -> Reply:
    """Ask, and leave it when nothing has come by then.

    Raises:
        NotNow: So it is.
        ModelError: As ``ask`` does.
    """
    with trio.CancelScope(deadline=moment) as waiting:

        def begun() -> None:
            waiting.deadline = math.inf

        return await ask(begun)
    raise NotNow("it has not begun to answer within half of the query's time")


def _later(ctx: Context, reason: str, asked: float | None = None) -> RetryLater:
    """Put the query aside: the longer, the more often that was done."""
    pause = min(FIRST_LATER * 2 ** min(ctx.attempt - 1, 10), MOST_LATER)  # attempts have no end
    # The jitter comes on top of that: the queries of one outage are not to come back in one moment.
    return RetryLater(Backoff(pause / 2, pause / 2).next(max(asked or 0.0, pause)), reason)
