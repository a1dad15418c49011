"""The push endpoint: what it answers, what it tells the worker, what it never does."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import trio
from quart_trio import QuartTrio
from structlog.typing import EventDict
from trio.testing import MockClock

from trio_worker.web import PushCounts, make_app
from trio_worker.web.push import _tidy_path

PUSH = {"query_id": 123, "webbuddy_url": "http://localhost:8000"}
OWN_URL = "http://localhost:8000"


def messages(*events: dict[str, Any]) -> Callable[[], Any]:
    """An ASGI `receive` that has all these events ready, and takes no step of Trio's to give them."""
    queue = list(events)

    async def receive() -> dict[str, Any]:
        if queue:
            return queue.pop(0)
        return await trio.sleep_forever()

    return receive


def part(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def client_of(app: QuartTrio, *, root_path: str = "") -> httpx.AsyncClient:
    """A client that calls the app without a socket."""

    async def read_all_first(scope: Any, receive: Any, send: Any) -> None:
        # httpx's body is an async generator; one that the app leaves unread is a ResourceWarning.
        events = [await receive()]
        while events[-1]["more_body"]:
            events.append(await receive())
        await app(scope, messages(*events), send)

    transport = httpx.ASGITransport(read_all_first, raise_app_exceptions=False, root_path=root_path)
    return httpx.AsyncClient(transport=transport, base_url="http://worker")


async def call(app: QuartTrio, receive: Callable[[], Any], **scope: Any) -> list[dict[str, Any]]:
    """Call the app as a server does: what it sends."""
    sent: list[dict[str, Any]] = []

    async def send(event: Any) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(event)

    request = {
        "type": "http",
        "method": "POST",
        "path": "/api/process-query",
        "http_version": "1.1",
        "scheme": "http",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": None,
    }
    await app(request | scope, receive, send)
    return sent


@pytest.fixture
def pushed() -> list[int]:
    """The ids that were pushed, in order."""
    return []


@pytest.fixture
def counts() -> PushCounts:
    return PushCounts()


@pytest.fixture
async def client(pushed: list[int], counts: PushCounts) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(make_app(pushed=pushed.append, own_url=OWN_URL, counts=counts)) as client:
        yield client


# --- Accepted ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/api/process-query",
        "//api/process-query",
        "///api/process-query",
        "/api/process-query/",
        "//api/process-query//",
        "/api/process-query?x=1",
    ],
)
async def test_a_push_is_accepted_however_the_path_was_joined(
    client: httpx.AsyncClient, pushed: list[int], path: str
) -> None:
    """Exactly 200 and `{"status": "accepted"}`, without a redirect; and the worker is told once."""
    response = await client.post(f"http://worker{path}", json=PUSH)
    assert response.status_code == 200
    assert response.content == b'{"status": "accepted"}'
    assert response.headers["content-type"] == "application/json"
    assert pushed == [123]


@pytest.mark.parametrize("path", ["/w/api/process-query", "/w//api/process-query/", "/api/process-query"])
async def test_a_root_path_may_or_may_not_be_cut_off_by_the_proxy(path: str, pushed: list[int]) -> None:
    """Behind `--root-path /w` the push is found with the prefix and without it."""
    app = make_app(pushed=pushed.append, own_url=OWN_URL)
    async with client_of(app, root_path="/w") as client:
        assert (await client.post(path, json=PUSH)).status_code == 200
        assert (await client.post("/wapi/process-query", json=PUSH)).status_code == 404
    assert pushed == [123]


@pytest.mark.parametrize(
    ("path", "root_path", "tidy"),
    [
        ("/", "", "/"),
        ("", "", "/"),
        ("//", "", "/"),
        ("*", "", "*"),
        ("/w", "/w", "/w"),
        ("/w/", "/w", "/"),
        ("//w//api/x/", "/w", "/api/x"),
        ("/wow/x", "/w", "/wow/x"),
        ("/w/w/x", "/w", "/w/x"),
    ],
)
def test_the_path_is_brought_into_one_spelling(path: str, root_path: str, tidy: str) -> None:
    """Repeated and trailing slashes go, and the root path does where it is a whole segment."""
    assert _tidy_path(path, root_path) == tidy


