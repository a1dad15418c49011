"""WebBuddy's API: one method for each call."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import attrs
import httpx
import trio

from trio_worker.answers import call_name, judge, server_date
from trio_worker.errors import Busy, NotFound, Refused, Unavailable
from trio_worker.query import Query
from trio_worker.tokens import WANTED, CredentialsSource, TokenAuth
from trio_worker.transport import open_client
from trio_worker.turns import Turns

__all__ = ["Account", "LogEntry", "WebBuddyClient", "open_webbuddy"]

MOST_PAGES = 1000
"""Of 50 entries each; a server whose pages have no end must not hold a caller for ever."""

_NOTHING_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


@attrs.frozen
class Account:
    """Who the worker is, for WebBuddy.

    Attributes:
        id: The account's number.
        username: Its name.
        project: The number of its project. An ordinary account without one sees an empty queue for
            ever; a service account sees all projects without having one.
        raw: All that WebBuddy said.
    """

    id: int | None
    username: str | None
    project: int | None
    raw: Mapping[str, Any] = attrs.field(repr=False, hash=False)


@attrs.frozen
class LogEntry:
    """A line of a query's log.

    Attributes:
        id: Its number; later entries have greater ones.
        text: What was logged.
        created: When, by the server's clock; aware. None when the server does not say.
    """

    id: int
    text: str
    created: datetime | None = None


@asynccontextmanager
async def open_webbuddy(
    *,
    url: str,
    credentials: CredentialsSource,
    request_timeout: float,
    transport: httpx.AsyncBaseTransport | None = None,
) -> AsyncGenerator[WebBuddyClient, None]:
    """Open the door to one WebBuddy. Nothing is sent before the first call.

    Args:
        url: Its base URL, with or without a trailing slash or a path prefix.
        credentials: What to log in with, asked at each log-in.
        request_timeout: Seconds for one call; see `WebBuddyClient`.
        transport: What to send through instead of sockets, for tests within one process.
    """
    base = httpx.URL(url.rstrip("/") + "/")
    auth = TokenAuth(
        credentials, login_url=base.join("api/login/"), refresh_url=base.join("api/token/refresh/")
    )
    async with open_client(url, auth=auth, transport=transport) as client:
        yield WebBuddyClient(client, auth, Turns(), request_timeout)


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

    Attributes:
        server_date: The ``Date`` of the last answer, aware, in whole seconds; None before the first
            answer, or when the server sends none. It may be a proxy's clock.
        turns: How many calls may be under way at once.
    """

    def __init__(
        self, client: httpx.AsyncClient, auth: TokenAuth, turns: Turns, request_timeout: float
    ) -> None:
        self._client = client
        self._auth = auth
        self._request_timeout = request_timeout
        self.turns = turns
        self._ill: set[str] = set()  # paths that fail by themselves; no more than calls that are repeated
        self.server_date: datetime | None = None

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
        request = self._client.build_request("POST", "api/queries/claim_next/", extensions={WANTED: wanted})
        try:
            return _read_query(await self._judged(request))
        except NotFound:
            return None

    async def add_log(self, query: Query, text: str) -> None:
        """Add an entry to a query's log. Repeated, there are two.

        Args:
            query: Its ``id`` and ``project`` are sent; what is None is left out.
            text: Not blank and without NUL, else WebBuddy refuses it. Lone surrogates arrive
                as ``?``.
        """
        await self._call("POST", "api/logs/", {"project": query.project, "query": query.id, "log_data": text})

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
        await self._call(
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
            data = await self._read("api/users/me/")
        except NotFound:
            return None
        except Refused as error:
            if error.status == 403:  # this account may not see itself; it may still work
                return None
            raise
        if not isinstance(data, dict):
            return None
        return Account(_integer(data.get("id")), _text(data.get("username")), _project(data), data)

    async def get_query(self, query_id: int) -> Query:
        """Read a query.

        Raises:
            NotFound: There is none, or this WebBuddy can't be asked.
        """
        return _read_query(await self._read(f"api/queries/{query_id}/"))

    async def by_status(self, status: str) -> list[Query]:
        """Read all queries of a status, as far as this account sees them, in the server's order.

        Raises:
            NotFound: This WebBuddy can't be asked.
        """
        entries = await self._pages("api/queries/by_status/", {"status": status})
        return [_read_query(entry) for entry in entries]

    async def log_entries(self, query_id: int, *, after: int = 0) -> list[LogEntry]:
        """Read a query's log, in the server's order.

        Args:
            query_id: Which query.
            after: Only entries with a greater number.

        Raises:
            NotFound: There is no such query, or this WebBuddy can't be asked.
        """
        entries = map(_read_entry, await self._pages(f"api/queries/{query_id}/logs/", {}))
        return [entry for entry in entries if entry is not None and entry.id > after]

    async def create_query(self, project: int, text: str) -> Query:
        """Create a query, as a user does. Repeated, there are two."""
        return _read_query(await self._call("POST", "api/queries/", {"project": project, "query_text": text}))

    # --- How a call is made ----------------------------------------------------------------------

    async def _pages(self, path: str, parameters: Mapping[str, str]) -> list[Any]:
        """Read a list, all pages of it."""
        entries: list[Any] = []
        for _ in range(MOST_PAGES):
            page = await self._read(path, parameters)
            if not isinstance(page, dict):
                return entries + (page if isinstance(page, list) else [])
            results = page.get("results")
            entries += results if isinstance(results, list) else []
            following = page.get("next")
            if not isinstance(following, str) or not following:
                break
            # Only its parameters: behind a proxy `next` often names a host that isn't ours, and our
            # token must not go there.
            parameters = {**parameters, **dict(parse_qsl(httpx.URL(following).query.decode("ascii")))}
        return entries

    async def _read(self, path: str, parameters: Mapping[str, str] | None = None) -> Any:
        """Make a call that a WebBuddy may not know; see `_judge_read`."""
        return await self._call("GET", path, parameters=parameters, judged_by=_judge_read)

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        parameters: Mapping[str, str] | None = None,
        judged_by: Callable[[httpx.Response], Any] = judge,
    ) -> Any:
        """Make a call when it is its turn, and judge the answer.

        Returns:
            The decoded JSON.
        """
        request = self._client.build_request(
            method,
            path,
            params=parameters,
            content=None if body is None else _encoded(body),
            headers=None if body is None else {"Content-Type": "application/json"},
        )
        with trio.move_on_after(self._request_timeout) as waiting:
            async with self.turns:
                waiting.deadline = float("inf")
                # Had the time ended in the moment in which the turn came, this is where it shows:
                # before anything is sent.
                await trio.lowlevel.checkpoint_if_cancelled()
                return await self._judged(request, judged_by)
        raise Unavailable(
            f"{call_name(request)}: not sent, other calls took longer than {self._request_timeout:g} s",
            maybe_done=False,
        )

    async def _judged(
        self, request: httpx.Request, judged_by: Callable[[httpx.Response], Any] = judge
    ) -> Any:
        path = request.url.path
        try:
            data = judged_by(await self._answer(request))
        except Busy:
            self._note_busy(path)
            raise
        except Refused:  # an answer like any other; an empty queue's 404 is one
            self._note_well(path)
            raise
        self._note_well(path)
        return data

    def _note_busy(self, path: str) -> None:
        """Take turns from now on, if it can have been an overlap.

        A call that failed while it was the only one fails for a reason of its own. As long as it
        does, it says nothing of the others: one query that WebBuddy can't save must not make all
        calls take turns.
        """
        if self.turns.at_once == 1:
            self._ill.add(path)
        elif path not in self._ill:
            self.turns.overlapped()

    def _note_well(self, path: str) -> None:
        self._ill.discard(path)
        self.turns.went_well()

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and read its answer to the end, within the time for one call."""
        with trio.move_on_after(self._request_timeout):
            try:
                response = await self._client.send(request)
            except httpx.RequestError as error:
                raise self._no_answer(request, error) from error
            self.server_date = server_date(response) or self.server_date
            return response
        raise Unavailable(
            f"{call_name(request)}: no answer within {self._request_timeout:g} s",
            maybe_done=_was_sent(request),
        )

    def _no_answer(self, request: httpx.Request, error: httpx.RequestError) -> Unavailable:
        nothing_sent = isinstance(error, _NOTHING_SENT) or not _was_sent(request)
        what = "no connection to" if nothing_sent else "the connection broke,"
        base = self._client.base_url
        reason = _reason(error)
        return Unavailable(
            f"{call_name(error.request)}: {what} {base.scheme}://{base.netloc.decode('ascii')} ({reason})",
            maybe_done=not nothing_sent,
        )


def _judge_read(response: httpx.Response) -> Any:
    """Judge the answer to a call that a WebBuddy may not know.

    Of this call's own answer only: a log-in before it that was answered like that says that
    WEBBUDDY_URL is wrong.

    Raises:
        NotFound: Also for the ways in which WebBuddy's catch-all route and other web servers say
            that they do not know a path: 200 with HTML, 404 or 405 without JSON. A proxy may do
            the same in passing: "not at this moment" is all that is certain.
    """
    try:
        return judge(response)
    except Unavailable as error:
        if error.status not in (200, 404, 405):
            raise
        raise NotFound(str(error), status=error.status) from None


def _was_sent(request: httpx.Request) -> bool:
    # TokenAuth puts it on just before the request leaves, and takes it off after a 401.
    return "Authorization" in request.headers


def _reason(error: BaseException) -> str:
    """What is behind an error: httpcore wraps (a certificate that is refused is three deep) and drops
    the words on the way."""
    while not str(error) and error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


def _encoded(body: Mapping[str, object]) -> bytes:
    """Encode what there is of a body; what is None is left out.

    UTF-8 as it is, since ``\\uXXXX`` makes three times the bytes of a Cyrillic text and there is a
    limit. A lone surrogate, which UTF-8 can't hold, becomes "?": callers clean their texts, and
    where one forgets it, a blemish is better than a query whose result can't be reported.
    """
    given = {key: value for key, value in body.items() if value is not None}
    return json.dumps(given, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _read_query(data: Any) -> Query:
    try:
        return Query.from_json(data)
    except ValueError as error:
        raise Unavailable(f"WebBuddy's answer can't be read: {error}", status=200) from None


def _read_entry(data: Any) -> LogEntry | None:
    """Read a log entry, leniently: None when it has no number to tell it by."""
    if not isinstance(data, dict):
        return None
    number = _integer(data.get("id"))
    if number is None:
        return None
    return LogEntry(number, _text(data.get("log_data")) or "", _created(data))


def _created(data: Mapping[str, Any]) -> datetime | None:
    """The time of a log entry: whichever key with a time in it this server has."""
    for key, value in data.items():
        if key == "log_data" or not isinstance(value, str):
            continue
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            continue
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return None


def _project(data: Mapping[str, Any]) -> int | None:
    project = data.get("project")
    return _integer(project.get("id") if isinstance(project, dict) else project)


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
