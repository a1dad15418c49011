"""The embedded WebBuddy: its state, its counters and its knobs.

It behaves as WebBuddy's servers do towards a worker, and runs inside the same Trio program::

    webbuddy = WebBuddy()
    async with webbuddy.running():
        client = httpx.AsyncClient(transport=webbuddy.transport(), base_url=webbuddy.url)

or, on a real socket, ``async with serve_webbuddy(webbuddy) as url``. It is a verified fake: one
suite of tests runs against it and against a real Django + DRF + SimpleJWT server.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from typing import Self

import attrs
import httpx
import trio

from trio_worker import clock
from trio_worker.testing.database import Database
from trio_worker.testing.faults import Faulty
from trio_worker.testing.knobs import knob
from trio_worker.testing.network import InProcessTransport
from trio_worker.testing.pushing import Pusher
from trio_worker.testing.signing import Signer
from trio_worker.testing.state import Account, Call, Change, LogEntry, StoredQuery
from trio_worker.testing.virtual_time import trio_time

__all__ = ["WebBuddy", "trio_time"]

MOSCOW = timezone(timedelta(hours=3))


@attrs.define(kw_only=True, eq=False)
class WebBuddy(Faulty):
    """A WebBuddy to run workers against.

    State, counters and knobs; all of it may be read and set at any time, from the same Trio
    program. It begins with the projects 1 and 2 and three accounts, all with the password
    ``"secret"``: ``worker`` (a service account), ``member`` (of project 1) and ``stranger`` (of
    no project).

    The endpoints' names, as they are used in `calls` and in the knobs: ``login``, ``refresh``,
    ``me``, ``claim_next``, ``patch``, ``logs`` (posting an entry), ``create``, ``list``, ``read``,
    ``by_status``, ``query_logs``, ``token_usage``, ``project`` and ``page`` (any other path).

    Attributes:
        now: Gives the time in epoch seconds: its own clock, whatever its callers' are. `trio_time` for
            virtual time; the default is `trio_worker.clock.source` as it is when this is made.
        access_lifetime: Seconds.
        refresh_lifetime: Seconds.
        rotate_refresh_tokens: Whether a refresh brings a new refresh token, too, and ends the old.
        url: Its own address, as pushes name it.
        push_url: Where the worker listens, or None: it pushes to nobody.
        push_transport: What carries the pushes; None: a new connection for each.
        allowed_hosts: The host names by which it may be called, or None: by any.

        accounts: By number.
        projects: Their names, by number.
        project_settings: By the number of the project: ``project_context``, ``jira_token`` and the like.
        queries: By number.

        down: Knob. It refuses connections, and closes those that there are.
        slow: Knob. Seconds that each call takes on its way, half of them before it does its work.
        hang: Knob. Calls wait until this is False again.
        pushing: Knob. Whether created queries are pushed.
        refuse_logins: Knob. Whether every password is a wrong one.
        sqlite: Knob. Whether overlapping writes meet as they do on SQLite: a claim that overlaps
            another write gets 500 "database is locked".
        write_seconds: Knob. How long a write takes on SQLite, in seconds.
        missing: Knob. Endpoints that this WebBuddy does not know: their calls are answered like those of
            any other unknown path, and counted under their own names.
        shows_started: Knob. False: no answer has a ``query_started``, as in one version of WebBuddy.
        faults: Knob. What goes wrong with the next calls; see `fail_next` and its like.

        calls: How many calls were answered, by endpoint and status. Status None: cut off.
        requests: The last 10 000 calls, in the order of their arrival.
        under_way: How many calls are under way.
        most_under_way: The most calls that were ever under way at once.
        pushes: How many pushes were ``"sent"``, and of these ``"accepted"`` or ``"failed"``.
        connections: How many connections were ever accepted; only on sockets.
        open_connections: How many of them are open.
        most_connections: The most that were ever open at once.
    """

    # The source itself, not `clock.now`: calls in-process run in the caller's context, and a server does
    # not go by its callers' clocks.
    now: Callable[[], float] = attrs.field(factory=clock.source.get)
    access_lifetime: float = 24 * 3600
    refresh_lifetime: float = 7 * 24 * 3600
    rotate_refresh_tokens: bool = False
    url: str = "http://localhost:8000"
    push_url: str | None = None
    push_transport: httpx.AsyncBaseTransport | None = None
    allowed_hosts: frozenset[str] | None = None

    accounts: dict[int, Account] = attrs.field(factory=dict, init=False)
    projects: dict[int, str] = attrs.field(factory=dict, init=False)
    project_settings: dict[int, dict[str, str]] = attrs.field(factory=dict, init=False)
    queries: dict[int, StoredQuery] = attrs.field(factory=dict, init=False)

    down: bool = knob(default=False)
    slow: float = knob(default=0)
    hang: bool = knob(default=False)
    pushing: bool = knob(default=True)
    refuse_logins: bool = knob(default=False)
    sqlite: bool = knob(default=False)
    write_seconds: float = knob(default=0.005)
    missing: frozenset[str] = knob(default=frozenset())
    shows_started: bool = knob(default=True)

    calls: Counter[tuple[str, int | None]] = attrs.field(factory=Counter, init=False)
    requests: deque[Call] = attrs.field(factory=lambda: deque(maxlen=10_000), init=False)
    under_way: int = attrs.field(default=0, init=False)
    most_under_way: int = attrs.field(default=0, init=False)
    pushes: Counter[str] = attrs.field(factory=Counter, init=False)
    connections: int = attrs.field(default=0, init=False)
    open_connections: int = attrs.field(default=0, init=False)
    most_connections: int = attrs.field(default=0, init=False)

    signer: Signer = attrs.field(init=False, repr=False)
    database: Database = attrs.field(init=False, repr=False)
    _nursery: trio.Nursery | None = attrs.field(default=None, init=False, repr=False)
    _last_query: int = attrs.field(default=0, init=False)
    _last_entry: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.signer = Signer(self)
        self.database = Database(self)
        self.projects = {1: "Portal", 2: "Other"}
        self.add_user("worker", "secret", is_service=True)
        self.add_user("member", "secret", project=1)
        self.add_user("stranger", "secret")

    # Running it and reaching it.

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Let it work: answer calls and send pushes. Entering it again inside is harmless.

        At the end everything that is under way is cancelled; the state stays readable.
        """
        if self._nursery is not None:
            yield self
            return
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                yield self
            finally:
                self._nursery = None
                nursery.cancel_scope.cancel()

    def transport(self) -> httpx.AsyncBaseTransport:
        """Give a way to it without sockets, for ``httpx.AsyncClient(transport=…)``.

        It works in virtual time. As over a real network, a call goes on when the caller no longer
        waits for it, so that a claim whose answer is lost leaves its query ``in_progress``.
        """
        return InProcessTransport(self)

    # What a test or a demo does to it.

    def add_query(
        self,
        text: str,
        *,
        project: int = 1,
        user: int = 2,
        status: str = "queued",
        answer_text: str = "",
        push: bool = True,
    ) -> StoredQuery:
        """Create a query, as its author does on WebBuddy's page.

        Args:
            text: What the author writes.
            project: The number of its project.
            user: The number of its author.
            status: The status that it begins with.
            answer_text: The answer that it begins with.
            push: Whether the worker is told; only when there is a `push_url`.
        """
        self._last_query += 1
        query = StoredQuery(
            id=self._last_query,
            project=project,
            user=user,
            query_text=text,
            answer_text=answer_text,
            created=self.now(),
        )
        self.queries[query.id] = query
        self.set_status(query, status, self.accounts[user])
        if push:
            self.push(query.id)
        return query

    def delete_query(self, query_id: int) -> None:
        """Delete a query with its log entries."""
        del self.queries[query_id]
        self.announce()

    def requeue(self, query_id: int) -> None:
        """Put a query back to ``queued``, as a person does. Nobody is told: WebBuddy pushes new ones only."""
        query = self.queries[query_id]
        self.set_status(query, "queued", self.accounts[query.user])

    def reset_database(self) -> None:
        """Lose all queries and their log entries; numbers begin at 1 again. Tokens stay good."""
        self.queries.clear()
        self._last_query = self._last_entry = 0
        self.announce()

    def add_user(
        self,
        username: str,
        password: str,
        *,
        project: int | None = None,
        is_service: bool = False,
    ) -> Account:
        """Create an account; `Account` tells what the arguments mean."""
        number = max(self.accounts, default=0) + 1
        account = Account(
            id=number, username=username, password=password, project=project, is_service=is_service
        )
        self.accounts[number] = account
        return account

    def push(self, query_id: int) -> None:
        """Tell the worker of a query, once, whether there is such a query or not.

        Raises:
            RuntimeError: When there is somebody to tell, but it does not run.
        """
        if not self.pushing or self.push_url is None:
            return
        self.require_nursery().start_soon(Pusher(self, self.push_url).push, query_id)

    def expire_tokens(self, *, refresh_tokens: bool = True) -> None:
        """End all tokens that are out.

        Args:
            refresh_tokens: False: only the access tokens.
        """
        self.signer.expire("access")
        if refresh_tokens:
            self.signer.expire("refresh")

    # What a test asks it.

    def count(self, endpoint: str | None = None, status: int | None = None) -> int:
        """Count the calls that were answered.

        Args:
            endpoint: Only calls of this endpoint.
            status: Only calls with this status.
        """
        return sum(
            number
            for (name, answered), number in self.calls.items()
            if endpoint in (None, name) and status in (None, answered)
        )

    def with_status(self, *statuses: str) -> list[StoredQuery]:
        """List the queries that have one of these statuses, oldest first."""
        return [query for query in self.queries.values() if query.status in statuses]

    def all_ended(self) -> bool:
        """Tell whether every query is ``done`` or ``failed``."""
        return len(self.with_status("done", "failed")) == len(self.queries)

    # What its API does to it.

    def next_queued(self, account: Account) -> StoredQuery | None:
        """Give the oldest queued query that the account sees."""
        queued = (query for query in self.queries.values() if query.status == "queued")
        return next((query for query in queued if account.sees(query)), None)

    def claim(self, query: StoredQuery, account: Account) -> None:
        """Hand a query out."""
        query.started = self.now()
        self.set_status(query, "in_progress", account)

    def set_status(self, query: StoredQuery, status: str, account: Account) -> None:
        """Give a query a status, whichever it had: WebBuddy knows no wrong order."""
        query.status = status
        query.history.append(Change(status, account.username, self.now()))
        self.announce()

    def add_entry(self, query: StoredQuery, project: int, text: str) -> LogEntry:
        """Append a log entry."""
        self._last_entry += 1
        entry = LogEntry(self._last_entry, project, query.id, text, self.now())
        query.entries.append(entry)
        self.announce()
        return entry

    def timestamp(self, seconds: float) -> str:
        """Write a time as WebBuddy does: ``2026-11-23T18:51:34.692859+03:00``."""
        return datetime.fromtimestamp(seconds, MOSCOW).isoformat()

    def require_nursery(self) -> trio.Nursery:
        """Give the nursery that everything of it runs in.

        Raises:
            RuntimeError: When it does not run.
        """
        if self._nursery is None:
            raise RuntimeError(
                "the embedded WebBuddy does not run: use it inside `async with webbuddy.running()`"
            )
        return self._nursery
