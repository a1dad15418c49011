"""What a handler is given beside its query."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, Protocol, Unpack

from trio_worker.plain_text import text_of
from trio_worker.project import Project
from trio_worker.token_usage import TokenUsage, UsageFields

__all__ = ["MOST_SAVED", "BaseContext", "Context", "Desk", "PlainContext"]

MOST_SAVED = 65_536
"""Bytes of JSON that one query may keep."""


class Desk(Protocol):
    """What stands behind a context: the worker itself, or a pipe to it.

    All but `project` and `token_usage` are called from any thread, never wait, and do nothing once the
    attempt is over.
    """

    def log(self, text: str) -> None:
        """Take one line for the query's log."""

    def deadline(self) -> datetime:
        """Say when the attempt has to be over."""

    def extend(self, seconds: float) -> datetime:
        """Put that off by so many seconds, which are 0 or more; as `Deadline.extend`."""

    def save(self, data: str) -> None:
        """Keep some JSON for the next attempt."""

    async def project(self) -> Project | None:
        """Ask WebBuddy for the query's project. On the event loop."""

    def project_in_thread(self) -> Project | None:
        """The same from a thread that may be blocked."""

    def note_usage(self, usage: TokenUsage) -> None:
        """Take what a call of a model has used, for WebBuddy."""

    async def token_usage(self, usage: TokenUsage) -> None:
        """Do so, and wait until it is in the journal, or given up on. On the event loop."""

    def token_usage_in_thread(self, usage: TokenUsage) -> None:
        """The same from a thread that may be blocked."""


class BaseContext:
    """What async and plain handlers have in common. Callable from any thread.

    Args:
        desk: Stands behind it.
        attempt: The number of this attempt.
        saved: What an earlier attempt has saved, as JSON, or None.

    Attributes:
        attempt: 1 for the first run of the handler on this query, and one more for each after a crash, a
            stop or a `RetryLater`.
    """

    __slots__ = ("_desk", "_saved", "attempt")

    def __init__(self, desk: Desk, *, attempt: int = 1, saved: str | None = None) -> None:
        self._desk = desk
        self._saved = saved
        self.attempt = attempt

    def log(self, text: object) -> None:
        """Write a line that the query's author sees within a few seconds.

        Never waits and never fails: lines are shipped in the background, in order. WebBuddy shows
        50 entries of a query, so lines that come quickly, or late, travel several to an entry.
        Blank lines are left out. Once the query has ended it does nothing.

        Args:
            text: Plain text. Anything else is turned into text by `str`.
        """
        self._desk.log(text if isinstance(text, str) else text_of(text))

    @property
    def deadline(self) -> datetime:
        """When the handler is cancelled, as a time of the day in UTC."""
        return self._desk.deadline()

    def extend(self, seconds: float) -> datetime:
        """Ask for more time, when there is reason to: up to ``WORKER_MAX_PROCESSING_TIME`` in all.

        Args:
            seconds: By how many the deadline is put off.

        Returns:
            The deadline as it is now: where the limit is reached, no later than before.

        Raises:
            ValueError: ``seconds`` is negative, infinite or no number.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            raise ValueError(f"extend({seconds!r}): expected seconds, 0 or more")
        return self._desk.extend(seconds)

    @property
    def saved(self) -> Any:
        """What was saved last, by this attempt or by one before it; None if nothing was."""
        return None if self._saved is None else json.loads(self._saved)

    def save(self, data: object) -> None:
        """Keep something for the next attempt, should this one not come to its end.

        It is on disk a moment later, takes the place of what was saved before, and goes with the query.

        Args:
            data: What JSON can say, 64 KiB of it at most.

        Raises:
            TypeError: JSON can't say it; so does ValueError, also for a NaN.
            ValueError: It is too much.
        """
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode("utf-8", "backslashreplace"))  # as it comes to a program
        if size > MOST_SAVED:
            raise ValueError(f"ctx.save: {size} bytes of JSON, expected {MOST_SAVED} at most")
        self._saved = text
        self._desk.save(text)

    def note_token_usage(self, usage: TokenUsage) -> None:
        """Do as `token_usage`, and do not wait for the journal: for who can't (a program's pipe)."""
        self._desk.note_usage(usage)


class CallPlain(Protocol):
    """Calls a plain function in a thread, and has more to say of it for the log."""

    async def __call__(self, function: Callable[[], Any], **about: object) -> Any:
        """Call it."""


async def _by_nobody(function: Callable[[], Any], **_: object) -> Any:
    raise RuntimeError(f"{function!r} can't be called: this context was not made by a worker")


class Context(BaseContext):
    """A handler's way to WebBuddy while it works. Made by the worker, one for each attempt.

    Args:
        desk: Stands behind it.
        attempt: The number of this attempt.
        saved: What an earlier attempt has saved, as JSON, or None.
        call_plain: Calls plain functions; the worker's counts those that can't be stopped.
    """

    __slots__ = ("_call_plain",)

    def __init__(
        self, desk: Desk, *, attempt: int = 1, saved: str | None = None, call_plain: CallPlain = _by_nobody
    ) -> None:
        super().__init__(desk, attempt=attempt, saved=saved)
        self._call_plain = call_plain

    async def call_plain(self, function: Callable[[PlainContext], Any], **about: object) -> Any:
        """Call a plain function in a thread of its own, as a plain handler is.

        Cancelled, the thread is left behind: until it ends, it is counted with the handlers that could not
        be stopped.

        Args:
            function: It; what it is given is this context, for a thread.
            **about: Of the call, for the operator's log.

        Raises:
            BaseException: What the function raises.
        """
        plain = PlainContext(self._desk, attempt=self.attempt, saved=self._saved)
        try:
            return await self._call_plain(partial(function, plain), **about)
        finally:
            self._saved = plain._saved

    async def project(self) -> Project | None:
        """Ask WebBuddy for the settings of the query's project; asked again after a minute only.

        Returns:
            Them; None where this WebBuddy has none, or does not show them to the worker's account.

        Raises:
            WebBuddyError: WebBuddy can't be reached.
        """
        return await self._desk.project()

    async def token_usage(self, **usage: Unpack[UsageFields]) -> None:
        """Tell WebBuddy what a call of a language model has used; nothing where it has no such endpoint.

        Returns when that is in the journal, so that a crash does not lose it; it is sent in the background.
        A disk that is ill, and a WebBuddy that does not take it, fail no query. Of one attempt the first 200
        are taken. Cancelled, it is taken all the same. Once the query has ended it does nothing.

        Args:
            **usage: ``model_name``, ``request`` and ``answer``; the others (see `UsageFields`) may be left
                out.

        Raises:
            TypeError: A value is of a wrong type, or one is missing.
            ValueError: A number is negative or too large, a name is blank.
        """
        await self._desk.token_usage(TokenUsage(**usage))


class PlainContext(BaseContext):
    """The same for a plain function, in a thread or in a process of the pool: nothing has to be awaited."""

    __slots__ = ()

    def project(self) -> Project | None:
        """As `Context.project`; blocks for as long as WebBuddy takes."""
        return self._desk.project_in_thread()

    def token_usage(self, **usage: Unpack[UsageFields]) -> None:
        """As `Context.token_usage`; blocks until it is in the journal."""
        self._desk.token_usage_in_thread(TokenUsage(**usage))
