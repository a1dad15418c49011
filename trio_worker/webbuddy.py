"""WebBuddy's API: one method for each call."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx

from trio_worker.calls import LOGS, USAGE, Calls
from trio_worker.client import open_client
from trio_worker.errors import NotFound, Refused
from trio_worker.project import Project
from trio_worker.query import Query
from trio_worker.records import (
    Account,
    LogEntry,
    read_account,
    read_count,
    read_entry,
    read_project,
    read_query,
)
from trio_worker.tallies import Count
from trio_worker.tokens import WANTED, CredentialsSource, TokenAuth
from trio_worker.traffic import Traffic
from trio_worker.turns import Turns

__all__ = ["MISSING_FOR", "Account", "LogEntry", "WebBuddyClient", "open_webbuddy"]

MISSING_FOR = 3600.0
"""Seconds for which a WebBuddy that does not know a call, as older ones do not, is not asked again."""


@asynccontextmanager
async def open_webbuddy(
    *,
    url: str,
    credentials: CredentialsSource,
    request_timeout: float,
    ca_file: Path | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> AsyncGenerator[WebBuddyClient, None]:
    """Open the door to one WebBuddy. Nothing is sent before the first call.

    Args:
        url: Its base URL, with or without a trailing slash or a path prefix.
        credentials: What to log in with, asked at each log-in.
        request_timeout: Seconds for one call; see `WebBuddyClient`.
        ca_file: The certificates of who is trusted; None: those who usually are.
        transport: What to send through instead of sockets, for tests within one process.
    """
    base = httpx.URL(url.rstrip("/") + "/")
    auth = TokenAuth(
        credentials, login_url=base.join("api/login/"), refresh_url=base.join("api/token/refresh/")
    )
    async with open_client(url, auth=auth, ca_file=ca_file, transport=transport) as client:
        yield WebBuddyClient(Calls(client, request_timeout), auth)


class WebBuddyClient:
    """The calls to one WebBuddy.

    **Errors.** Each call raises subclasses of `WebBuddyError` only, as the table in
    `trio_worker.answers` says; when there was no answer, `Unavailable`. Its ``maybe_done`` is False
    exactly when the call can't have been carried out: no turn, no token, no connection, refused
    for now.

    **Time.** A call takes at most twice ``request_timeout`` seconds: as long for its turn (see
    `trio_worker.turns`), then as long for the call itself with all that belongs to it (a log-in, a
    repetition after a 401, the whole body). Two bounds, because a call whose time ended while it
    waited for others is certainly not done, and must not look like a claim that perhaps is.

    **Cancellation.** Safe at any moment. Whether WebBuddy has carried out a call that was
    cancelled is not known; a claim should therefore be shielded, with a deadline.

    **Order.** Calls that are under way at the same time may be carried out in any order.
    """

    def __init__(self, calls: Calls, auth: TokenAuth) -> None:
        self._calls = calls
        self._auth = auth

    @property
    def turns(self) -> Turns:
        """How many calls may be under way at once."""
        return self._calls.turns

    @property
    def traffic(self) -> Traffic:
        """The requests in numbers."""
        return self._calls.traffic

    @property
    def renewals(self) -> Count:
        """How often there was a new token, by ``login`` and ``refresh``."""
        return self._auth.renewals

    @property
    def longest_call(self) -> float:
        """How many seconds a call may take, with the wait for its turn."""
        return self._calls.longest

    @property
    def failing_since(self) -> float:
        """Since when no call has gone well but for log entries, on Trio's clock; infinite: the last has."""
        since = self._calls.failing_since
        return since if since > self._calls.well_at else math.inf

    @property
    def failed_at(self) -> float:
        """When a call last failed but for log entries, on Trio's clock; -inf: none has."""
        return self._calls.failed_at

    @property
    def refusal(self) -> str | None:
        """Why the log-in is refused, or None."""
        return self._auth.refusal

    @property
    def server_date(self) -> datetime | None:
        """The ``Date`` of the last answer, aware, in whole seconds. It may be a proxy's clock.

        None before the first answer, or when the server sends none.
        """
        return self._calls.server_date

    def server_now(self) -> float:
        """Say what time it is at WebBuddy, in seconds since the epoch; ± 1 s is what it is good for.

        This machine's own time as long as `server_date` is None.
        """
        return self._calls.clock.now()

    @property
    def well_at(self) -> float:
        """`trio.current_time` of the last good answer to anything but a log entry; -inf before the first.

        A refusal is one, too, when the API itself has answered.
        """
        return self._calls.well_at

    @property
    def logged_in(self) -> bool:
        """Whether there has ever been a token."""
        return self._auth.logged_in

    def forget_refusal(self) -> None:
        """Let the next call try the log-in again, although it was refused (`AccessDenied`)."""
        self._auth.forget_refusal()

    # --- The worker's calls ----------------------------------------------------------------------

    async def claim_next(self, *, wanted: Callable[[], bool] = lambda: True) -> Query | None:
        """Claim the oldest queued query.

        The only call that does not wait for its turn: take one of `turns` before. Waiting for it may
        be cancelled at any time, a claim that has been sent should not be.

        Args:
            wanted: Asked once more when the token is at hand and nothing has been sent yet.

        Returns:
            The query, now ``in_progress``; None when the queue is empty (or each queued row was
            locked in that instant), which is a 404 from the API itself.

        Raises:
            WebBuddyError: With ``maybe_done``, a query may have been claimed for nobody.
        """
        request = self._calls.build("POST", "api/queries/claim_next/", extensions={WANTED: wanted})
        try:
            return read_query(await self._calls.send(request))
        except NotFound:
            return None

    async def add_log(self, query: Query, text: str) -> None:
        """Add an entry to a query's log. Repeated, there are two.

        Args:
            query: Its ``id`` and ``project`` are sent; what is None is left out.
            text: Not blank and without NUL, else WebBuddy refuses it. Lone surrogates arrive
                as ``?``.
        """
        body = {"project": query.project, "query": query.id, "log_data": text}
        await self._calls.make("POST", LOGS, body)

    async def add_token_usage(self, body: Mapping[str, object]) -> None:
        """Say what a call of a model has used, which only newer WebBuddys take. Repeated, there are two.

        Args:
            body: As `trio_worker.token_usage.TokenUsage.to_body` makes it, with ``project`` and ``query``.

        Raises:
            NotFound: This WebBuddy does not know the call.
            Refused: It will never take this one: the query was deleted.
        """
        await self._calls.make_if_known("POST", USAGE, body)

    async def project(self, number: int) -> Project:
        """Read the settings of a project, which only newer WebBuddys have.

        Raises:
            WebBuddyError: `Refused` where it is not known, or not for this account.
        """
        return read_project(number, await self._calls.read(f"api/projects/{number}/tokens/"))

    async def report(
        self,
        query_id: int,
        *,
        status: str,
        answer_text: str | None = None,
        query_finished: datetime | None = None,
    ) -> None:
        """Set a query's status, and its answer. Repeating it is harmless.

        Args:
            query_id: Which query.
            status: ``"done"``, ``"failed"``, or ``"queued"`` to release it.
            answer_text: None leaves it as it is. Lone surrogates arrive as ``?``.
            query_finished: Aware; sent in UTC. Current servers ignore it.

        Raises:
            NotFound: The query is gone.
        """
        finished = query_finished.astimezone(UTC).isoformat() if query_finished else None
        await self._calls.make(
            "PATCH",
            f"api/queries/{query_id}/",
            {"status": status, "answer_text": answer_text, "query_finished": finished},
        )

    # --- Reads, and what a user does -------------------------------------------------------------

    async def log_in(self) -> None:
        """Make sure that there is a token which WebBuddy accepts.

        Raises:
            AccessDenied: The log-in is refused.
        """
        # The least call that needs a token and changes nothing. A server without it still
        # looks at the token first, or does not know the path: both are good enough here.
        await self.me()

    async def me(self) -> Account | None:
        """Read the worker's own account; None where this WebBuddy does not show it."""
        try:
            data = await self._calls.read("api/users/me/")
        except NotFound:
            return None
        except Refused as error:
            if error.status == 403:  # this account may not see itself; it may still work
                return None
            raise
        return read_account(data)

    async def get_query(self, query_id: int) -> Query:
        """Read a query.

        Raises:
            NotFound: There is none (``by_api``), or this WebBuddy can't be asked.
        """
        return read_query(await self._calls.read(f"api/queries/{query_id}/"))

    async def by_status(self, status: str) -> list[Query]:
        """Read all queries of a status, as far as this account sees them, in the server's order.

        Raises:
            NotFound: This WebBuddy can't be asked.
        """
        entries = await self._calls.pages("api/queries/by_status/", {"status": status})
        return [read_query(entry) for entry in entries]

    async def in_progress(self) -> list[Query]:
        """Read all queries that are ``in_progress``, as far as this account sees them.

        One that is missing may be ``in_progress`` all the same: it moves to an earlier page when another
        one ends while the pages are being read.

        Raises:
            NotFound: This WebBuddy can't be asked.
        """
        return await self.by_status("in_progress")

    async def count(self, status: str) -> int:
        """Read how many queries are of a status, as far as this account sees them.

        One call. That it fails is no trouble of WebBuddy's: nothing depends on it.

        Raises:
            NotFound: This WebBuddy can't be asked.
        """
        return read_count(await self._calls.glance("api/queries/by_status/", {"status": status}))

    async def log_entries(self, query_id: int, *, after: int = 0) -> list[LogEntry]:
        """Read a query's log, in the server's order.

        Args:
            query_id: Which query.
            after: Only entries with a greater number.

        Raises:
            NotFound: There is no such query (``by_api``), or this WebBuddy can't be asked.
        """
        entries = map(read_entry, await self._calls.pages(f"api/queries/{query_id}/logs/", {}))
        return [entry for entry in entries if entry is not None and entry.id > after]

    async def create_query(self, project: int, text: str) -> Query:
        """Create a query, as a user does. Repeated, there are two."""
        body = {"project": project, "query_text": text}
        return read_query(await self._calls.make("POST", "api/queries/", body))