@pytest.mark.parametrize(
    ("body", "query_id"),
    [
        (b'{"query_id": 1}', 1),
        (b'{"query_id": 9223372036854775807}', 2**63 - 1),
        (b'{"query_id": 5, "webbuddy_url": null}', 5),
        (b'{"query_id": 5, "webbuddy_url": 7}', 5),
        (b'{"query_id": 5, "webbuddy_url": "\\ud800 http://["}', 5),
        (b'{"query_id": 5, "more": {"x": [NaN, Infinity]}}', 5),
        (b'{"query_id": "x", "query_id": 6}', 6),
        (b' \n{"query_id": 7}\r\n', 7),
        (b'{"query_id": 70.0}', 70),
        (b'\xef\xbb\xbf{"query_id": 8}', 8),
        (b'{"query_id": 9, "pad": "' + b"x" * 65_000 + b'"}', 9),
    ],
)
async def test_what_else_is_in_a_push_does_not_matter(
    client: httpx.AsyncClient, pushed: list[int], body: bytes, query_id: int
) -> None:
    """A JSON object with a good `query_id` is a push, whatever stands beside it, in any Content-Type."""
    response = await client.post("/api/process-query", content=body, headers={"content-type": "text/html"})
    assert (response.status_code, pushed) == (200, [query_id])


# --- Refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"{",
        b'{"query_id": 1} x',
        b"\xff\xfe\xfd",
        b'{"query_id": 1, "x": "\xff"}',
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"query_id": ' + b"9" * 5_000 + b"}",
        b"null",
        b"[]",
        b"[1]",
        b"123",
        b'"query_id"',
        b"NaN",
        b"{}",
        b'{"query_id": null}',
        b'{"query_id": true}',
        b'{"query_id": "123"}',
        b'{"query_id": 1.5}',
        b'{"query_id": NaN}',
        b'{"query_id": [1]}',
        b'{"query_id": 0}',
        b'{"query_id": -1}',
        b'{"query_id": 9223372036854775808}',
        b'{"Query_id": 1}',
    ],
)
async def test_what_is_no_push_is_refused_with_a_reason(
    client: httpx.AsyncClient, pushed: list[int], counts: PushCounts, body: bytes
) -> None:
    """400 and `{"detail": …}`, and the worker is not told."""
    response = await client.post("/api/process-query", content=body)
    assert response.status_code == 400
    assert set(response.json()) == {"detail"}
    assert pushed == []
    assert counts == PushCounts(refused=1)


async def test_the_limit_is_64_kib(client: httpx.AsyncClient, pushed: list[int]) -> None:
    """65 536 bytes are read, one more is 413."""
    body = json.dumps(PUSH).encode().ljust(64 * 1024)
    assert (await client.post("/api/process-query", content=body)).status_code == 200
    response = await client.post("/api/process-query", content=body + b" ")
    assert (response.status_code, list(response.json())) == (413, ["detail"])
    assert pushed == [123]


async def test_a_body_that_announces_too_much_is_not_waited_for(pushed: list[int]) -> None:
    """413 on the strength of its Content-Length, before any of it has come."""
    app = make_app(pushed=pushed.append, own_url=OWN_URL)
    sent = await call(app, messages(), headers=[(b"content-length", b"65537")])
    assert (sent[0]["status"], pushed) == (413, [])


async def test_the_limit_holds_for_a_body_that_announces_no_length(pushed: list[int]) -> None:
    """A chunked body is cut off at 64 KiB and not gathered to its end."""

    async def endless() -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return part(b" " * 1_000)

    sent = await call(make_app(pushed=pushed.append, own_url=OWN_URL), endless)
    assert (sent[0]["status"], pushed) == (413, [])


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
async def test_other_methods_are_refused(client: httpx.AsyncClient, pushed: list[int], method: str) -> None:
    """405 in JSON, and `Allow` names POST alone."""
    response = await client.request(method, "/api/process-query", content=json.dumps(PUSH))
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.headers["content-type"] == "application/json"
    assert method == "HEAD" or "detail" in response.json()
    assert pushed == []


@pytest.mark.parametrize("path", ["/", "/api", "/api/process-query/1", "/x/api/process-query", "/static/x"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_unknown_paths_are_not_found(client: httpx.AsyncClient, method: str, path: str) -> None:
    """404 in JSON."""
    response = await client.request(method, path)
    assert (response.status_code, list(response.json())) == (404, ["detail"])


async def test_a_body_that_does_not_come_is_given_up(pushed: list[int], autojump_clock: MockClock) -> None:
    """A client that sends half a body and waits gets 408 after two seconds."""
    start = trio.current_time()
    sent = await call(make_app(pushed=pushed.append, own_url=OWN_URL), messages(part(b'{"query_id":')))
    assert (sent[0]["status"], pushed) == (408, [])
    assert trio.current_time() - start == pytest.approx(2)


async def test_an_unexpected_error_is_500_in_json_and_loud(events: list[EventDict]) -> None:
    """The caller learns nothing of it, the operator gets the traceback."""

    def broken(_query_id: int) -> None:
        raise RuntimeError("boom")

    async with client_of(make_app(pushed=broken, own_url=OWN_URL)) as client:
        response = await client.post("/api/process-query", json=PUSH)
    assert (response.status_code, response.json()) == (500, {"detail": "internal error"})
    [line] = [line for line in events if line["log_level"] == "error"]
    assert line["exc_info"].__traceback__ is not None
    assert str(line["exc_info"]) == "boom"


# --- What a stranger may not do ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ("http://localhost:8000", "http://localhost:8000/"),
        ("http://localhost:8000/", "http://localhost:8000"),
        ("http://localhost:8000", "HTTP://LOCALHOST:8000"),
        ("http://buddy", "http://buddy:80/"),
        ("https://buddy:443/x", "https://Buddy/x/"),
        ("http://buddy", " http://user:secret@buddy\n"),
    ],
)
async def test_the_same_webbuddy_in_another_spelling_is_no_other(own: str, named: str) -> None:
    """A trailing slash, the host's case and the standard port make no difference."""
    counts = PushCounts()
    async with client_of(make_app(pushed=[].append, own_url=own, counts=counts)) as client:
        await client.post("/api/process-query", json={"query_id": 1, "webbuddy_url": named})
    assert counts == PushCounts(accepted=1)


