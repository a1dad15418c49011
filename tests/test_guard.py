"""Who may ask the endpoints: those with the token, however they bring it."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import httpx
import pytest
from quart_trio import QuartTrio

from tests.test_push import OWN_URL, PUSH, client_of
from trio_worker.front import Front
from trio_worker.web import Readiness, make_app
from trio_worker.web.guard import Guard

PUSH_TOKEN, ADMIN_TOKEN = "push-token-0123456789", "admin-token-0123456789"
GUARD = Guard(PUSH_TOKEN, ADMIN_TOKEN)


def guarded(pushed: list[int], guard: Guard = GUARD) -> QuartTrio:
    return make_app(pushed=pushed.append, own_url=OWN_URL, readiness=Readiness(), guard=guard)


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


GOOD = [f"Bearer {PUSH_TOKEN}", f"bearer   {PUSH_TOKEN} ", basic("push", PUSH_TOKEN), basic("", PUSH_TOKEN)]
BAD = [
    "",
    "Bearer",
    "Bearer ",
    f"Bearer {PUSH_TOKEN}x",
    f"Bearer {PUSH_TOKEN[:-1]}",
    f"Bearer {PUSH_TOKEN.upper()}",
    f"Bearer {ADMIN_TOKEN}",
    f"Token {PUSH_TOKEN}",
    PUSH_TOKEN,
    "Basic",
    "Basic !!!",
    "Basic 0",
    basic(PUSH_TOKEN, ""),
    basic("push", ""),
    basic("push:push", PUSH_TOKEN),
    "Basic " + b64encode(PUSH_TOKEN.encode()).decode(),
    "Bearer \xff",
]


@pytest.mark.parametrize("header", GOOD)
async def test_a_push_with_the_token_is_heard(header: str) -> None:
    """As a bearer header, or as the password of any user."""
    pushed: list[int] = []
    async with client_of(guarded(pushed)) as client:
        response = await client.post("/api/process-query", json=PUSH, headers={"Authorization": header})
    assert (response.status_code, pushed) == (200, [123])


@pytest.mark.parametrize("header", BAD)
async def test_a_push_without_it_is_not_heard(header: str) -> None:
    """401, with what a browser and python-requests need to know, and no word of which token is right."""
    pushed: list[int] = []
    headers = [(b"Authorization", header.encode("latin-1"))]
    async with client_of(guarded(pushed)) as client:
        response = await client.post("/api/process-query", json=PUSH, headers=headers)
    assert (response.status_code, pushed, list(response.json())) == (401, [], ["detail"])
    assert response.headers["www-authenticate"].startswith("Basic realm=")


async def test_the_token_in_a_url_is_what_python_requests_makes_of_it() -> None:
    """`FASTAPI_URL=http://push:TOKEN@host:8001` is all that WebBuddy has to say."""
    pushed: list[int] = []
    async with client_of(guarded(pushed)) as client:
        url = f"http://push:{PUSH_TOKEN}@worker//api/process-query"
        assert (await client.post(url, json=PUSH)).status_code == 200
        assert (await client.post("/api/process-query", json=PUSH)).status_code == 401
    assert pushed == [123]


async def test_two_headers_are_refused() -> None:
    """Which of the two a proxy has looked at nobody knows."""
    pushed: list[int] = []
    headers = [("Authorization", f"Bearer {PUSH_TOKEN}"), ("Authorization", f"Bearer {PUSH_TOKEN}")]
    async with client_of(guarded(pushed)) as client:
        response = await client.post("/api/process-query", json=PUSH, headers=headers)
    assert (response.status_code, pushed) == (401, [])


@pytest.mark.parametrize(
    "path", ["/", "/readyz", "//readyz/", "/nothing", "/openapi.json", "/metrics", "/livez/x"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS"])
async def test_all_else_needs_the_other_token(path: str, method: str) -> None:
    """Also what is not there: nobody learns what is."""
    async with client_of(guarded([])) as client:
        for token in (None, PUSH_TOKEN):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            response = await client.request(method, path, headers=headers)
            assert response.status_code == 401
        response = await client.request(method, path, headers={"Authorization": basic("me", ADMIN_TOKEN)})
        assert response.status_code not in (401, 500)


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        (f"Bearer {ADMIN_TOKEN}x", 401),
        (f"Bearer {PUSH_TOKEN}", 401),
        (f"Bearer {ADMIN_TOKEN}", 200),  # authorization: {credentials: TOKEN}
        (basic("prometheus", ADMIN_TOKEN), 200),  # basic_auth: {username: prometheus, password: TOKEN}
        (basic("prometheus", PUSH_TOKEN), 401),
    ],
)
async def test_figures_are_for_who_has_the_token(header: str | None, status: int) -> None:
    """As Prometheus brings it; nobody else learns a single figure."""
    async with client_of(Front().app(OWN_URL, GUARD)) as client:
        headers = {} if header is None else {"Authorization": header}
        response = await client.get("/metrics", headers=headers)
    assert response.status_code == status
    assert ("trio_worker_ready" in response.text) == (status == 200)


async def test_whether_it_lives_everybody_may_ask() -> None:
    """`/livez` has no lock, whether it is there or not."""
    async with client_of(guarded([])) as client:
        assert (await client.get("/livez")).status_code != 401


@pytest.mark.parametrize("guard", [Guard(), Guard(None, ADMIN_TOKEN)])
async def test_without_a_token_everybody_may_push(guard: Guard) -> None:
    """WebBuddy itself sends none, unless it is told to."""
    pushed: list[int] = []
    async with client_of(guarded(pushed, guard)) as client:
        assert (await client.post("/api/process-query", json=PUSH)).status_code == 200
    assert pushed == [123]


def test_a_guard_does_not_show_its_tokens() -> None:
    """Not in a traceback with its `repr` either."""
    assert PUSH_TOKEN not in repr(GUARD)
    assert ADMIN_TOKEN not in repr(GUARD)


REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/api/process-query", {"json": PUSH}),
    ("POST", "/api/process-query", {"content": b"x"}),
    ("GET", "/api/process-query", {}),
    ("GET", "/readyz", {}),
    ("GET", "/nothing", {}),
]


@pytest.mark.parametrize(("method", "path", "more"), REQUESTS)
@pytest.mark.parametrize("guard", [Guard(), GUARD])
async def test_each_answer_has_the_headers_of_a_careful_page(
    method: str, path: str, more: dict[str, Any], guard: Guard
) -> None:
    """Nothing of it is kept, framed, guessed at, or loads anything from elsewhere."""
    async with client_of(guarded([], guard)) as client:
        headers: httpx.Headers = (await client.request(method, path, **more)).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    policy = headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "frame-ancestors 'none'", "connect-src 'self'"} <= set(policy)
    assert "http" not in headers["content-security-policy"]
