"""What the embedded WebBuddy offers to tests: knobs, counters, and ways to wait."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from trio_worker import clock
from trio_worker.testing import WebBuddy, serve_webbuddy, trio_time

CLAIM = "/api/queries/claim_next/"
ME = "/api/users/me/"
LOGIN = {"username": "worker", "password": "secret"}


@asynccontextmanager
async def in_process(webbuddy: WebBuddy) -> AsyncIterator[httpx.AsyncClient]:
    """Run it, and reach it without a socket."""
    client = httpx.AsyncClient(transport=webbuddy.transport(), base_url=webbuddy.url)
    async with webbuddy.running(), client:
        yield client


@asynccontextmanager
async def on_a_socket(webbuddy: WebBuddy) -> AsyncIterator[httpx.AsyncClient]:
    """Run it, and reach it through a socket."""
    async with (
        serve_webbuddy(webbuddy) as url,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client,
    ):
        yield client


@pytest.fixture(params=[in_process, on_a_socket])
async def client(request: pytest.FixtureRequest, webbuddy: WebBuddy) -> AsyncIterator[httpx.AsyncClient]:
    """A client that is logged in, by either way."""
    async with request.param(webbuddy) as client:
        await log_in(client)
        yield client


@pytest.fixture
async def virtual() -> AsyncIterator[Virtual]:
    """A WebBuddy in virtual time, and a client that is logged in there.

    The test has to name `autojump_clock` itself: pytest-trio looks nowhere else for a clock.
    """
    webbuddy = WebBuddy(now=trio_time())
    async with in_process(webbuddy) as client:
        await log_in(client)
        yield webbuddy, client


Virtual = tuple[WebBuddy, httpx.AsyncClient]


async def log_in(client: httpx.AsyncClient) -> dict[str, Any]:
    """Log in, and carry the token from then on."""
    tokens = (await client.post("/api/login/", json=LOGIN)).json()
    client.headers["Authorization"] = f"Bearer {tokens['access']}"
    return dict(tokens)


async def status(client: httpx.AsyncClient, path: str = ME, method: str = "GET") -> int:
    """Make a call, and give its status."""
    return (await client.request(method, path)).status_code


async def eventually(webbuddy: WebBuddy, condition: Callable[[], bool]) -> None:
    """Wait for it, but not for ever: what fails should not hang."""
    with trio.fail_after(60):
        await webbuddy.until(condition)


# The network.


async def test_down(webbuddy: WebBuddy, client: httpx.AsyncClient) -> None:
    """While it is down, connections are refused; then it is back at the same address."""
    webbuddy.down = True
    await eventually(webbuddy, lambda: webbuddy.open_connections == 0)
    for _ in range(2):
        with pytest.raises(httpx.ConnectError):
            await client.get(ME)
    webbuddy.down = False
    await trio.testing.wait_all_tasks_blocked()
    assert await status(client) == 200


async def test_down_from_the_start() -> None:
    """It may be down before anybody ever reached it."""
    webbuddy = WebBuddy(down=True)
    async with on_a_socket(webbuddy) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("/")
        webbuddy.down = False
        await trio.testing.wait_all_tasks_blocked()
        assert await status(client, "/") == 200


async def test_going_down_ends_calls_under_way(
    webbuddy: WebBuddy, client: httpx.AsyncClient, nursery: trio.Nursery
) -> None:
    """Who waits for an answer gets none."""
    webbuddy.hang = True

    async def go_down() -> None:
        await eventually(webbuddy, lambda: webbuddy.under_way == 1)
        webbuddy.down = True
        webbuddy.hang = False

    nursery.start_soon(go_down)
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await client.get(ME)


@pytest.mark.parametrize("after_commit", [False, True])
async def test_cut(webbuddy: WebBuddy, client: httpx.AsyncClient, after_commit: bool) -> None:
    """A cut claim has no answer, whether or not it did its work; the next one has."""
    query, _ = webbuddy.add_query("x"), webbuddy.add_query("y")
    webbuddy.cut_next(endpoint="claim_next", after_commit=after_commit)
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        await client.post(CLAIM)
    assert query.status == ("in_progress" if after_commit else "queued")
    assert webbuddy.calls["claim_next", None] == 1
    assert await status(client, CLAIM, "POST") == 200


async def test_hang(webbuddy: WebBuddy, client: httpx.AsyncClient, nursery: trio.Nursery) -> None:
    """While it hangs nothing is done; afterwards everything is, also what nobody waits for."""
    query = webbuddy.add_query("x")
    webbuddy.hang = True
    with trio.CancelScope() as caller:
        nursery.start_soon(_cancel_when, webbuddy, lambda: webbuddy.under_way == 1, caller)
        await client.post(CLAIM)
    assert caller.cancelled_caught
    assert query.status == "queued"
    webbuddy.hang = False
    await eventually(webbuddy, lambda: query.status == "in_progress")


async def _cancel_when(webbuddy: WebBuddy, condition: Callable[[], bool], scope: trio.CancelScope) -> None:
    await eventually(webbuddy, condition)
    scope.cancel()


async def test_hang_next(webbuddy: WebBuddy, client: httpx.AsyncClient, nursery: trio.Nursery) -> None:
    """One call is never answered, though it did its work; the others are."""
    query = webbuddy.add_query("x")
    webbuddy.hang_next(endpoint="claim_next", after_commit=True)
    with trio.CancelScope() as caller:
        nursery.start_soon(_cancel_when, webbuddy, lambda: query.status == "in_progress", caller)
        await client.post(CLAIM)
    assert caller.cancelled_caught
    assert await status(client) == 200


async def test_slow(virtual: Virtual, autojump_clock: trio.testing.MockClock) -> None:
    """A call takes that many seconds, half of them before it does its work."""
    webbuddy, client = virtual
    webbuddy.slow = 10
    query = webbuddy.add_query("x")
    began = trio.current_time()
    await client.post(CLAIM)
    assert trio.current_time() - began == 10
    assert query.started == webbuddy.now() - 5


async def test_call_goes_on_without_its_caller(
    virtual: Virtual, autojump_clock: trio.testing.MockClock
) -> None:
    """Who hangs up does not undo a claim: it stays in progress, as at a real WebBuddy."""
    webbuddy, client = virtual
    webbuddy.slow = 10
    query = webbuddy.add_query("x")
    with trio.move_on_after(1):
        await client.post(CLAIM)
    assert query.status == "queued"
    await eventually(webbuddy, lambda: query.status == "in_progress")
    assert trio.current_time() == 5


# Answers.


async def test_fail_next(webbuddy: WebBuddy, client: httpx.AsyncClient) -> None:
    """The next calls of one endpoint get a status, with headers; others and later ones do not."""
    query = webbuddy.add_query("x")
    webbuddy.fail_next(429, calls=2, endpoint="claim_next", headers={"Retry-After": "60"})
    for _ in range(2):
        answer = await client.post(CLAIM)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")
        assert answer.headers["content-type"].startswith("text/html")
        assert await status(client) == 200
    assert query.status == "queued"
    assert await status(client, CLAIM, "POST") == 200


async def test_fail_next_of_any_endpoint(webbuddy: WebBuddy, client: httpx.AsyncClient) -> None:
    """Without an endpoint it befalls whatever comes first; several knobs wait in line."""
    webbuddy.fail_next(502)
    webbuddy.fail_next(503)
    assert [await status(client) for _ in range(3)] == [502, 503, 200]


async def test_failed_answer_of_a_done_call(webbuddy: WebBuddy, client: httpx.AsyncClient) -> None:
    """A proxy may fail after WebBuddy did the work."""
    query = webbuddy.add_query("x")
    webbuddy.fail_next(504, after_commit=True)
    assert await status(client, CLAIM, "POST") == 504
    assert query.status == "in_progress"


async def test_garbage(webbuddy: WebBuddy, client: httpx.AsyncClient) -> None:
    """A 200 that nobody can read; the call did its work."""
    query = webbuddy.add_query("x")
    webbuddy.garble_next(endpoint="claim_next")
    answer = await client.post(CLAIM)
    assert answer.status_code == 200
    with pytest.raises(UnicodeDecodeError):
        answer.json()
    assert query.status == "in_progress"


# Tokens.


async def test_expire_tokens(webbuddy: WebBuddy, client: httpx.AsyncClient) -> None:
    """All tokens that are out are expired at once; new ones are good."""
    tokens = await log_in(client)
    webbuddy.expire_tokens()
    assert await status(client) == 401
    answer = await client.post("/api/token/refresh/", json={"refresh": tokens["refresh"]})
    assert (answer.status_code, answer.json()["detail"]) == (401, "Token is expired")
    await log_in(client)
    assert await status(client) == 200


async def test_expire_access_tokens_only(webbuddy: WebBuddy, client: httpx.AsyncClient) -> None:
    """Refresh tokens may stay good."""
    tokens = await log_in(client)
    webbuddy.expire_tokens(refresh_tokens=False)
    assert await status(client) == 401
    answer = await client.post("/api/token/refresh/", json={"refresh": tokens["refresh"]})
    assert answer.status_code == 200


async def test_refuse_logins(webbuddy: WebBuddy, client: httpx.AsyncClient) -> None:
    """Every password is a wrong one; tokens that are out stay good."""
    webbuddy.refuse_logins = True
    assert (await client.post("/api/login/", json=LOGIN)).status_code == 401
    assert await status(client) == 200


async def test_tokens_expire_in_virtual_time(
    virtual: Virtual, autojump_clock: trio.testing.MockClock
) -> None:
    """With `trio_time`, a day passes at once, and everything that tells the time agrees."""
    webbuddy, client = virtual
    await trio.sleep(24 * 3600 - 2)
    answer = await client.get(ME)
    assert answer.status_code == 200
    date = parsedate_to_datetime(answer.headers["date"]).timestamp()
    assert date == pytest.approx(webbuddy.now(), abs=1)
    await trio.sleep(2)
    assert await status(client) == 401


async def test_short_lifetimes(virtual: Virtual, autojump_clock: trio.testing.MockClock) -> None:
    """Lifetimes may be changed at any time, for the tokens issued from then on."""
    webbuddy, client = virtual
    webbuddy.access_lifetime, webbuddy.refresh_lifetime = 3, 6
    tokens = await log_in(client)
    await trio.sleep(4)
    assert await status(client) == 401
    body = {"refresh": tokens["refresh"]}
    assert (await client.post("/api/token/refresh/", json=body)).status_code == 200
    await trio.sleep(4)
    assert (await client.post("/api/token/refresh/", json=body)).status_code == 401


# Pushes.


class _Worker(httpx.AsyncBaseTransport):
    """Accepts every push, and remembers them."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(await request.aread())
        return httpx.Response(200)


