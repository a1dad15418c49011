"""The client for WebBuddy: what it sends, and that it does no more than it is asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from importlib.metadata import PackageNotFoundError

import httpx
import pytest
import trio.lowlevel

from trio_worker import client as client_module
from trio_worker.client import open_client

URL = "http://webbuddy"


def answering(seen: list[httpx.Request], *answers: httpx.Response) -> httpx.MockTransport:
    left = list(answers)

    def app(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return left.pop(0) if left else httpx.Response(200, json={})

    return httpx.MockTransport(app)


async def test_what_the_client_says_about_itself() -> None:
    """JSON is asked for, in English, uncompressed; the user agent names the worker."""
    seen: list[httpx.Request] = []
    async with open_client(URL, transport=answering(seen)) as client:
        response = await client.send(client.build("GET", "api/users/me/"))
    assert response.json() == {}
    assert dict(seen[0].headers) == {
        "host": "webbuddy",
        "accept": "application/json",
        "accept-encoding": "identity",
        "accept-language": "en",
        "user-agent": seen[0].headers["user-agent"],
    }
    assert seen[0].headers["user-agent"].startswith("trio-worker")


async def test_a_body_is_json() -> None:
    """With its length; what is set on one request's headers is not on the next one's."""
    seen: list[httpx.Request] = []
    async with open_client(URL, transport=answering(seen)) as client:
        for _ in range(2):
            request = client.build("POST", "api/logs/", b"{}")
            assert "Authorization" not in request.headers
            request.headers["Authorization"] = "Bearer x"
            await client.send(request)
    assert [request.content for request in seen] == [b"{}", b"{}"]
    assert seen[0].headers["Content-Type"] == "application/json"
    assert seen[0].headers["Content-Length"] == "2"


@pytest.mark.parametrize("prefix", ["", "/", "/portal", "/portal/"])
async def test_a_path_prefix_is_kept(prefix: str) -> None:
    """Relative URLs are joined to the base with exactly one slash, parameters after them."""
    seen: list[httpx.Request] = []
    async with open_client(URL + prefix, transport=answering(seen)) as client:
        await client.send(client.build("GET", "api/logs/", parameters={"page": "2"}))
    assert str(seen[0].url) == URL + prefix.rstrip("/") + "/api/logs/?page=2"


async def test_a_port_and_a_name_in_another_script_are_named_as_host() -> None:
    """As HTTP wants it."""
    seen: list[httpx.Request] = []
    async with open_client("http://вебадди.рф:8000", transport=answering(seen)) as client:
        await client.send(client.build("GET", "api/logs/"))
    assert seen[0].headers["Host"].startswith("xn--")
    assert seen[0].headers["Host"].endswith(":8000")


async def test_redirects_are_not_followed_and_cookies_not_kept() -> None:
    """A redirect is an answer like any other, and a session cookie never comes back."""
    seen: list[httpx.Request] = []
    headers = {"Location": "http://elsewhere/", "Set-Cookie": "sessionid=1; Path=/"}
    answers = [httpx.Response(301, headers=headers), httpx.Response(301, headers=headers)]
    async with open_client(URL, transport=answering(seen, *answers)) as client:
        for _ in range(2):
            assert (await client.send(client.build("POST", "api/logs/"))).status_code == 301
    assert len(seen) == 2
    assert not any("Cookie" in request.headers for request in seen)


class TwoSteps(httpx.Auth):
    """Asks for something first, and once more when the request is refused."""

    def __init__(self) -> None:
        self.closed = False

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        try:
            answer = yield httpx.Request("POST", f"{URL}/log-in/")
            assert answer.json() == {}  # it has been read
            answer = yield request
            if answer.status_code == 401:
                yield request
        finally:
            self.closed = True


async def test_authorization_is_a_conversation() -> None:
    """All its requests go the same way, and the last answer is the caller's; each is told of."""
    seen: list[httpx.Request] = []
    told: list[object] = []
    answers = [httpx.Response(200, json={}), httpx.Response(401), httpx.Response(201)]
    auth = TwoSteps()
    async with open_client(URL, auth=auth, transport=answering(seen, *answers)) as client:
        client.on_request = lambda request: told.append(request.url.path)
        client.on_response = lambda response: told.append((response.request.url.path, response.is_closed))
        response = await client.send(client.build("POST", "api/logs/"))
    assert response.status_code == 201
    assert auth.closed
    assert told == [
        "/log-in/",
        ("/log-in/", True),
        "/api/logs/",
        ("/api/logs/", True),
        "/api/logs/",
        ("/api/logs/", True),
    ]


async def test_an_error_names_the_request_that_had_no_answer() -> None:
    """Which may be the log-in's. The conversation is over then."""

    def app(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("broken")

    auth = TwoSteps()
    async with open_client(URL, auth=auth, transport=httpx.MockTransport(app)) as client:
        with pytest.raises(httpx.ReadError, match="broken") as caught:
            await client.send(client.build("POST", "api/logs/"))
    assert caught.value.request.url.path == "/log-in/"
    assert auth.closed


async def test_cancelled_the_conversation_is_over_at_once() -> None:
    """It may hold a lock, for which others wait."""

    async def app(request: httpx.Request) -> httpx.Response:
        scope.cancel()
        await trio.lowlevel.checkpoint()
        raise AssertionError

    auth = TwoSteps()
    async with open_client(URL, auth=auth, transport=httpx.MockTransport(app)) as client:
        with trio.CancelScope() as scope:
            await client.send(client.build("POST", "api/logs/"))
        assert auth.closed


async def test_a_checkout_that_was_not_installed_can_call_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a version, the user agent goes without."""

    def unknown(name: str) -> str:
        raise PackageNotFoundError

    monkeypatch.setattr(client_module, "version", unknown)
    seen: list[httpx.Request] = []
    async with open_client(URL, transport=answering(seen)) as client:
        await client.send(client.build("GET", "api/logs/"))
    assert seen[0].headers["User-Agent"] == "trio-worker"
