"""The calls to WebBuddy: what is sent, what comes back, and every way in which they can fail."""

from __future__ import annotations

import json
import math
import random
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
import trustme
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_worker import calls, clock
from trio_worker.calls import Calls
from trio_worker.client import open_client
from trio_worker.errors import AccessDenied, Busy, NotFound, Refused, Unavailable, WebBuddyError
from trio_worker.query import Query
from trio_worker.testing import WebBuddy, serve_webbuddy, trio_time
from trio_worker.webbuddy import Account, LogEntry, WebBuddyClient, open_webbuddy

TIMEOUT = 30.0
QUERY = {"id": 123, "project": 1, "user": 2, "query_text": "Проверить", "status": "in_progress"}


@attrs.frozen
class Credentials:
    username: str = "worker"
    password: str = "secret"

    async def read(self) -> tuple[str, str]:
        await trio.lowlevel.checkpoint()
        return self.username, self.password


@attrs.define(eq=False)
class App:
    """A WebBuddy that gives every call the same answer, and keeps what it was sent."""

    answer: Callable[[httpx.Request], Any] = lambda request: httpx.Response(200, json=QUERY)
    login: Callable[[httpx.Request], Any] = lambda request: httpx.Response(200, json={"access": "t"})
    requests: list[httpx.Request] = attrs.field(factory=list)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/login/"):
            answer = self.login(request)
        else:
            self.requests.append(request)
            answer = self.answer(request)
        if not isinstance(answer, httpx.Response):
            answer = await answer
        assert isinstance(answer, httpx.Response)
        return answer

    def answers(self, status: int, **body: Any) -> None:
        self.answer = lambda request: httpx.Response(status, **body)

    @property
    def last_body(self) -> Any:
        return json.loads(self.requests[-1].content)


def connect(app: Any, url: str = "http://webbuddy") -> AbstractAsyncContextManager[WebBuddyClient]:
    transport = app if isinstance(app, httpx.AsyncBaseTransport) else httpx.MockTransport(app)
    return open_webbuddy(url=url, credentials=Credentials(), request_timeout=TIMEOUT, transport=transport)


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
async def client(app: App) -> AsyncIterator[WebBuddyClient]:
    async with connect(app) as client:
        yield client


# --- What is sent --------------------------------------------------------------------------------


async def test_a_claim(app: App, client: WebBuddyClient) -> None:
    """A POST without a body; the query comes back typed."""
    assert await client.claim_next() == Query.from_json(QUERY)
    request = app.requests[0]
    assert (request.method, request.url.path, request.content) == ("POST", "/api/queries/claim_next/", b"")
    assert request.headers["Authorization"] == "Bearer t"


async def test_an_empty_queue_is_none(app: App, client: WebBuddyClient) -> None:
    """404 from the API itself, in whatever language."""
    app.answers(404, json={"detail": "Нет запросов"})
    assert await client.claim_next() is None


async def test_a_log_entry_is_sent_as_utf8(app: App, client: WebBuddyClient) -> None:
    """A Cyrillic letter takes two bytes, not six."""
    app.answers(201, json={})
    await client.add_log(Query(id=123, project=1), "Начало")
    assert app.requests[0].url.path == "/api/logs/"
    assert app.last_body == {"project": 1, "query": 123, "log_data": "Начало"}
    assert "Начало".encode() in app.requests[0].content
    assert app.requests[0].headers["Content-Type"] == "application/json"


async def test_a_project_that_is_not_known_is_left_out(app: App, client: WebBuddyClient) -> None:
    """WebBuddy says what it thinks of that; null it would refuse for certain."""
    await client.add_log(Query(id=123), "x")
    assert app.last_body == {"query": 123, "log_data": "x"}


async def test_a_report(app: App, client: WebBuddyClient) -> None:
    """A PATCH with what there is, the time in UTC."""
    finished = datetime(2026, 11, 23, 21, 5, tzinfo=timezone(timedelta(hours=3)))
    await client.report(123, status="done", answer_text="", query_finished=finished)
    assert (app.requests[0].method, app.requests[0].url.path) == ("PATCH", "/api/queries/123/")
    assert app.last_body == {
        "status": "done",
        "answer_text": "",
        "query_finished": "2026-11-23T18:05:00+00:00",
    }
    await client.report(123, status="queued")
    assert app.last_body == {"status": "queued"}


async def test_a_lone_surrogate_does_not_lose_a_result(app: App, client: WebBuddyClient) -> None:
    """It arrives as a question mark."""
    await client.report(123, status="done", answer_text="a\ud800b")
    assert app.last_body["answer_text"] == "a?b"


