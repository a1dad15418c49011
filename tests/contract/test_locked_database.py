"""What WebBuddy's default database, SQLite, makes of calls that overlap."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import httpx
import pytest
import trio

from tests.contract.servers import Server, embedded_server, real_server
from tests.servers import DjangoServer
from trio_worker.testing import WebBuddy

CLAIM = "/api/queries/claim_next/"
CLAIMERS = 5
# Far more than it takes: on two cores about half of all parallel claims fail.
ROUNDS = 200


@pytest.fixture(params=["embedded", "embedded-sockets", "django"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which server; only those that certainly are on SQLite."""
    return str(request.param)


@pytest.fixture
async def server(kind: str, django_if_wanted: DjangoServer | None) -> AsyncIterator[Server]:
    """The server, on SQLite."""
    if django_if_wanted is not None:
        async with real_server(django_if_wanted) as server:
            yield server
    else:
        webbuddy = WebBuddy(sqlite=True)
        async with embedded_server(webbuddy, sockets=kind == "embedded-sockets") as server:
            yield server


async def create(api: httpx.AsyncClient) -> int:
    """Create a query."""
    answer = await api.post("/api/queries/", json={"project": 1, "query_text": "x"})
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


async def at_once(*calls: Callable[[], Awaitable[httpx.Response]]) -> list[httpx.Response]:
    """Make calls side by side."""
    answers: list[httpx.Response] = []

    async def make(call: Callable[[], Awaitable[httpx.Response]]) -> None:
        answers.append(await call())

    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(make, call)
    return answers


async def test_parallel_claims_fail(api: httpx.AsyncClient) -> None:
    """Claims side by side: some get 500 with a page; a 500 claimed nothing, a 200 its own query."""
    claimed: list[int] = []
    created = failed = 0
    for _ in range(ROUNDS):
        for _ in range(CLAIMERS):
            await create(api)
            created += 1
        answers = await at_once(*[partial(api.post, CLAIM)] * CLAIMERS)
        claimed += [answer.json()["id"] for answer in answers if answer.status_code == 200]
        failures = [answer for answer in answers if answer.status_code == 500]
        failed += len(failures)
        assert {answer.status_code for answer in answers} <= {200, 500}
        assert all(answer.headers["content-type"].startswith("text/html") for answer in failures)
        if failed:
            break
    assert failed > 0
    assert len(claimed) == len(set(claimed)) == created - failed
    queued = (await api.get("/api/queries/by_status/", params={"status": "queued"})).json()
    assert queued["count"] == failed


async def test_writes_beside_a_claim_make_it_fail(server: Server, api: httpx.AsyncClient) -> None:
    """One claim at a time, but logs and reports beside it: claims fail, the others wait and don't."""
    number = await create(api)
    report = partial(api.patch, f"/api/queries/{number}/", json={"answer_text": "x"})
    log = partial(api.post, "/api/logs/", json={"project": 1, "query": number, "log_data": "x"})
    failed = 0
    for _ in range(ROUNDS):
        await create(api)
        answers = await at_once(report, log, partial(api.post, CLAIM), report, log)
        by_call = {(answer.request.url.path, answer.status_code) for answer in answers}
        assert by_call <= {(f"/api/queries/{number}/", 200), ("/api/logs/", 201), (CLAIM, 200), (CLAIM, 500)}
        failed += (CLAIM, 500) in by_call
        if failed:
            break
    assert failed > 0


async def test_one_call_at_a_time_never_fails(api: httpx.AsyncClient) -> None:
    """When calls take turns, nothing fails."""
    numbers = [await create(api) for _ in range(20)]
    for number in numbers:
        claimed = await api.post(CLAIM)
        assert (claimed.status_code, claimed.json()["id"]) == (200, number)
        logged = await api.post("/api/logs/", json={"project": 1, "query": number, "log_data": "x"})
        reported = await api.patch(f"/api/queries/{number}/", json={"status": "done"})
        assert (logged.status_code, reported.status_code) == (201, 200)


async def test_empty_queue_locks_nothing(api: httpx.AsyncClient) -> None:
    """Claims of an empty queue only read: side by side they all say that it is empty."""
    for _ in range(10):
        answers = await at_once(*[partial(api.post, CLAIM)] * CLAIMERS)
        assert {answer.status_code for answer in answers} == {404}
