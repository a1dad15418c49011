"""What can go wrong, by what to do next.

::

    Exception
    ├── QueryFailed            raised by a handler: the query fails with exactly this text
    └── WorkerError
        ├── SettingsError      fix the environment and start again (exit 2)
        │   └── HandlerError   … the handler that it names
        └── WebBuddyError      a call to WebBuddy did not do its work
            ├── Unavailable    try again later: no answer, time out, 429, 5xx, undecodable 2xx
            │   └── Busy       try again soon, one call at a time: a plain 500
            ├── AccessDenied   stop: the log-in was refused
            └── Refused        never repeat: any other 4xx
                └── NotFound   … there is no such thing (404, said by the API itself)
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "AccessDenied",
    "Busy",
    "HandlerError",
    "NotFound",
    "QueryFailed",
    "Refused",
    "SettingsError",
    "Unavailable",
    "WebBuddyError",
    "WorkerError",
]


class QueryFailed(Exception):
    """Raised by a handler: end the query as ``failed`` with exactly this text.

    Args:
        reason: What WebBuddy's user will read. Plain text; newlines are kept.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class WorkerError(Exception):
    """The base of this package's own errors."""


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
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        maybe_done: bool = True,
    ) -> None:
        super().__init__(message, status=status)
        self.retry_after = retry_after
        self.maybe_done = maybe_done


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
    """WebBuddy itself (JSON with ``detail``, not a web server's page) says: no such thing."""