async def test_another_webbuddy_is_told_once_and_counted(
    client: httpx.AsyncClient, pushed: list[int], counts: PushCounts, events: list[EventDict]
) -> None:
    """Such pushes count as pushes; one line in the log, whatever number of addresses they name."""
    for number in range(1, 101):
        url = f"http://evil-{number}:8000"
        await client.post("/api/process-query", json={"query_id": number, "webbuddy_url": url})
    [line] = [line for line in events if line["log_level"] == "warning"]
    assert line["pushed_url"] == "http://evil-1:8000"
    assert counts == PushCounts(accepted=100, other_url=100)
    assert pushed == list(range(1, 101))


@pytest.mark.parametrize(
    "named",
    [
        "http://user:secret@evil/?token=secret#secret",
        "http://evil/\n\x1b[31mforged line",
        "http://evil/\ud800",
        "http://evil/" + "x" * 50_000,
        "http://[evil",
        {"a": 1},
    ],
)
async def test_the_other_address_is_safe_to_log(
    client: httpx.AsyncClient, named: object, events: list[EventDict]
) -> None:
    """No credentials, no control characters, no lone surrogates, no walls of text."""
    await client.post("/api/process-query", content=json.dumps({"query_id": 1, "webbuddy_url": named}))
    [line] = [line for line in events if line["log_level"] == "warning"]
    assert line["pushed_url"].isascii()
    assert line["pushed_url"].isprintable()
    assert "secret" not in line["pushed_url"]
    assert len(line["pushed_url"]) < 1_500


async def test_pushes_leave_nothing_behind(
    client: httpx.AsyncClient,
    counts: PushCounts,
    events: list[EventDict],
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    """However many come, the process holds no more objects than before."""
    # pytest keeps records, and httpx makes one for each request, where an earlier test has let INFO through.
    caplog.set_level(logging.WARNING, "httpx")

    async def push(times: int) -> int:
        for number in range(1, times + 1):
            url = f"http://evil-{number}:8000"
            await client.post("/api/process-query", json={"query_id": number, "webbuddy_url": url})
        events.clear()
        await trio.sleep(3)  # Trio keeps the deadlines of what has ended until they are past
        gc.collect()
        return len(gc.get_objects())

    before = await push(200)  # fills the standard library's own caches
    assert await push(500) - before < 100
    assert counts.accepted == 700


# --- A client that hangs up ----------------------------------------------------------------------

HANG_UP = {"type": "http.disconnect"}


@pytest.mark.parametrize("steps", range(3))
async def test_a_client_that_hangs_up_at_once_is_still_heard(pushed: list[int], steps: int) -> None:
    """A complete push with the hang-up right behind it: the worker is told.

    However many steps of Trio's each part of it takes to come.
    """
    parts = [part(bytes([byte])) for byte in b'{"query_id": 123}']
    ready = messages(*parts, part(b"", more=False), HANG_UP)

    async def receive() -> dict[str, Any]:
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        event: dict[str, Any] = await ready()
        return event

    await call(make_app(pushed=pushed.append, own_url=OWN_URL), receive)
    assert pushed == [123]


async def test_half_a_push_with_a_hang_up_ends_quietly(
    pushed: list[int], events: list[EventDict], autojump_clock: MockClock
) -> None:
    """Neither heard nor answered nor an error in the log, and gone at once."""
    app = make_app(pushed=pushed.append, own_url=OWN_URL)
    with trio.fail_after(1):
        sent = await call(app, messages(part(b'{"query_id": 1'), HANG_UP))
    assert (pushed, events, sent) == ([], [], [])