async def test_a_query_is_created_as_a_user_does(app: App, client: WebBuddyClient) -> None:
    """With project and text."""
    app.answers(201, json=QUERY)
    assert (await client.create_query(1, "Проверить")).id == 123
    assert (app.requests[0].method, app.requests[0].url.path) == ("POST", "/api/queries/")
    assert app.last_body == {"project": 1, "query_text": "Проверить"}


@pytest.mark.parametrize("url", ["http://webbuddy/portal", "http://webbuddy/portal/"])
async def test_every_path_ends_with_a_slash_and_keeps_the_prefix(app: App, url: str) -> None:
    """Django redirects a path without it, and a POST would become a GET."""
    logins: list[str] = []

    def login(request: httpx.Request) -> httpx.Response:
        logins.append(request.url.path)
        return httpx.Response(200, json={"access": "t", "refresh": "r"})

    app.login = login
    async with connect(app, url) as client:
        await client.claim_next()
        await client.add_log(Query(id=1), "x")
        await client.report(1, status="done")
        await client.me()
        await client.get_query(1)
        await client.by_status("queued")
        await client.log_entries(1)
        await client.create_query(1, "x")
    assert len(app.requests) == 8
    for path in [*logins, *(request.url.path for request in app.requests)]:
        assert path.startswith("/portal/api/")
        assert path.endswith("/")


# --- Failures ------------------------------------------------------------------------------------

CALLS = {
    "claim_next": lambda client: client.claim_next(),
    "add_log": lambda client: client.add_log(Query(id=1, project=1), "x"),
    "report": lambda client: client.report(1, status="done"),
    "create_query": lambda client: client.create_query(1, "x"),
    "me": lambda client: client.me(),
    "get_query": lambda client: client.get_query(1),
    "by_status": lambda client: client.by_status("queued"),
    "count": lambda client: client.count("queued"),
    "log_entries": lambda client: client.log_entries(1),
    "log_in": lambda client: client.log_in(),
}


