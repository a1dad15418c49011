"""What can go wrong, by what to do next.

::

    Exception
    ├── QueryFailed            raised by a handler: the query fails with exactly this text
    ├── RetryLater             raised by a handler: put the query aside, and call it again later
    ├── HandlerCrashed         the handler's process or program has ended as it should not have
    └── WorkerError
        ├── SettingsError      fix the environment and start again (exit 2)
        │   └── HandlerError   … the handler that it names
        ├── JournalError       fix the disk and start again (exit 4)
        │   └── JournalIllError … while it runs: take nothing new until it is well
        └── WebBuddyError      a call to WebBuddy did not do its work
            ├── Unavailable    try again later: no answer, time out, 429, 5xx, undecodable 2xx
            │   └── Busy       try again soon, one call at a time: a plain 500
            ├── AccessDenied   stop: the log-in was refused
            └── Refused        never repeat: any other 4xx
                └── NotFound   … there is no such thing, or no such call
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = [
    "AccessDenied",
    "Busy",
    "HandlerCrashed",
    "HandlerError",
    "JournalError",
    "JournalIllError",
    "NotFound",
    "QueryFailed",
    "Refused",
    "RetryLater",
    "SettingsError",
    "Unavailable",
    "WebBuddyError",
    "WorkerError",
    "leaves",
    "reason_of",
    "unwrapped",
]


class QueryFailed(Exception):
    """Raised by a handler: end the query as ``failed`` with exactly this text.

    Args:
        reason: What WebBuddy's user will read. Plain text; newlines are kept.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RetryLater(Exception):
    """Raised by a handler: not now, call me again later.

    The query stays ``in_progress`` and ours, on disk, and holds no consumer meanwhile.

    Args:
        seconds: How long from now, at least.
        reason: What WebBuddy's user will read in the query's log.
    """

    def __init__(self, seconds: float, reason: str = "") -> None:
        super().__init__(seconds, reason)
        self.seconds = seconds
        self.reason = reason


class HandlerCrashed(Exception):
    """What a handler runs in, a process or a program, has ended as it should not have, or can't be started.

    Args:
        phrase: Which sentence the query's author reads: the name of one of `trio_worker.phrases.Phrases`.
        tail: What it has said last; comes after that.
        **values: For the sentence.
    """

    def __init__(self, phrase: str, tail: str = "", **values: object) -> None:
        super().__init__(phrase, values)
        self.phrase = phrase
        self.tail = tail
        self.values = values


class WorkerError(Exception):
    """The base of this package's own errors."""


class JournalError(WorkerError):
    """The journal can't be used: the disk, or what is on it, is not as it should be.

    At the start nothing has been claimed yet; fix it and start again. The text says what and where.
    """


class JournalIllError(JournalError):
    """What was to be written is not on disk yet, and may never be: the disk refuses, or does not answer."""


class SettingsError(WorkerError):
    """The environment is wrong. Nothing was sent to anybody; fix it and start again.

    Args:
        problems: One sentence for each thing that is wrong: the variable, what stands there
            (never a secret's value), what is expected.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class HandlerError(SettingsError):
    """The handler that ``WORKER_HANDLER`` names can't be used."""


class WebBuddyError(WorkerError):
    """A call to WebBuddy did not do its work.

    Args:
        message: What happened, with the call's method and path, for the operator.
        status: The HTTP status, or None when there was no answer.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Unavailable(WebBuddyError):
    """Try again later.

    Args:
        message: As in `WebBuddyError`.
        status: As in `WebBuddyError`.
        retry_after: Seconds that the server asked to wait, or None when it asked for nothing.
        maybe_done: Whether the server may have carried out the call all the same. False only
            where nothing can have been processed (no connection, 429).
        no_connection: Whether there was not even a connection.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        maybe_done: bool = True,
        no_connection: bool = False,
    ) -> None:
        super().__init__(message, status=status)
        self.retry_after = retry_after
        self.maybe_done = maybe_done
        self.no_connection = no_connection


class Busy(Unavailable):
    """Try again soon, and take turns: a plain 500.

    On SQLite, WebBuddy's default database, that is what the losers of overlapping writes get
    ("database is locked"). With ``DEBUG`` off its page does not say so, therefore every plain
    500 is first taken for it; only when it goes on is it an outage.
    """


class AccessDenied(WebBuddyError):
    """Stop: WebBuddy refused the log-in. Only other credentials help."""


class Refused(WebBuddyError):
    """Never repeat this call: WebBuddy will not take it.

    Args:
        message: As in `WebBuddyError`.
        status: As in `WebBuddyError`.
        detail: What WebBuddy said, shortened; for the operator and, when it is about an
            answer, for the query's author.
    """

    def __init__(self, message: str, *, status: int | None = None, detail: str = "") -> None:
        super().__init__(message, status=status)
        self.detail = detail


class NotFound(Refused):
    """There is no such thing, or this WebBuddy does not know the call.

    Args:
        message: As in `WebBuddyError`.
        status: As in `WebBuddyError`.
        detail: As in `Refused`.
        by_api: Whether WebBuddy itself says that the thing is gone. False: the call is not known
            there or, for all that is certain, a proxy stands before it.
    """

    def __init__(
        self, message: str, *, status: int | None = None, detail: str = "", by_api: bool = True
    ) -> None:
        super().__init__(message, status=status, detail=detail)
        self.by_api = by_api


def reason_of(error: QueryFailed) -> str:
    """Give what the query's author is to read."""
    reason = getattr(error, "reason", None)  # missing where a subclass has its own __init__
    return reason if isinstance(reason, str) else str(error)


def unwrapped(error: BaseException) -> BaseException:
    """Find what a handler raised; a nursery of its own has wrapped it, which says nothing to anybody."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Give what was raised; of a group, and of groups in it, each."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def worded(error: BaseException) -> BaseException:
    """Find what is behind an error without words: httpcore wraps, and drops them on the way."""
    while not str(error) and (behind := error.__cause__ or error.__context__) is not None:
        error = behind
    return error
