"""How a call to WebBuddy is made: its turn, its time, its answer judged."""

from __future__ import annotations

import json
import math
import ssl
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

import httpx
import trio

from trio_worker.answers import call_name, judge, server_date
from trio_worker.client import Client
from trio_worker.connection import MAYBE_SENT
from trio_worker.errors import Busy, NotFound, Refused, Unavailable, worded
from trio_worker.server_clock import ServerClock
from trio_worker.traffic import Traffic
from trio_worker.turns import Turns

__all__ = ["LOGS", "USAGE", "Calls"]

MOST_PAGES = 1000
"""Of 50 entries each; a server whose pages have no end must not hold a caller for ever."""

LOGS = "api/logs/"
USAGE = "api/token-usage/"

_BESIDE = ("/" + LOGS, "/" + USAGE)  # what is told of queries beside their results

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

_OVERLOADED = (429, 502, 503, 504)
_ASKED_AT = "trio_worker.asked_at"  # a request's extension
_GLANCE = "trio_worker.glance"  # another one: see `Calls.glance`


class Calls:
    """Makes calls; what they are about is for `trio_worker.webbuddy`, which also says what is promised.

    Args:
        client: What to send through. What it tells of requests and answers is taken.
        request_timeout: Seconds for one call.

    Attributes:
        turns: How many calls may be under way at once.
        clock: WebBuddy's clock.
        traffic: The requests in numbers.
        server_date: The ``Date`` of the last answer, whatever it was.
        well_at: `trio.current_time` of the last good answer to anything but log entries and token usage.
        failing_since: That of the first failure behind it; earlier ones do not count.
        failed_at: That of the last failure.
        longest: Seconds that one call of `make` or `read` may take.
    """

    def __init__(self, client: Client, request_timeout: float) -> None:
        self._client = client
        self._request_timeout = request_timeout
        self._ill: set[str] = set()  # paths that fail by themselves; no more than calls that are repeated
        self.turns = Turns()
        self.clock = ServerClock()
        self.traffic = Traffic()
        self.server_date: datetime | None = None
        self.well_at = self.failing_since = self.failed_at = -math.inf
        self.longest = 2 * request_timeout
        # Also of the log-in, which goes on within the call that wants the token: its answer may be all that
        # is heard of WebBuddy's clock before a claim is lost.
        client.on_request, client.on_response, client.on_failure = _note_asked, self._hear, self._hear_nothing

    def build(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        parameters: Mapping[str, str] | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> httpx.Request:
        """Build a request; what is None in the body is left out."""
        content = None if body is None else _encoded(body)
        return self._client.build(method, path, content, parameters=parameters, extensions=extensions)

    async def pages(self, path: str, parameters: Mapping[str, str]) -> list[Any]:
        """Read a list, all pages of it."""
        entries: list[Any] = []
        for _ in range(MOST_PAGES):
            page = await self.read(path, parameters)
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

    async def read(self, path: str, parameters: Mapping[str, str] | None = None) -> Any:
        """Make a call that a WebBuddy may not know; see `_judge_if_known`."""
        return await self._in_turn(self.build("GET", path, parameters=parameters), _judge_if_known)

    async def glance(self, path: str, parameters: Mapping[str, str]) -> Any:
        """Do as `read`, but a failure counts for nothing: no trouble, and no reason to slow down.

        For what nobody waits for, and what a WebBuddy may be unable to do though it is well.
        """
        request = self.build("GET", path, parameters=parameters, extensions={_GLANCE: True})
        return await self._in_turn(request, _judge_if_known)

    async def make(self, method: str, path: str, body: Mapping[str, object]) -> Any:
        """Make a call when it is its turn, and judge the answer.

        Returns:
            The decoded JSON.
        """
        return await self._in_turn(self.build(method, path, body), judge)

    async def make_if_known(self, method: str, path: str, body: Mapping[str, object]) -> Any:
        """Make a call that a WebBuddy may not know; see `_judge_if_known`."""
        return await self._in_turn(self.build(method, path, body), _judge_if_known)

    async def _in_turn(self, request: httpx.Request, judged_by: Callable[[httpx.Response], Any]) -> Any:
        had_turn = False
        with trio.move_on_after(self._request_timeout) as patience:
            async with self.turns:
                # One scope for two times: each costs as much as parsing an answer.
                patience.deadline = trio.current_time() + self._request_timeout
                # Had the first ended in the moment in which the turn came, this is where it shows:
                # before anything is sent.
                await trio.lowlevel.checkpoint_if_cancelled()
                had_turn = True
                return await self._judged_answer(request, judged_by)
        if had_turn:
            raise self._no_answer_in_time(request)
        raise Unavailable(
            f"{call_name(request)}: not sent, other calls took longer than {self._request_timeout:g} s",
            maybe_done=False,
        )

    async def send(self, request: httpx.Request) -> Any:
        """Send a request at once, and judge the answer. The turn is the caller's."""
        with trio.move_on_after(self._request_timeout):
            return await self._judged_answer(request, judge)
        raise self._no_answer_in_time(request)

    async def _judged_answer(self, request: httpx.Request, judged_by: Callable[[httpx.Response], Any]) -> Any:
        path = request.url.path
        try:
            data = judged_by(await self._client.send(request))
        except httpx.RequestError as error:
            self._note_failure(request)
            raise self._no_answer(request, error) from error
        except Busy:
            self._note_trouble(request, self.turns.overlapped)
            raise
        except Unavailable as error:
            self._note_failure(request)
            if error.status in _OVERLOADED:
                self._note_trouble(request, self.turns.overloaded)
            raise
        except Refused as error:  # an answer like any other; an empty queue's 404 is one
            self._note_well(path, by_api=not isinstance(error, NotFound) or error.by_api)
            raise
        self._note_well(path, by_api=True)
        return data

    def _note_trouble(self, request: httpx.Request, slow_down: Callable[[], None]) -> None:
        """Let fewer calls go at once from now on, if it can have been their number.

        A call that failed while it was the only one fails for a reason of its own. As long as it
        does, it says nothing of the others: one query that WebBuddy can't save, or that takes a proxy's
        patience, must not make all calls take turns.
        """
        path = request.url.path
        if _GLANCE in request.extensions:
            return
        if self.turns.at_once == 1:
            self._ill.add(path)
        elif path not in self._ill:
            slow_down()

    def _note_failure(self, request: httpx.Request) -> None:
        if request.url.path.endswith(_BESIDE) or _GLANCE in request.extensions:
            return
        self.failed_at = trio.current_time()
        if self.failing_since <= self.well_at:
            self.failing_since = self.failed_at

    def _note_well(self, path: str, *, by_api: bool) -> None:
        self._ill.discard(path)
        self.turns.went_well()
        if by_api and not path.endswith(_BESIDE):
            self.well_at = trio.current_time()

    def _no_answer_in_time(self, request: httpx.Request) -> Unavailable:
        self._note_failure(request)
        return Unavailable(
            f"{call_name(request)}: no answer within {self._request_timeout:g} s",
            maybe_done=_was_sent(request),
        )

    def _hear_nothing(self, request: httpx.Request) -> None:
        self.traffic.ended(request, request.extensions[_ASKED_AT], None)

    def _hear(self, response: httpx.Response) -> None:
        asked_at = response.request.extensions[_ASKED_AT]
        self.traffic.ended(response.request, asked_at, response.status_code)
        date = server_date(response)
        if date is None:
            return
        self.server_date = date
        if response.status_code < 500:  # those are often a proxy's own, by another clock
            self.clock.heard(date.timestamp(), asked_at)

    def _no_answer(self, request: httpx.Request, error: httpx.RequestError) -> Unavailable:
        nothing_sent = isinstance(error, httpx.ConnectError) or not _was_sent(request)
        what = "no connection to" if nothing_sent else "the connection broke,"
        base = self._client.base_url
        reason = _reason(error)
        return Unavailable(
            f"{call_name(error.request)}: {what} {base.scheme}://{base.netloc.decode('ascii')} ({reason})",
            maybe_done=not nothing_sent,
            no_connection=isinstance(error, httpx.ConnectError),
        )


def _judge_if_known(response: httpx.Response) -> Any:
    """Judge the answer to a call that a WebBuddy may not know.

    Of this call's own answer only: a log-in before it that was answered like that says that
    WEBBUDDY_URL is wrong.

    Raises:
        NotFound: Also, with ``by_api`` False, for the ways in which WebBuddy's catch-all route and
            other web servers say that they do not know a path (200 with HTML, 404 or 405 without
            JSON), and in which the API says that it knows the path for other calls only (405). A proxy
            may do the same in passing: "not at this moment" is all that is certain.
    """
    try:
        return judge(response)
    except (Unavailable, Refused) as error:
        known = isinstance(error, Refused) and error.status != 405
        if known or error.status not in (200, 404, 405):
            raise
        raise NotFound(str(error), status=error.status, by_api=False) from None


def _note_asked(request: httpx.Request) -> None:
    request.extensions[_ASKED_AT] = trio.current_time()


def _was_sent(request: httpx.Request) -> bool:
    # TokenAuth puts it on just before the request leaves, and takes it off after a 401. Whether there was a
    # connection then, only a transport with sockets says.
    return "Authorization" in request.headers and bool(request.extensions.get(MAYBE_SENT, True))


def _reason(error: BaseException) -> str:
    """What is behind an error; a certificate that is refused is three deep."""
    error = worded(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"TLS failed, its certificate is not trusted: {error.verify_message}. If it is of an authority of"
            " yours, WORKER_CA_FILE names the file with that authority's certificate"
        )
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason}. If it speaks plain HTTP, WEBBUDDY_URL begins with http://"
    return str(error) or type(error).__name__


def _encoded(body: Mapping[str, object]) -> bytes:
    """Encode what there is of a body; what is None is left out.

    UTF-8 as it is, since ``\\uXXXX`` makes three times the bytes of a Cyrillic text and there is a
    limit. A lone surrogate, which UTF-8 can't hold, becomes "?": callers clean their texts, and
    where one forgets it, a blemish is better than a query whose result can't be reported.
    """
    given = {key: value for key, value in body.items() if value is not None}
    return _JSON.encode(given).encode("utf-8", "replace")
