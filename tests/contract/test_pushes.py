"""How a created query is pushed, by the embedded WebBuddy and by a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path

import attrs
import httpx
import pytest
import trio
import trio.testing

from tests.contract.push_receiver import PushReceiver, receive_pushes
from tests.contract.servers import embedded_server, real_server
from tests.servers import start_django
from trio_worker.testing import WebBuddy


@attrs.frozen
class Pushing:
    """A server that pushes, somebody who creates queries there, and who the pushes go to."""

    api: httpx.AsyncClient
    url: str
    receiver: PushReceiver
    outcomes: Callable[[], tuple[int, int]]

    async def create(self) -> int:
        """Create a query."""
        answer = await self.api.post("/api/queries/", json={"project": 1, "query_text": "x"})
        return int(answer.json()["id"])

    async def outcome(self) -> tuple[int, int]:
        """Wait for the end of the first push; give how many were accepted and how many failed."""
        with trio.fail_after(60):
            while self.outcomes() == (0, 0):
                await self.api.get("/api/users/me/")  # Django tells nobody but its log
        return self.outcomes()


@pytest.fixture
async def receiver() -> AsyncIterator[PushReceiver]:
    """Where the pushes go."""
    async with receive_pushes() as receiver:
        yield receiver


@pytest.fixture(params=["embedded-sockets", "django"])
def pusher(request: pytest.FixtureRequest) -> str:
    """Which server pushes."""
    return str(request.param)


@pytest.fixture
def address() -> Callable[[str], str]:
    """Where the server is told that the worker is; tests override it."""
    return lambda url: url


@pytest.fixture
async def pushing(
    pusher: str, receiver: PushReceiver, address: Callable[[str], str], tmp_path: Path
) -> AsyncIterator[Pushing]:
    """The server, told of the receiver."""
    if pusher == "django":
        with ExitStack() as stack:
            options = ("--push-url", address(receiver.url))
            # In a thread: the receiver lives in this event loop.
            django = await trio.to_thread.run_sync(stack.enter_context, start_django(tmp_path, *options))
            async with real_server(django) as server, server.client(server.service) as api:
                yield Pushing(api, django.url, receiver, lambda: _outcomes_in(django.log))
    else:
        webbuddy = WebBuddy(push_url=address(receiver.url))
        async with embedded_server(webbuddy, sockets=True) as server, server.client(server.service) as api:
            yield Pushing(api, webbuddy.url, receiver, lambda: _outcomes_of(webbuddy))


def _outcomes_in(log: str) -> tuple[int, int]:
    lines = [line for line in log.splitlines() if " webbuddy push of query " in line]
    return sum(" accepted" in line for line in lines), sum(" failed" in line for line in lines)


def _outcomes_of(webbuddy: WebBuddy) -> tuple[int, int]:
    return webbuddy.pushes["accepted"], webbuddy.pushes["failed"]


async def test_push(pushing: Pushing) -> None:
    """A created query is pushed: a JSON POST without the slash and without any authentication."""
    number = await pushing.create()
    push = await pushing.receiver.next()
    assert (push.method, push.target) == ("POST", "/api/process-query")
    assert push.headers["content-type"] == "application/json"
    assert "authorization" not in push.headers
    assert push.body == {"query_id": number, "webbuddy_url": pushing.url}


async def test_each_push_has_its_connection(pushing: Pushing) -> None:
    """Pushes share no connections, and come in any order."""
    numbers = {await pushing.create() for _ in range(5)}
    pushes = [await pushing.receiver.next() for _ in numbers]
    assert {push.body["query_id"] for push in pushes} == numbers
    assert len({push.connection for push in pushes}) == len(numbers)


async def test_no_push_for_a_requeued_query(pushing: Pushing) -> None:
    """A query put back is not pushed again."""
    first = await pushing.create()
    assert (await pushing.receiver.next()).body["query_id"] == first
    await pushing.api.patch(f"/api/queries/{first}/", json={"status": "queued"})
    second = await pushing.create()
    assert (await pushing.receiver.next()).body["query_id"] == second


@pytest.mark.parametrize(("status", "outcomes"), [(200, (1, 0)), (202, (0, 1)), (204, (0, 1)), (500, (0, 1))])
async def test_only_200_is_success(pushing: Pushing, status: int, outcomes: tuple[int, int]) -> None:
    """Exactly 200 counts. Anything else is no reason to push again, and the query stays queued."""
    pushing.receiver.status = status
    number = await pushing.create()
    await pushing.receiver.next()
    assert await pushing.outcome() == outcomes
    assert (await pushing.api.get(f"/api/queries/{number}/")).json()["status"] == "queued"


class TestSlash:
    """The address is joined by string."""

    @pytest.fixture
    def address(self) -> Callable[[str], str]:
        """An address with a slash at its end."""
        return lambda url: f"{url}/"

    async def test_trailing_slash_is_doubled(self, pushing: Pushing) -> None:
        """A slash at its end gives two."""
        await pushing.create()
        assert (await pushing.receiver.next()).target == "//api/process-query"


class TestCredentials:
    """The address may have a user in it."""

    @pytest.fixture
    def address(self) -> Callable[[str], str]:
        """An address with user and password."""
        return lambda url: url.replace("http://", "http://user:secret@")

    async def test_user_in_the_address(self, pushing: Pushing) -> None:
        """User and password become an HTTP Basic header."""
        await pushing.create()
        assert (await pushing.receiver.next()).headers["authorization"] == "Basic dXNlcjpzZWNyZXQ="


class TestNobody:
    """The worker may not be there."""

    @pytest.fixture
    def address(self) -> Callable[[str], str]:
        """An address where nobody listens."""
        return lambda _: "http://127.0.0.1:1"

    async def test_nobody_there(self, pushing: Pushing) -> None:
        """The query is created and stays queued."""
        number = await pushing.create()
        assert await pushing.outcome() == (0, 1)
        assert (await pushing.api.get(f"/api/queries/{number}/")).json()["status"] == "queued"


class _SilentTransport(httpx.AsyncBaseTransport):
    """Takes a push and never answers."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await trio.sleep_forever()
        raise AssertionError


async def test_push_waits_two_seconds(autojump_clock: trio.testing.MockClock) -> None:
    """A worker that does not answer within 2 s is left, in virtual time just as well."""
    webbuddy = WebBuddy(push_url="http://worker", push_transport=_SilentTransport())
    async with webbuddy.running():
        began = trio.current_time()
        webbuddy.add_query("x")
        await webbuddy.until(lambda: webbuddy.pushes["failed"] == 1)
        assert trio.current_time() - began == pytest.approx(2)
