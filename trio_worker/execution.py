"""One run of the user's handler: a query in, an outcome out, whatever the handler does."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import structlog
import trio

from trio_worker.capture import OFF, Capture
from trio_worker.context import Context, Desk, PlainContext
from trio_worker.deadline import Deadline
from trio_worker.errors import HandlerCrashed, QueryFailed, RetryLater, reason_of, unwrapped
from trio_worker.handlers.loading import Handler
from trio_worker.left_behind import LeftBehind
from trio_worker.masks import masks
from trio_worker.phrases import Phrases
from trio_worker.plain_text import clean, fit
from trio_worker.plain_thread import PlainCall, PlainThread, in_a_thread
from trio_worker.query import Done, Ending, Failed, Postponed, Query, Released, Revoked
from trio_worker.stop import only_cancelled
from trio_worker.tallies import LONG, Spread

__all__ = ["LONGEST_RETRY", "Attempt", "Execution"]

log = structlog.get_logger(__name__)

LAST_LOOK = 0.2  # seconds

LONGEST_RETRY = 30 * 86_400.0  # seconds

# WebBuddy (DRF 3.17.2 and newer) takes bodies up to 2 621 440 bytes; the rest is for the other keys.
MOST_ANSWER = 2_600_000  # bytes of JSON


@attrs.frozen(kw_only=True)
class Execution:
    """Runs handlers.

    Attributes:
        handler: The user's function.
        nursery: Where handlers run. It has to outlive its users: a handler that swallows its
            cancellation is left behind there.
        time_limit: Seconds for one query.
        most_time: Seconds up to which a handler may extend that.
        phrases: The language of what the query's author reads.
        worker: The name of this worker.
        left_behind: Counts what could not be stopped.
        call_plain: Calls a plain function: in a thread, or in place where time is virtual.
        capture: Brings what a handler logs and prints to its query's log.
        attempts: What runs now, and since when, on Trio's clock.
        run_times: How long each attempt took.
    """

    handler: Handler
    nursery: trio.Nursery
    time_limit: float
    most_time: float
    phrases: Phrases
    worker: str
    left_behind: LeftBehind
    call_plain: PlainCall = in_a_thread
    capture: Capture = OFF
    # A dictionary for its order, which sets do not have.
    attempts: dict[Attempt, float] = attrs.field(factory=dict, init=False)
    run_times: Spread = attrs.field(factory=lambda: Spread(LONG), init=False)

    def deadline(self) -> Deadline:
        """Begin the time of an attempt."""
        return Deadline(self.time_limit, most=self.most_time, patience=self.handler.patience)

    def context(self, desk: Desk, *, attempt: int, saved: str | None) -> Context | PlainContext:
        """Make what the handler is given beside its query."""
        if not self.handler.is_async:
            return PlainContext(desk, attempt=attempt, saved=saved)
        return Context(desk, attempt=attempt, saved=saved, call_plain=self._call_plain)

    async def run(self, query: Query, ctx: Context | PlainContext, deadline: Deadline) -> Ending:
        """Run the handler on a query.

        Never raises for anything that the handler does. Returns at the latest 5 s after the time
        limit; a handler that is still there is then left behind in the nursery.

        Cancelled, it leaves the handler in the nursery; to cancel that is the caller's.
        """
        attempt = Attempt(self, query, ctx, deadline)
        self.attempts[attempt] = trio.current_time()
        try:
            self.nursery.start_soon(attempt.run, name=f"handler for query {query.id}")
            await deadline.keep(attempt.ended)
            if attempt.outcome is None:
                if self.handler.kill is not None:
                    # A stop may leave less time than the grace of a program: who runs the query next must
                    # not find it at work.
                    self.handler.kill(ctx)
                # When something has blocked the event loop, the deadline and the end of the patience come
                # in one: the handler has hardly heard of its cancellation.
                with trio.move_on_after(LAST_LOOK):
                    await attempt.ended.wait()
            return attempt.outcome or attempt.leave()
        finally:
            self.run_times.add(trio.current_time() - self.attempts.pop(attempt))

    async def _call_plain(self, function: Callable[[], Any], **about: object) -> Any:
        thread = PlainThread(self.left_behind, handler=self.handler.path, **about)
        return await thread.call(function, self.call_plain)

    @property
    def busy_seconds(self) -> float:
        """For how long handlers have been at work, all together, those that still are included."""
        now = trio.current_time()
        return self.run_times.sum + sum(now - began for began in self.attempts.values())

    def interrupt(self, leave_until: float) -> None:
        """Cancel what runs: its queries are to be put back.

        Args:
            leave_until: The time, on Trio's clock, at which a handler is left behind that has not
                ended by then. Until then it may clean up, and its query is nobody else's.
        """
        for attempt in self.attempts:
            attempt.interrupted = True
            attempt.deadline.scope.cancel()
            attempt.deadline.shorten_patience(leave_until)

    def revoke(self, query: Query, reason: str) -> bool:
        """Cancel what runs on a query that is not ours any more.

        Args:
            query: The very query that `run` was called with.
            reason: What was seen, for the operator.

        Returns:
            Whether anything runs on it.
        """
        for attempt in self.attempts:
            if attempt.query is query:
                attempt.revoke(reason)
                return True
        return False


class Attempt:
    """One handler at work on one query."""

    def __init__(
        self, execution: Execution, query: Query, ctx: Context | PlainContext, deadline: Deadline
    ) -> None:
        self.execution = execution
        self.query = query
        self.ctx = ctx
        self.deadline = deadline
        self.interrupted = False
        self.revoked: str | None = None
        self.ended = trio.Event()
        self.outcome: Ending | None = None
        self.left = False
        self.thread: PlainThread | None = None

    async def run(self) -> None:
        """Turn each way to end into one outcome; nothing of the handler's gets past this."""
        error: BaseException | None = None
        answer: object = None
        try:
            with self.deadline.scope, self.execution.capture.into(self.ctx.log):
                answer = await self._call()
        except BaseException as problem:  # noqa: BLE001, ASYNC103 - SystemExit, a stray Cancelled: live on
            error = problem
        self.outcome = self._outcome_of(answer, error)
        if self.left:
            self.execution.left_behind.add(tasks=-1)
            still = self.execution.left_behind.tasks
            log.warning("a handler that was left behind has ended", query=self.query.id, still=still)
        self.ended.set()

    def revoke(self, reason: str) -> None:
        """Cancel the handler: its query is not ours any more."""
        self.revoked = self.revoked or reason
        self.deadline.scope.cancel()
        self.deadline.shorten_patience(trio.current_time() + self.execution.handler.patience)

    def leave(self) -> Failed | Released | Revoked:
        """Give the handler up, wherever it still is."""
        self.left = True
        self.execution.left_behind.add(tasks=1)
        log.error(
            "handler left behind: it swallowed its cancellation (trio.Cancelled must be re-raised)",
            query=self.query.id,
            handler=self.execution.handler.path,
            left_behind=self.execution.left_behind.tasks,
        )
        if self.revoked is not None:
            return Revoked(self.revoked)
        if self.interrupted:
            return Released(self.execution.phrases.stopping)
        return Failed(self._sentence("left_behind"), "left_behind")

    async def _call(self) -> object:
        handler = self.execution.handler
        if handler.is_async:
            return await handler.function(self.query, self.ctx)
        left_behind = self.execution.left_behind
        self.thread = PlainThread(left_behind, query=self.query.id, handler=handler.path)
        return await self.thread.call(
            partial(handler.function, self.query, self.ctx), self.execution.call_plain
        )

    def _outcome_of(self, answer: object, error: BaseException | None) -> Ending:
        try:
            return self._outcome(answer, error)
        except Exception as problem:  # noqa: BLE001 - its __str__ or __class__ is the handler's code, too
            return self._raised(problem)

    def _outcome(self, answer: object, error: BaseException | None) -> Ending:
        if self.revoked is not None:
            return Revoked(self.revoked)
        if self.interrupted or _cancelled_from_outside():
            return self._interrupted(error)
        # The second: when something blocks the event loop, the deadline can pass without anybody seeing it.
        if self.deadline.scope.cancel_called or self.deadline.has_come():
            return self._timed_out(error)
        if error is None:
            return self._answered(answer)
        match unwrapped(error):
            case QueryFailed() as said:
                return self._said_so(said)
            case RetryLater() as wish:
                return self._postponed(wish)
            case HandlerCrashed() as crash:
                return self._crashed(crash)
        return self._raised(error)

    def _interrupted(self, error: BaseException | None) -> Released:
        if error is not None and not only_cancelled(error):
            log.warning("the handler raised while it was being stopped", query=self.query.id, exc_info=error)
        return Released(self.execution.phrases.stopping)

    def _timed_out(self, error: BaseException | None) -> Failed:
        # Also when it has returned an answer: a handler that catches everything answers here with
        # the text of its own cancellation.
        log.warning(
            "the handler ran past its time limit",
            query=self.query.id,
            limit=self.deadline.limit,
            exc_info=error,
        )
        left = self.thread is not None and self.thread.left
        kind = "left_behind" if left else "timeout"
        return Failed(self._sentence(kind), kind)

    def _said_so(self, error: QueryFailed) -> Failed:
        reason = clean(reason_of(error))
        return Failed(self._fit(reason) or self.execution.phrases.empty_reason, "said_so")

    def _crashed(self, crash: HandlerCrashed) -> Failed:
        said = f"{self._sentence(crash.phrase, **crash.values)}\n{crash.tail}"
        return Failed(self._fit(clean(said)), crash.phrase)

    def _postponed(self, wish: RetryLater) -> Ending:
        seconds = wish.seconds
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            return self._raised(ValueError(f"RetryLater: seconds is {seconds!r}, expected 0 or more"))
        reason = clean(wish.reason if isinstance(wish.reason, str) else str(wish.reason))
        return Postponed(min(float(seconds), LONGEST_RETRY), reason)

    def _raised(self, error: BaseException) -> Failed:
        log.error("the handler raised", query=self.query.id, attempt=self.ctx.attempt, exc_info=error)
        return Failed(self._sentence("error", error=type(unwrapped(error)).__name__), "error")

    def _answered(self, answer: object) -> Done | Failed:
        if answer is None:
            return self._bad_answer("no_answer")
        if not isinstance(answer, str):
            if inspect.iscoroutine(answer):
                answer.close()  # somebody forgot to await; no warning beside our own line
            return self._bad_answer("wrong_answer", type=type(answer).__name__)
        text = clean(answer)
        return Done(self._fit(text)) if text else self._bad_answer("empty_answer")

    def _bad_answer(self, phrase: str, **values: object) -> Failed:
        log.error(
            "the handler's answer can't be used: return a str that is not blank",
            query=self.query.id,
            problem=phrase,
            **values,
        )
        return Failed(self._sentence(phrase, **values), "bad_answer")

    def _sentence(self, phrase: str, **values: object) -> str:
        execution = self.execution
        template: str = getattr(execution.phrases, phrase)
        return template.format(
            limit=self.deadline.limit, worker=execution.worker, query=self.query.id, **values
        )

    def _fit(self, text: str) -> str:
        # Before it is cut: half a secret is not found.
        return fit(masks.hide(text), most=MOST_ANSWER, note=self.execution.phrases.cut)


def _cancelled_from_outside() -> bool:
    """Whether the nursery is cancelled: another part of the service has crashed."""
    return trio.current_effective_deadline() == -math.inf