@pytest.fixture(params=list(CALLS))
def make_call(request: pytest.FixtureRequest) -> Callable[[WebBuddyClient], Any]:
    return CALLS[request.param]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, Unavailable), (429, Unavailable), (500, Busy), (502, Unavailable), (503, Unavailable)],
)
async def test_every_call_is_judged(
    app: App, client: WebBuddyClient, make_call: Any, status: int, kind: type[WebBuddyError]
) -> None:
    """By the one table of `trio_worker.answers`."""
    app.answers(status, html="<html>")
    with pytest.raises(kind) as caught:
        await make_call(client)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("error", "maybe"),
    [
        (httpx.ConnectError("refused"), False),
        (httpx.ReadError("reset"), True),
        (httpx.WriteError("reset"), True),
        (httpx.CloseError("reset"), True),
        (httpx.ReadTimeout("slow"), True),
        (httpx.WriteTimeout("slow"), True),
        (httpx.RemoteProtocolError("Server disconnected without sending a response."), True),
        (httpx.LocalProtocolError("strange"), True),
        (httpx.DecodingError("not gzip"), True),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_no_answer_is_unavailable(
    app: App, client: WebBuddyClient, make_call: Any, error: httpx.RequestError, maybe: bool
) -> None:
    """Perhaps done, unless there was no connection at all; the message says to whom."""

    def fail(request: httpx.Request) -> httpx.Response:
        raise error

    app.answer = fail
    with pytest.raises(Unavailable, match=f"http://webbuddy .*{error}") as caught:
        await make_call(client)
    assert caught.value.maybe_done is maybe
    assert caught.value.status is None


async def test_a_bug_is_loud(app: App, client: WebBuddyClient) -> None:
    """What is not the network's is no `WebBuddyError`."""

    def fail(request: httpx.Request) -> httpx.Response:
        raise ZeroDivisionError

    app.answer = fail
    with pytest.raises(ZeroDivisionError):
        await client.claim_next()


@pytest.mark.parametrize(
    "error", [httpx.ReadError("gone"), httpx.ReadTimeout("slow"), httpx.RemoteProtocolError("gone")]
)
async def test_without_a_token_a_claim_was_not_sent(
    app: App, client: WebBuddyClient, error: Exception
) -> None:
    """A log-in that fails half-way leaves no query behind."""

    def fail(request: httpx.Request) -> httpx.Response:
        raise error

    app.login = fail
    with pytest.raises(Unavailable, match="POST /api/login/") as caught:
        await client.claim_next()
    assert not caught.value.maybe_done
    assert app.requests == []


async def test_the_words_behind_an_error_are_found(app: App, client: WebBuddyClient) -> None:
    """A certificate that is refused comes three deep, and without words on top."""

    def fail(request: httpx.Request) -> httpx.Response:
        broken = trio.BrokenResourceError()
        broken.__cause__ = OSError("certificate verify failed")
        raise httpx.ConnectError("") from broken

    app.answer = fail
    with pytest.raises(Unavailable, match="certificate verify failed"):
        await client.claim_next()


@pytest.mark.parametrize("body", [{"json": {}}, {"json": []}, {"json": {"id": "1"}}, {"html": "<html>"}])
async def test_a_claim_whose_answer_cannot_be_read_was_perhaps_done(
    app: App, client: WebBuddyClient, body: dict[str, Any]
) -> None:
    """200 with something else than a query."""
    app.answers(200, **body)
    with pytest.raises(Unavailable) as caught:
        await client.claim_next()
    assert caught.value.maybe_done


async def test_a_404_of_a_web_server_is_not_an_empty_queue(app: App, client: WebBuddyClient) -> None:
    """Only the API itself can say that the queue is empty."""
    app.answers(404, html="<html>404</html>")
    with pytest.raises(Unavailable, match="is WEBBUDDY_URL right"):
        await client.claim_next()


async def test_a_report_on_a_query_that_is_gone(app: App, client: WebBuddyClient) -> None:
    """Told apart from everything else that is refused."""
    app.answers(404, json={"detail": "Not found."})
    with pytest.raises(NotFound):
        await client.report(123, status="done")


async def test_a_refused_log_in_can_be_forgotten(app: App, client: WebBuddyClient) -> None:
    """`AccessDenied`, also for those who only wait; then another try."""
    app.login = lambda request: httpx.Response(401, json={"error": "Invalid credentials"})
    for _ in range(2):
        with pytest.raises(AccessDenied):
            await client.claim_next()
    assert not client.logged_in
    app.login = lambda request: httpx.Response(200, json={"access": "t"})
    client.forget_refusal()
    assert await client.claim_next() is not None
    assert client.logged_in


# --- Time ----------------------------------------------------------------------------------------


async def hang(request: httpx.Request) -> httpx.Response:
    await trio.sleep_forever()
    raise AssertionError


async def test_every_call_ends_in_time(
    app: App, client: WebBuddyClient, make_call: Any, autojump_clock: object
) -> None:
    """Whatever the server does, after `request_timeout` seconds; perhaps it was done."""
    app.answer = hang
    began = trio.current_time()
    with pytest.raises(Unavailable, match="no answer within 30 s") as caught:
        await make_call(client)
    assert trio.current_time() - began == pytest.approx(TIMEOUT)
    assert caught.value.maybe_done
    assert client.turns.under_way == 0


async def test_the_time_is_for_the_whole_call(
    app: App, client: WebBuddyClient, autojump_clock: object
) -> None:
    """A body that trickles in does not go on for ever: each byte comes in time, the end does not."""

    class Trickle(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                await trio.sleep(1)
                yield b" "

    app.answers(200, stream=Trickle())
    began = trio.current_time()
    with pytest.raises(Unavailable) as caught:
        await client.claim_next()
    assert trio.current_time() - began == pytest.approx(TIMEOUT)
    assert caught.value.maybe_done


async def test_a_log_in_that_hangs_leaves_the_claim_unsent(
    app: App, client: WebBuddyClient, autojump_clock: object
) -> None:
    """It takes the call's time, and nothing was claimed."""
    app.login = hang
    with pytest.raises(Unavailable, match="no answer within 30 s") as caught:
        await client.claim_next()
    assert not caught.value.maybe_done


async def test_a_renewal_that_hangs_leaves_the_claim_unsent(
    app: App, client: WebBuddyClient, autojump_clock: object
) -> None:
    """Refused for its token, then out of time: WebBuddy has not carried it out."""
    await client.log_in()
    app.answers(401, json={"detail": "No.", "code": "token_not_valid"})
    app.login = hang
    with pytest.raises(Unavailable, match="no answer within 30 s") as caught:
        await client.claim_next()
    assert not caught.value.maybe_done


async def test_a_turn_that_comes_as_the_time_ends_sends_nothing(
    app: App, client: WebBuddyClient, mock_clock: MockClock
) -> None:
    """In the same instant; the message says "not sent", so it must not have been."""
    await client.log_in()
    app.requests.clear()
    client.turns.overlapped()

    async def claim() -> None:
        with pytest.raises(Unavailable, match="not sent") as caught:
            await client.get_query(1)
        assert not caught.value.maybe_done

    async with trio.open_nursery() as nursery:
        async with client.turns:
            nursery.start_soon(claim)
            await wait_all_tasks_blocked()
        mock_clock.jump(TIMEOUT + 1)
    assert app.requests == []
    assert client.turns.under_way == 0


async def test_waiting_for_a_turn_has_an_end_and_sends_nothing(
    app: App, client: WebBuddyClient, autojump_clock: object
) -> None:
    """Behind 64 calls that hang: after `request_timeout` seconds, and certainly not done."""
    await client.log_in()
    app.requests.clear()
    app.answer = hang
    errors: list[Unavailable] = []

    async def one() -> None:
        try:
            await client.get_query(1)
        except Unavailable as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(one)
    # The first 64 had their turns at once. As their time ended, so did the others' waiting.
    sent = len(app.requests)
    assert sum(error.maybe_done for error in errors) == sent < 100
    assert all("other calls" in str(error) for error in errors if not error.maybe_done)
    assert client.turns.under_way == 0


async def test_the_time_for_the_turn_is_not_taken_from_the_call(
    app: App, client: WebBuddyClient, autojump_clock: object
) -> None:
    """65 calls of 20 s, of which 64 go at once: the last has its whole 30 s."""
    await client.log_in()

    async def slow(request: httpx.Request) -> httpx.Response:
        await trio.sleep(20)
        return httpx.Response(200, json=QUERY)

    app.answer = slow
    async with trio.open_nursery() as nursery:
        for _ in range(65):
            nursery.start_soon(client.get_query, 1)
    assert trio.current_time() == pytest.approx(40)


async def test_while_calls_take_turns_one_that_hangs_holds_the_others_up_for_two_seconds(
    app: App, client: WebBuddyClient, autojump_clock: object
) -> None:
    """And not until its own end, half a minute later."""
    await client.log_in()
    client.turns.overlapped()
    app.answer = lambda request: hang(request) if request.method == "GET" else httpx.Response(200, json=QUERY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.get_query, 1)
        await wait_all_tasks_blocked()
        for _ in range(3):
            await client.create_query(1, "next")
        assert trio.current_time() == pytest.approx(2)
        assert client.turns.under_way == 1
        nursery.cancel_scope.cancel()


async def test_a_claim_that_nobody_wants_any_more_is_not_sent(app: App, client: WebBuddyClient) -> None:
    """It is asked for when the token is at hand: the worker may be stopping by then."""
    with pytest.raises(Unavailable, match="no longer wanted") as caught:
        await client.claim_next(wanted=lambda: False)
    assert not caught.value.maybe_done
    assert app.requests == []


# --- Turns ---------------------------------------------------------------------------------------


async def test_a_plain_500_makes_calls_take_turns_and_good_ones_end_it(
    app: App, client: WebBuddyClient
) -> None:
    """64 good answers later two go at once; an empty queue is a good answer, a 502 is not."""
    app.answers(500, html="<html>database is locked</html>")
    with pytest.raises(Busy):
        await client.claim_next()
    assert client.turns.at_once == 1
    app.answers(502)
    for _ in range(100):
        with pytest.raises(Unavailable):
            await client.claim_next()
    app.answers(404, json={"detail": "No queued queries available"})
    for _ in range(63):
        await client.claim_next()
    assert client.turns.at_once == 1
    await client.claim_next()
    assert client.turns.at_once == 2


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_webbuddy_with_too_much_to_do_gets_half_as_many_calls(
    app: App, client: WebBuddyClient, status: int
) -> None:
    """And twice as many again after 64 good answers."""
    app.answers(status)
    with pytest.raises(Unavailable):
        await client.get_query(1)
    assert client.turns.at_once == 32
    app.answers(200, json=QUERY)
    for _ in range(64):
        await client.get_query(1)
    assert client.turns.at_once == 64


async def test_a_500_on_the_log_in_counts_as_well(app: App, client: WebBuddyClient) -> None:
    """It writes, too."""
    app.login = lambda request: httpx.Response(500, html="<html>")
    with pytest.raises(Busy) as caught:
        await client.claim_next()
    assert not caught.value.maybe_done
    assert client.turns.at_once == 1


async def test_no_more_than_64_calls_at_once(app: App, client: WebBuddyClient, nursery: trio.Nursery) -> None:
    """Whatever the number of consumers; the others wait, and come."""
    go = trio.Event()
    here = most = 0

    async def wait(request: httpx.Request) -> httpx.Response:
        nonlocal here, most
        here += 1
        most = max(most, here)
        await go.wait()
        here -= 1
        return httpx.Response(200, json=QUERY)

    app.answer = wait
    async with trio.open_nursery() as callers:
        for _ in range(200):
            callers.start_soon(client.get_query, 1)
        await wait_all_tasks_blocked()
        assert here == 64
        go.set()
    assert most == 64
    assert len(app.requests) == 200


# --- Reads ---------------------------------------------------------------------------------------


async def test_the_account(app: App, client: WebBuddyClient) -> None:
    """Whatever shape the project has."""
    for project in (7, {"id": 7, "name": "Portal"}):
        data = {"id": 1, "username": "worker", "project": project, "is_staff": True}
        app.answers(200, json=data)
        assert await client.me() == Account(1, "worker", 7, data)
    app.answers(200, json={"id": 1, "username": "worker", "project": None})
    account = await client.me()
    assert account is not None
    assert account.project is None


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"html": "<html>"}),
        (200, {"json": []}),
        (404, {"html": "<html>"}),
        (404, {"json": {"detail": "Not found."}}),
        (405, {}),
        (403, {"json": {"detail": "No."}}),
    ],
)
async def test_a_webbuddy_that_does_not_show_the_account(
    app: App, client: WebBuddyClient, status: int, body: dict[str, Any]
) -> None:
    """None, and logging in works all the same."""
    app.answers(status, **body)
    assert await client.me() is None
    await client.log_in()
    assert client.logged_in