async def test_pushes_through_a_transport() -> None:
    """In-process, pushes go through a transport of the test's, one after the other if it likes."""
    worker = _Worker()
    webbuddy = WebBuddy(push_url="http://worker", push_transport=worker)
    async with webbuddy.running():
        for number in (1, 2):
            webbuddy.add_query("x")
            await eventually(webbuddy, lambda number=number: webbuddy.pushes["accepted"] == number)
    assert webbuddy.pushes == {"sent": 2, "accepted": 2}
    assert b'"query_id": 2' in worker.bodies[1]


async def test_pushing_off() -> None:
    """Queries may be created without a push: one of them, or all."""
    worker = _Worker()
    webbuddy = WebBuddy(push_url="http://worker", push_transport=worker)
    async with webbuddy.running():
        webbuddy.add_query("x", push=False)
        webbuddy.pushing = False
        webbuddy.add_query("x")
        webbuddy.pushing = True
        webbuddy.push(99)  # ahead of its query
        await eventually(webbuddy, lambda: webbuddy.pushes["accepted"] > 0)
    assert webbuddy.pushes["sent"] == 1
    assert b'"query_id": 99' in worker.bodies[0]


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [
        ("read", "/api/queries/1/"),
        ("by_status", "/api/queries/by_status/?status=queued"),
        ("query_logs", "/api/queries/1/logs/"),
        ("me", ME),
        ("project", "/api/projects/1/tokens/"),
    ],
)
async def test_missing(webbuddy: WebBuddy, client: httpx.AsyncClient, endpoint: str, path: str) -> None:
    """A call that it does not know gets the page, like any other path; all others work."""
    webbuddy.add_query("x")
    assert (await client.get(path)).headers["content-type"].startswith("application/json")
    webbuddy.missing = frozenset({endpoint})
    answer = await client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert webbuddy.count(endpoint) == 2
    assert await status(client, CLAIM, "POST") == 200


