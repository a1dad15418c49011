"""The benchmarks' WebBuddy answers as the embedded one does, which is held against the real one."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator

import attrs
import httpx
import pytest
import trio

from benchmarks.webbuddy import FastWebBuddy, open_webbuddy
from trio_worker.credentials import Credentials
from trio_worker.errors import NotFound
from trio_worker.query import Query
from trio_worker.testing import WebBuddy, serve_webbuddy
from trio_worker.webbuddy import open_webbuddy as open_client

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks need Linux")

TEXT = 'Проверить "кавычки" \\ и 🎉'
MANY = 60  # more than a page

LOGIN = {"username": "worker", "password": "secret"}
CALLS = [
    ("POST", "/api/queries/claim_next/", None),
    ("POST", "/api/logs/", {"project": 1, "query": 1, "log_data": f" {TEXT}\n"}),
    ("GET", "/api/queries/1/", None),
    ("GET", "/api/queries/1/logs/", None),
    ("GET", "/api/queries/by_status/?status=in_progress", None),
    ("PATCH", "/api/queries/1/", {"status": "done", "answer_text": TEXT}),
    ("PATCH", "/api/queries/7/", {"status": "done"}),
    ("GET", "/api/queries/7/", None),
    ("POST", "/api/queries/claim_next/", None),
    ("GET", "/api/users/me/", None),
]


@pytest.fixture
def fast() -> Iterator[FastWebBuddy]:
    """The benchmarks' WebBuddy."""
    with open_webbuddy() as webbuddy:
        yield webbuddy


@pytest.fixture
async def embedded() -> AsyncIterator[WebBuddy]:
    """The embedded one, on a real socket."""
    webbuddy = WebBuddy()
    async with serve_webbuddy(webbuddy):
        yield webbuddy


def form(value: object) -> object:
    """What does not change from one run to the next: of times and tokens only that they are texts."""
    if isinstance(value, dict):
        varies = {"access", "refresh", "query_created", "query_started", "log_created"}
        return {key: type(inner) if key in varies else form(inner) for key, inner in value.items()}
    return [form(inner) for inner in value] if isinstance(value, list) else value


async def raw_answers(url: str) -> list[tuple[int, str, object]]:
    """Log in, refresh, and make all calls: status, type and form of each answer."""
    async with httpx.AsyncClient(base_url=url, headers={"Accept-Language": "en"}) as client:
        tokens = await client.post("/api/login/", json=LOGIN)
        refreshed = await client.post("/api/token/refresh/", json={"refresh": tokens.json()["refresh"]})
        client.headers["Authorization"] = f"Bearer {refreshed.json()['access']}"
        answers = [tokens, refreshed]
        answers += [await client.request(method, path, json=body) for method, path, body in CALLS]
    return [(one.status_code, one.headers["Content-Type"], form(one.json())) for one in answers]


async def test_each_answer_has_the_form_of_the_embedded_ones(fast: FastWebBuddy, embedded: WebBuddy) -> None:
    """Status, keys, types and all values that are not times or tokens."""
    fast.tell("create", number=1, text=TEXT)
    embedded.add_query(TEXT)
    assert await raw_answers(fast.url) == await raw_answers(embedded.url)


def timeless(query: Query | None) -> Query | None:
    """A query without its times, which have to be aware."""
    if query is None:
        return None
    times = {"query_created": query.query_created, "query_started": query.query_started}
    assert all(time is None or time.tzinfo is not None for time in times.values())
    return attrs.evolve(query, **dict.fromkeys(times))


async def read_by_our_client(url: str) -> list[object]:
    """What our client makes of the answers, in the course of a few queries' lives."""
    found: list[object] = []
    credentials = Credentials("worker", "secret")
    async with open_client(url=url, credentials=credentials, request_timeout=30) as client:
        account = await client.me()
        assert account is not None
        found.append((account.id, account.username, account.project))
        claimed = []
        for _ in range(MANY + 1):
            async with client.turns:
                claimed.append(await client.claim_next())
        found += map(timeless, claimed)
        found += [timeless(query) for query in await client.in_progress()]
        first, second = claimed[0], claimed[1]
        assert first is not None
        assert second is not None
        await client.add_log(first, TEXT)
        await client.report(first.id, status="done", answer_text=TEXT)
        await client.report(second.id, status="queued")
        found += [timeless(await client.get_query(query.id)) for query in (first, second)]
        found += [(entry.id, entry.text) for entry in await client.log_entries(first.id)]
        with pytest.raises(NotFound) as caught:
            await client.report(MANY + 7, status="done")
        found.append(caught.value.by_api)
        async with client.turns:
            found.append(timeless(await client.claim_next()))  # the one that was put back
        assert client.server_date is not None
    return found


async def test_our_client_reads_it_as_it_reads_the_embedded_one(
    fast: FastWebBuddy, embedded: WebBuddy
) -> None:
    """Also several pages, an empty queue, and a query that was put back."""
    fast.tell("create", number=MANY, text=TEXT)
    for _ in range(MANY):
        embedded.add_query(TEXT)
    read = await read_by_our_client(fast.url)
    assert read[1 + MANY] is None
    assert read == await read_by_our_client(embedded.url)


async def test_it_counts_and_dates_what_happens(fast: FastWebBuddy) -> None:
    """What the figures are made of: numbers of calls by kind; creation, claim and report in their order."""
    fast.tell("create", number=1, text=TEXT)
    await raw_answers(fast.url)
    assert fast.counts()["calls"] == {
        "login": 1,
        "refresh": 1,
        "claim": 1,
        "claim_empty": 1,
        "log": 1,
        "report": 2,
        "read": 2,
        "query_logs": 1,
        "by_status": 1,
        "me": 1,
    }
    (query,) = fast.tell("queries", after=0)
    assert query["created"] < query["claimed"] < query["ended"]
    assert (query["status"], query["answer"], query["entries"]) == ("done", TEXT, 1)


async def refused(url: str) -> bool:
    """Whether nobody listens there."""
    try:
        async with httpx.AsyncClient() as client:
            await client.get(f"{url}/api/users/me/")
    except httpx.ConnectError:
        return True
    return False


async def test_it_goes_down_and_comes_back_at_the_same_address(fast: FastWebBuddy) -> None:
    """Connections that are open end with it."""
    host, port = fast.url.removeprefix("http://").split(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(b"GET /api/users/me/ HTTP/1.1\r\nHost: test\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 OK\r\n")
        fast.tell("down")
        with trio.fail_after(30):
            assert await stream.receive_some() == b""
    assert await refused(fast.url)
    fast.tell("up")
    assert not await refused(fast.url)