@pytest.mark.parametrize(("data", "count"), [({"count": 7, "results": []}, 7), ([{"id": 1}, {"id": 2}], 2)])
async def test_a_count_is_one_call(app: App, client: WebBuddyClient, data: object, count: int) -> None:
    """Of the first page, or of a list without pages."""
    app.answers(200, json=data)
    assert await client.count("queued") == count
    (request,) = app.requests
    assert (request.url.path, request.url.query) == ("/api/queries/by_status/", b"status=queued")


@pytest.mark.parametrize("data", [{}, {"results": [{"id": 1}]}, {"count": True}, {"count": "7"}, "text", 7])
async def test_a_count_that_is_none(app: App, client: WebBuddyClient, data: object) -> None:
    """An answer without one is not taken for 0."""
    app.answers(200, json=data)
    with pytest.raises(Unavailable, match="not a list"):
        await client.count("queued")


@pytest.mark.parametrize("status", [500, 503, None])
async def test_a_count_that_fails_is_no_trouble(app: App, client: WebBuddyClient, status: int | None) -> None:
    """Neither does it slow the other calls down, nor is WebBuddy said to be away for it."""
    at_once = client.turns.at_once

    def answer(request: httpx.Request) -> httpx.Response:
        if status is None:
            raise httpx.ReadError("reset")
        return httpx.Response(status, html="<html>")

    app.answer = answer
    with pytest.raises(Unavailable):
        await client.count("queued")
    assert (client.turns.at_once, client.failing_since, client.failed_at) == (at_once, math.inf, -math.inf)
    with pytest.raises(Unavailable):
        await client.by_status("queued")
    assert client.failed_at > -math.inf or client.turns.at_once < at_once