async def test_a_missing_call_that_changes_something(webbuddy: WebBuddy, client: httpx.AsyncClient) -> None:
    """To the page's route a POST is 405; nothing is done."""
    query = webbuddy.add_query("x")
    webbuddy.missing = frozenset({"claim_next"})
    assert await status(client, CLAIM, "POST") == 405
    assert query.status == "queued"


async def test_shows_started(webbuddy: WebBuddy, client: httpx.AsyncClient) -> None:
    """Without it no answer has the key; what is kept stays as it is."""
    webbuddy.shows_started = False
    webbuddy.add_query("x")
    assert "query_started" not in (await client.post(CLAIM)).json()
    assert "query_started" not in (await client.get("/api/queries/1/")).json()
    assert "query_started" not in (await client.get("/api/queries/")).json()["results"][0]
    webbuddy.shows_started = True
    assert (await client.get("/api/queries/1/")).json()["query_started"] is not None


async def test_requeue(webbuddy: WebBuddy, client: httpx.AsyncClient) -> None:
    """A person puts a query back: it keeps its times and its log, and can be claimed again."""
    query = webbuddy.add_query("x")
    first = (await client.post(CLAIM)).json()
    webbuddy.add_entry(query, 1, "begun")
    webbuddy.requeue(query.id)
    assert [(change.status, change.by) for change in query.history][-1] == ("queued", "member")
    assert (await client.get("/api/queries/1/")).json()["query_started"] == first["query_started"]
    again = (await client.post(CLAIM)).json()
    assert (again["id"], again["logs_count"]) == (1, 1)
    assert again["query_started"] > first["query_started"]


