"""What nobody thought of: anything at all as a push, and as WebBuddy's answer.

The same examples each time. Without ``derandomize``, and with more of them, others are found.
"""

from __future__ import annotations

import json
from typing import Any

import attrs
import httpx
import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trio_worker.answer_parser import AnswerParser
from trio_worker.answers import judge, retry_after, server_date
from trio_worker.errors import WebBuddyError
from trio_worker.query import Query
from trio_worker.records import read_account, read_entry, read_project, read_query
from trio_worker.web import PushCounts, make_app

# No deadline: a busy machine is no failure. No database: a checkout stays as it is.
many = settings(max_examples=300, deadline=None, database=None, derandomize=True)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
keys = st.sampled_from(
    [
        "id",
        "query_id",
        "project",
        "user",
        "query_text",
        "query_created",
        "query_started",
        "answer_text",
        "detail",
    ]
)
objects = st.dictionaries(keys | st.text(max_size=8), json_values, max_size=8)
bodies = st.binary(max_size=300) | (objects | json_values).map(lambda value: json.dumps(value).encode())


def ask(body: bytes) -> tuple[int, PushCounts, list[int]]:
    """Send a push to the app, without a socket."""
    pushed: list[int] = []
    counts = PushCounts()
    app = make_app(pushed=pushed.append, own_url="http://webbuddy", counts=counts)

    async def post() -> int:
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
            return (await client.post("/api/process-query", content=body)).status_code

    return trio.run(post), counts, pushed


@pytest.mark.usefixtures("events")
@settings(many, max_examples=100)
@example(b'{"query_id": 1e400}')
@example(b"[" * 10_000)
@example(b'{"query_id": 1, "query_id": "x"}')
@given(bodies)
def test_any_push(body: bytes) -> None:
    """It is accepted, and then it named a number; or refused, and then it rang nothing."""
    status, counts, pushed = ask(body)
    assert status in (200, 400)
    assert (counts.accepted, counts.refused) == ((1, 0) if status == 200 else (0, 1))
    assert len(pushed) == counts.accepted
    assert all(type(number) is int and 0 < number < 2**63 for number in pushed)


pieces = st.lists(
    st.binary(max_size=80)
    | st.sampled_from(
        [
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.0 404 Not Found\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            b"Content-Length: 2\r\n",
            b"Content-Length: -1\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Keep-Alive: timeout=99999999999\r\n",
            b"Connection: close, keep-alive\r\n",
            b"\r\n",
            b"2\r\n{}\r\n0\r\n\r\n",
            b"{}",
        ]
    ),
    max_size=10,
)


@many
@given(pieces, st.booleans())
def test_any_bytes_as_an_answer(parts: list[bytes], ends: bool) -> None:
    """They are an answer, are not finished, or are refused as httpx would: by an error of the transport's."""
    answer = AnswerParser(1000)
    try:
        for part in filter(None, parts):
            if answer.is_complete:
                break
            answer.feed(part)
        if ends and not answer.is_complete:
            answer.feed(b"")
            assert answer.is_complete
    except httpx.TransportError:
        return
    if answer.is_complete:
        assert answer.usable_for() >= 0
        response = answer.response(httpx.Request("GET", "http://webbuddy/"))
        assert 200 <= response.status_code <= 999
        assert len(response.content) <= 1000


headers = st.fixed_dictionaries(
    {},
    optional={
        name: st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40) | st.just(sample)
        for name, sample in {
            "Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT",
            "Date": "Mon, 00 Jan 0000 00:00:00 -9999",
            "Location": "http://[",
            "Content-Type": "text/html",
        }.items()
    },
)


@many
@given(st.integers(200, 599), headers, bodies)
def test_any_answer_is_judged(status: int, fields: dict[str, str], body: bytes) -> None:
    """It is the API's, or an error of ours that says what came."""
    response = httpx.Response(
        status, headers=fields, content=body, request=httpx.Request("POST", "http://webbuddy/api/logs/")
    )
    server_date(response)
    wait = retry_after(response)
    assert wait is None or wait >= 0
    said = None
    try:
        judge(response)
    except WebBuddyError as error:
        said = str(error)
    assert said is not None or 200 <= status < 300
    assert said is None or (said.startswith("POST /api/logs/: ") and len(said) < 1000)


@many
@given(objects | json_values)
def test_any_json_as_a_record(data: Any) -> None:
    """A query is one, or it is said that it can't be read; of the rest what can be used is used."""
    read_account(data)
    read_entry(data)
    for read in (read_query, lambda value: read_project(1, value)):
        try:
            found = read(data)
        except WebBuddyError:
            continue
        if isinstance(found, Query):
            assert attrs.evolve(Query.from_json(found.to_json()), extra={}) == attrs.evolve(found, extra={})