@pytest.mark.parametrize("call", ["get_query", "by_status", "count", "log_entries"])
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"html": "<html>"}),
        (404, {"html": "<html>"}),
        (404, {"json": {"detail": "Not found."}}),
        (405, {}),
        (405, {"json": {"detail": 'Method "GET" not allowed.'}}),
    ],
)
async def test_a_read_that_a_webbuddy_does_not_have_is_not_found(
    app: App, client: WebBuddyClient, call: str, status: int, body: dict[str, Any]
) -> None:
    """In whichever way it says so. Only a 404 from the API itself says that the query is gone."""
    app.answers(status, **body)
    with pytest.raises(NotFound) as caught:
        await CALLS[call](client)
    assert caught.value.status == status
    assert caught.value.by_api == (status == 404 and "json" in body)


async def test_an_account_that_may_not_read_is_refused(app: App, client: WebBuddyClient) -> None:
    """403 is no missing read: what is there, this account may not see."""
    app.answers(403, json={"detail": "You do not have permission to perform this action."})
    with pytest.raises(Refused) as caught:
        await client.get_query(1)
    assert not isinstance(caught.value, NotFound)


@pytest.mark.parametrize("status", [200, 404, 405])
async def test_a_wrong_url_is_not_a_missing_read(app: App, client: WebBuddyClient, status: int) -> None:
    """Where the log-in itself is not there, WEBBUDDY_URL is wrong, and no read says "not here"."""
    app.login = lambda request: httpx.Response(status, text="<!doctype html>")
    with pytest.raises(Unavailable, match="is WEBBUDDY_URL right"):
        await client.me()
    with pytest.raises(Unavailable, match="is WEBBUDDY_URL right"):
        await client.log_in()


def pages(*results: list[Any], next_url: str = "http://inside:8000/api/x/?page={}") -> Any:
    def answer(request: httpx.Request) -> httpx.Response:
        page = int(request.url.params.get("page", "1"))
        following = next_url.format(page + 1) if page < len(results) else None
        return httpx.Response(200, json={"count": 9, "next": following, "results": results[page - 1]})

    return answer


async def test_all_pages_are_read_from_our_own_url(app: App, client: WebBuddyClient) -> None:
    """`next` often names a host behind the proxy; our token does not go there."""
    app.answer = pages([{"id": 1}, {"id": 2}], [{"id": 3}], [])
    assert [query.id for query in await client.by_status("in_progress")] == [1, 2, 3]
    for request in app.requests:
        assert (request.url.host, request.url.path) == ("webbuddy", "/api/queries/by_status/")
        assert request.url.params["status"] == "in_progress"