async def test_requeue_pushes_nothing() -> None:
    """Only a new query is pushed."""
    webbuddy = WebBuddy(push_url="http://worker", push_transport=_Worker())
    async with webbuddy.running():
        webbuddy.add_query("x", push=False)
        webbuddy.requeue(1)
        await trio.testing.wait_all_tasks_blocked()
    assert webbuddy.pushes["sent"] == 0


async def test_reset_database(webbuddy: WebBuddy, client: httpx.AsyncClient) -> None:
    """All queries are gone and numbers begin anew; whoever was logged in still is."""
    webbuddy.add_query("old")
    webbuddy.add_entry(webbuddy.add_query("old"), 1, "x")
    webbuddy.reset_database()
    assert await status(client, CLAIM, "POST") == 404
    query = webbuddy.add_query("new")
    entry = webbuddy.add_entry(query, 1, "y")
    assert (query.id, entry.id) == (1, 1)
    assert (await client.post(CLAIM)).json()["query_text"] == "new"


async def test_its_own_clock() -> None:
    """A caller with another clock does not change WebBuddy's."""
    webbuddy = WebBuddy()
    async with in_process(webbuddy) as client:
        before = clock.source.set(lambda: 1.0)
        await log_in(client)
        clock.source.reset(before)
    assert webbuddy.requests[0].began > 1_000_000_000


# State and counters.


async def test_history(webbuddy: WebBuddy, client: httpx.AsyncClient) -> None:
    """A query remembers each status that it was given, by whom and when."""
    query = webbuddy.add_query("x")
    await client.post(CLAIM)
    for word in ("done", "done"):
        await client.patch(f"/api/queries/{query.id}/", json={"status": word})
    await client.patch(f"/api/queries/{query.id}/", json={"answer_text": "no status"})
    assert query.statuses == ["queued", "in_progress", "done", "done"]
    assert [change.by for change in query.history] == ["member", "worker", "worker", "worker"]
    times = [change.at for change in query.history]
    assert times == sorted(times)
    assert webbuddy.all_ended()