async def test_pages_without_an_end_end(
    app: App, client: WebBuddyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that always has another page holds nobody for ever."""
    monkeypatch.setattr(calls, "MOST_PAGES", 5)
    app.answers(200, json={"next": "http://x/?page=2", "results": [{"id": 1}]})
    assert len(await client.by_status("queued")) == 5


@pytest.mark.parametrize("data", [[{"id": 1}], {"results": [{"id": 1}]}, {"results": [{"id": 1}], "next": 5}])
async def test_a_list_without_pages(app: App, client: WebBuddyClient, data: object) -> None:
    """A server without pagination."""
    app.answers(200, json=data)
    assert [query.id for query in await client.by_status("queued")] == [1]


@pytest.mark.parametrize("data", ["text", {}, {"results": None}])
async def test_a_list_of_another_shape_is_empty(app: App, client: WebBuddyClient, data: object) -> None:
    """It is only for information."""
    app.answers(200, json=data)
    assert await client.log_entries(1) == []


async def test_log_entries_after_one_that_is_known(app: App, client: WebBuddyClient) -> None:
    """In the server's order, times aware, what can't be told apart left out."""
    app.answer = pages(
        [
            {
                "id": 5,
                "user_name": "ann",
                "log_data": "2026-01-01",
                "log_created": "2026-11-23T18:51:34.692859+03:00",
            },
            {"id": 6, "query": 1, "log_data": "b", "created": "2026-11-23T15:57:01.967805"},
        ],
        [{"id": 7, "log_data": None}, {"log_data": "no number"}, "nonsense", {"id": 8, "log_data": "d"}],
    )
    entries = await client.log_entries(1)
    assert [(entry.id, entry.text) for entry in entries] == [(5, "2026-01-01"), (6, "b"), (7, ""), (8, "d")]
    assert entries[0].created == datetime(2026, 11, 23, 15, 51, 34, 692859, tzinfo=UTC)
    assert entries[1].created == datetime(2026, 11, 23, 15, 57, 1, 967805, tzinfo=UTC)
    assert entries[2].created is None
    assert await client.log_entries(1, after=7) == [LogEntry(8, "d")]


async def test_the_servers_clock(app: App, client: WebBuddyClient) -> None:
    """As of the last answer that showed it, errors included."""
    assert client.server_date is None
    app.answers(502, headers={"Date": "Mon, 23 Nov 2026 12:00:00 GMT"})
    with pytest.raises(Unavailable):
        await client.claim_next()
    assert client.server_date == datetime(2026, 11, 23, 12, tzinfo=UTC)
    app.answers(200, json=QUERY)
    await client.claim_next()
    assert client.server_date is not None


NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def noon() -> Iterator[None]:
    """Our own clock stands at noon."""
    before = clock.source.set(NOON.timestamp)
    yield
    clock.source.reset(before)


def dated(seconds: float) -> dict[str, str]:
    return {"Date": f"{NOON + timedelta(seconds=seconds):%a, %d %b %Y %H:%M:%S GMT}"}


async def test_what_time_it_is_at_webbuddy(app: App, client: WebBuddyClient, noon: None) -> None:
    """Our own time before the first answer, then theirs, whatever the call was about."""
    assert client.server_now() == NOON.timestamp()
    app.answers(404, json={"detail": "No queued queries available"}, headers=dated(300))
    await client.claim_next()
    assert client.server_now() == pytest.approx(NOON.timestamp() + 300, abs=1)


def cut_off(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadError("reset")


async def test_a_log_in_tells_the_time_at_webbuddy(app: App, client: WebBuddyClient, noon: None) -> None:
    """A claim that is lost right after it is dated by their clock, not by ours."""
    app.login = lambda request: httpx.Response(200, json={"access": "t"}, headers=dated(300))
    app.answer = cut_off
    with pytest.raises(Unavailable):
        await client.claim_next()
    assert client.server_now() == pytest.approx(NOON.timestamp() + 300, abs=1)


async def test_the_clock_of_a_proxy_is_not_webbuddys(app: App, client: WebBuddyClient, noon: None) -> None:
    """What answers 502 is somebody else, who may have another clock."""
    app.answers(502, headers=dated(7200))
    with pytest.raises(Unavailable):
        await client.claim_next()
    assert client.server_now() == NOON.timestamp()


async def test_when_webbuddy_was_last_well(
    app: App, client: WebBuddyClient, autojump_clock: MockClock
) -> None:
    """The last good answer counts, a refusal of the API's own too; no log entry, no error, no page."""
    assert client.well_at == -math.inf
    await trio.sleep(1)
    await client.claim_next()
    assert client.well_at == trio.current_time() == 1
    await trio.sleep(1)
    app.answers(400, json={"detail": "no"})
    with pytest.raises(Refused):
        await client.report(1, status="done")
    assert client.well_at == 2
    await trio.sleep(1)
    app.answers(201, json={})
    await client.add_log(Query(id=1), "x")
    for status, body in ((200, {"html": "<p>"}), (405, {}), (404, {"html": "<p>"}), (500, {}), (503, {})):
        app.answers(status, **body)
        with pytest.raises(WebBuddyError):
            await client.get_query(1)
    assert client.well_at == 2


# --- Against the embedded WebBuddy ---------------------------------------------------------------


async def test_the_life_of_a_query(autojump_clock: object) -> None:
    """Created, claimed, logged, reported, read back; tokens expire every few seconds meanwhile."""
    server = WebBuddy(now=trio_time(), access_lifetime=3)
    async with server.running(), connect(server.transport()) as client:
        await client.log_in()
        account = await client.me()
        assert account is not None
        assert account.username == "worker"
        assert await client.claim_next() is None
        for number in range(20):
            created = await client.create_query(1, f"Запрос {number}")
            await trio.sleep(1)
            query = await client.claim_next()
            assert query is not None
            assert query.id == created.id
            assert query.query_text == f"Запрос {number}"
            await client.add_log(query, "Начало")
            assert [query.id for query in await client.by_status("in_progress")] == [created.id]
            assert [entry.text for entry in await client.log_entries(query.id)] == ["Начало"]
            await client.report(query.id, status="done", answer_text="готово")
            assert (await client.get_query(query.id)).answer_text == "готово"
        assert server.count(status=401) == 0
        assert server.count("login") == 1
        assert server.count("refresh") >= 5


async def test_all_pages_of_a_real_pagination(autojump_clock: object) -> None:
    """120 queries are three pages."""
    server = WebBuddy(now=trio_time())
    for number in range(120):
        server.add_query(str(number))
    async with server.running(), connect(server.transport()) as client:
        assert len(await client.by_status("queued")) == 120


async def test_a_call_that_fails_by_itself_does_not_make_the_others_take_turns(
    app: App, client: WebBuddyClient
) -> None:
    """One query that WebBuddy can't save: once it failed alone, its 500s say nothing of the others."""
    await client.log_in()

    def ill(request: httpx.Request) -> httpx.Response:
        return httpx.Response(500) if request.method == "PATCH" else httpx.Response(200, json=QUERY)

    app.answer = ill
    for _ in range(2):  # the first may have been an overlap; the second, alone, was none
        with pytest.raises(Busy):
            await client.report(1, status="done", answer_text="x")
    while client.turns.at_once < 64:
        await client.create_query(1, "fine")
    with pytest.raises(Busy):
        await client.report(1, status="done", answer_text="x")
    assert client.turns.at_once == 64
    app.answers(200, json=QUERY)
    await client.report(1, status="done", answer_text="x")
    app.answer = ill
    with pytest.raises(Busy):
        await client.report(1, status="done", answer_text="x")
    assert client.turns.at_once == 1  # it had been well in between, so this may be an overlap again


async def test_on_sqlite_turns_end_the_overlaps(autojump_clock: object) -> None:
    """Five consumers: a few calls fail until they take turns, then next to none do."""
    server = WebBuddy(now=trio_time(), sqlite=True)
    for number in range(200):
        server.add_query(str(number))

    async def repeat(call: Callable[[], Any]) -> Any:
        rng = random.Random(1)  # noqa: S311 - jitter, no secret
        while True:
            try:
                return await call()
            except Busy:
                await trio.sleep(rng.random() / 10)

    async def consume(client: WebBuddyClient) -> None:
        while (query := await repeat(partial(claim, client))) is not None:
            await repeat(partial(client.add_log, query, "x"))
            await repeat(partial(client.report, query.id, status="done"))

    async def claim(client: WebBuddyClient) -> Query | None:
        async with client.turns:
            return await client.claim_next()

    async with server.running(), connect(server.transport()) as client:
        await client.log_in()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(consume, client)
    assert server.all_ended()
    assert 1 <= server.count(status=500) <= 30


async def test_over_a_real_socket() -> None:
    """The same client on sockets: fifty calls at once, cut connections, a restart."""
    server = WebBuddy()
    async with serve_webbuddy(server) as url:
        for number in range(100):
            server.add_query(str(number))
        async with open_webbuddy(url=url, credentials=Credentials(), request_timeout=60) as client:
            found: list[int] = []

            async def claim() -> None:
                query = await client.claim_next()
                assert query is not None
                found.append(query.id)

            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(claim)
            assert len(set(found)) == 50
            assert server.count("login") == 1

            server.cut_next()
            with pytest.raises(Unavailable) as caught:
                await client.claim_next()
            assert caught.value.maybe_done

            server.down = True
            # Idle connections are closed by the server; whatever the calls in that moment meet, soon
            # they meet nobody.
            with trio.fail_after(60):
                while True:
                    with pytest.raises(Unavailable) as caught:
                        await client.claim_next()
                    if not caught.value.maybe_done:
                        break
            server.down = False
            with trio.fail_after(60):
                while True:
                    try:
                        assert await client.claim_next() is not None
                        break
                    except Unavailable:
                        await trio.sleep(0.01)


async def test_tls_to_a_server_without_it() -> None:
    """https:// where http:// is meant: the operator reads that TLS failed, and what to write."""
    async with serve_webbuddy(WebBuddy()) as url:
        secure = url.replace("http://", "https://")
        async with open_webbuddy(url=secure, credentials=Credentials(), request_timeout=60) as client:
            with pytest.raises(Unavailable, match=f"no connection to {secure} ") as caught:
                await client.claim_next()
    assert "TLS failed: " in str(caught.value)
    assert "If it speaks plain HTTP, WEBBUDDY_URL begins with http://" in str(caught.value)
    assert not caught.value.maybe_done


async def test_a_certificate_that_nobody_vouches_for(tmp_path: Path) -> None:
    """The operator reads what is wrong with it, and how an authority of one's own is made known: so it is."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")

    async def hang_up(stream: trio.SSLStream[trio.SocketStream]) -> None:
        async with stream:
            try:
                trusted.append(bool(await stream.receive_some()))
            except trio.BrokenResourceError:
                trusted.append(False)

    async def reason(ca_file: Path | None) -> str:
        async with open_webbuddy(
            url=url, credentials=Credentials(), request_timeout=60, ca_file=ca_file
        ) as client:
            with pytest.raises(Unavailable) as caught:
                await client.claim_next()
            assert not caught.value.maybe_done
        return str(caught.value)

    trusted: list[bool] = []
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_ssl_over_tcp, hang_up, 0, context, host="127.0.0.1", https_compatible=True)
        (listener,) = await nursery.start(serve)
        url = f"https://127.0.0.1:{listener.transport_listener.socket.getsockname()[1]}"
        refused = await reason(None)
        accepted = await reason(tmp_path / "authority.pem")
        nursery.cancel_scope.cancel()
    assert trusted == [False, True]
    assert f"no connection to {url} (TLS failed, its certificate is not trusted: unable to get" in refused
    assert "WORKER_CA_FILE names the file" in refused
    assert "hung up without an answer" in accepted


async def test_a_connection_refused_says_where() -> None:
    """The operator reads the URL and the reason."""
    server = WebBuddy()
    async with serve_webbuddy(server) as url:
        server.down = True
        await wait_all_tasks_blocked()
        async with open_webbuddy(url=url, credentials=Credentials(), request_timeout=60) as client:
            with pytest.raises(Unavailable, match=f"no connection to {url} ") as caught:
                await client.claim_next()
            assert not caught.value.maybe_done


async def test_a_call_that_is_always_too_much_does_not_slow_the_others_down_for_ever(
    app: App, client: WebBuddyClient, autojump_clock: object
) -> None:
    """A proxy gives up on one query's report: once it failed alone, its 504s say nothing of the others."""
    await client.log_in()

    def ill(request: httpx.Request) -> httpx.Response:
        return httpx.Response(504) if request.method == "PATCH" else httpx.Response(200, json=QUERY)

    async def report() -> None:
        await trio.sleep(1)
        with pytest.raises(Unavailable):
            await client.report(1, status="done", answer_text="x")

    app.answer = ill
    for _ in range(7):  # 32, 16, 8, 4, 2, 1, and once alone
        await report()
    assert client.turns.at_once == 1
    while client.turns.at_once < 64:
        await client.create_query(1, "fine")
    await report()
    assert client.turns.at_once == 64
    app.answers(200, json=QUERY)
    await client.report(1, status="done", answer_text="x")
    app.answer = ill
    await report()
    assert client.turns.at_once == 32


async def test_a_handshake_that_is_not_answered_leaves_a_claim_unsent() -> None:
    """Out of time before there was a connection: nothing was claimed, and nothing has to be looked for."""

    async def say_nothing(stream: trio.SocketStream) -> None:
        async for _ in stream:
            pass

    class Signed(httpx.Auth):
        def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
            request.headers["Authorization"] = "Bearer x"
            yield request

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, say_nothing, 0, host="127.0.0.1"))
        url = f"https://127.0.0.1:{listener.socket.getsockname()[1]}"
        async with open_client(url, auth=Signed()) as http:
            with pytest.raises(Unavailable) as caught:
                await Calls(http, 0.2).make("POST", "api/queries/claim_next/", {})
        nursery.cancel_scope.cancel()
    assert not caught.value.maybe_done