async def test_calls_are_counted(webbuddy: WebBuddy, client: httpx.AsyncClient) -> None:
    """Every call is counted by endpoint and status, and told in order, with its query."""
    query = webbuddy.add_query("x")
    await client.post(CLAIM)
    await client.post(CLAIM)
    await client.post("/api/logs/", json={"project": 1, "query": query.id, "log_data": "x"})
    await client.patch(f"/api/queries/{query.id}/", json={"status": "done"})
    await client.get("/api/queries/claim_next")
    assert webbuddy.count("claim_next") == 2
    assert webbuddy.count("claim_next", 404) == webbuddy.calls["claim_next", 404] == 1
    assert webbuddy.count() == 6
    told = [(call.endpoint, call.status, call.query) for call in webbuddy.requests]
    assert told == [
        ("login", 200, None),
        ("claim_next", 200, 1),
        ("claim_next", 404, None),
        ("logs", 201, 1),
        ("patch", 200, 1),
        ("page", 200, None),
    ]
    assert query.logs == ["x"]


async def test_calls_under_way(webbuddy: WebBuddy, client: httpx.AsyncClient) -> None:
    """The most calls at once are counted."""
    webbuddy.hang = True
    async with trio.open_nursery() as nursery:
        for _ in range(7):
            nursery.start_soon(client.get, ME)
        await eventually(webbuddy, lambda: webbuddy.under_way == 7)
        webbuddy.hang = False
    assert (webbuddy.under_way, webbuddy.most_under_way) == (0, 7)


async def test_connections_are_counted() -> None:
    """On sockets, so are connections, and they are kept alive."""
    webbuddy = WebBuddy()
    async with on_a_socket(webbuddy) as client:
        for _ in range(3):
            await client.get("/")
        assert (webbuddy.connections, webbuddy.open_connections, webbuddy.most_connections) == (1, 1, 1)


async def test_bind() -> None:
    """Two of them at once get a port each."""
    async with serve_webbuddy(WebBuddy()) as one, serve_webbuddy(WebBuddy(), "127.0.0.1:0") as two:
        assert one != two


async def test_it_has_to_run(webbuddy: WebBuddy) -> None:
    """Without `running` nothing answers, and says so."""
    async with httpx.AsyncClient(transport=webbuddy.transport(), base_url=webbuddy.url) as client:
        with pytest.raises(RuntimeError, match="running"):
            await client.get(ME)
    webbuddy.push_url = "http://worker"
    with pytest.raises(RuntimeError, match="running"):
        webbuddy.add_query("x")


async def test_until_sees_deletion(webbuddy: WebBuddy, nursery: trio.Nursery) -> None:
    """`until` wakes for what the test itself does, too."""
    query = webbuddy.add_query("x")
    webbuddy.add_query("y")

    async def delete() -> None:
        await trio.testing.wait_all_tasks_blocked()
        webbuddy.delete_query(query.id)

    nursery.start_soon(delete)
    await eventually(webbuddy, lambda: len(webbuddy.queries) == 1)


async def test_add_user(webbuddy: WebBuddy, client: httpx.AsyncClient) -> None:
    """More accounts may be had."""
    account = webbuddy.add_user("other", "secret", project=2)
    query = webbuddy.add_query("x", project=2, user=account.id)
    webbuddy.add_query("y", project=1)
    tokens = await client.post("/api/login/", json={"username": "other", "password": "secret"})
    client.headers["Authorization"] = f"Bearer {tokens.json()['access']}"
    assert (await client.post(CLAIM)).json()["id"] == query.id
    assert (await client.post(CLAIM)).status_code == 404


async def test_nothing_secret_in_a_repr(webbuddy: WebBuddy) -> None:
    """Neither passwords nor the key are shown."""
    assert "secret" not in repr(webbuddy)
