"""`/openapi.json`: it says what there is, all of it and nothing else, and how it is answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
import trio
from hypothesis import HealthCheck, given, settings
from quart_trio import QuartTrio
from schemathesis import Case, GenerationMode
from trio.testing import MockClock

from tests.processes import TOO_LONG, start_worker
from tests.test_guard import ADMIN_TOKEN, GUARD, PUSH_TOKEN
from tests.test_push import OWN_URL, call, client_of, messages, part
from trio_worker.front import Front
from trio_worker.testing import WebBuddy, serve_webbuddy
from trio_worker.web import Guard, make_app

ADMIN = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
PUSH_PATH = "/api/process-query"


async def document_of(app: QuartTrio) -> dict[str, Any]:
    async with client_of(app) as client:
        answer = await client.get("/openapi.json", headers=ADMIN)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    document: dict[str, Any] = answer.json()
    return document


@pytest.mark.parametrize("guard", [Guard(), GUARD])
async def test_it_is_openapi(guard: Guard) -> None:
    """By the schema of OpenAPI 3.1 itself."""
    document = await document_of(Front().app(OWN_URL, guard))
    assert document["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(document).validate()


async def test_it_has_all_routes_and_no_other() -> None:
    """Each path with each of its methods; of an app that has less, less."""
    app = Front().app(OWN_URL)
    there = {
        rule.rule: {method.lower() for method in rule.methods or ()} for rule in app.url_map.iter_rules()
    }
    document = await document_of(app)
    assert {path: {*methods} for path, methods in document["paths"].items()} == there | {PUSH_PATH: {"post"}}
    small = await document_of(make_app(pushed=print, own_url=OWN_URL))
    assert {*small["paths"]} == {PUSH_PATH, "/openapi.json"}


@pytest.mark.parametrize(
    ("guard", "locks"),
    [
        (Guard(), set[str]()),
        (Guard(push_token=PUSH_TOKEN), {"push"}),
        (Guard(admin_token=ADMIN_TOKEN), {"admin"}),
        (GUARD, {"push", "admin"}),
    ],
)
async def test_it_says_where_a_token_is_needed(guard: Guard, locks: set[str]) -> None:
    """And 401 nowhere else; it is what the worker does."""
    app = Front().app(OWN_URL, guard)
    document = await document_of(app)
    schemes = {f"{lock}_{way}" for lock in locks for way in ("basic", "bearer")}
    assert {*document["components"]["securitySchemes"]} == schemes
    async with client_of(app) as client:
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                needed = {name for way in operation.get("security", []) for name in way}
                assert ("401" in operation["responses"]) == bool(needed)
                if path != "/status/events" or needed:  # which has no end
                    answer = await client.request(method, path)
                    assert (answer.status_code == 401) == bool(needed), (method, path)
                assert needed <= schemes


async def test_each_answer_of_a_push_is_there_and_can_come(clock: MockClock) -> None:
    """Statuses that never come are as misleading as those that are missing."""
    broken = make_app(pushed=lambda _: 1 // 0, own_url=OWN_URL)
    app = make_app(pushed=lambda _: None, own_url=OWN_URL, guard=GUARD)
    token = [(b"authorization", f"Bearer {PUSH_TOKEN}".encode())]
    body = b'{"query_id": 1}'
    came = Counter[str]()
    for one, headers, receive in (
        (app, token, messages(part(body, more=False))),
        (app, token, messages(part(b"x", more=False))),
        (app, [], messages(part(body, more=False))),
        (app, token, messages(part(body))),
        (app, token, messages(part(b"x" * 70_000))),
        (broken, [], messages(part(body, more=False))),
    ):
        sent = await call(one, receive, headers=headers)
        came[str(sent[0]["status"])] += 1
    responses = (await document_of(app))["paths"][PUSH_PATH]["post"]["responses"]
    assert {*came} == {*responses}


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    return autojump_clock


async def test_answers_are_as_it_says(tmp_path: Path) -> None:
    """A real worker, asked by schemathesis for all there is, by what the document allows and by what it does
    not, with the tokens and without: no 5xx, no status, type or body that is not there.
    """
    webbuddy = WebBuddy()
    tokens = {"WORKER_PUSH_TOKEN": PUSH_TOKEN, "WORKER_ADMIN_TOKEN": ADMIN_TOKEN}
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(tmp_path, webbuddy_url=url, **tokens) as worker,
    ):
        await worker.until(lambda line: "Running on http://" in line)
        webbuddy.add_query("a question", push=False)  # until it is done the worker may not be ready yet
        with trio.fail_after(TOO_LONG):
            await webbuddy.until(webbuddy.all_ended)
        statuses, operations = await trio.to_thread.run_sync(ask_for_everything, worker.url)
        assert '"level": "error"' not in worker.output
    assert len({label for label, _ in statuses}) == operations - len(EVENTS)
    assert {status for _, status in statuses} == {200, 400, 401}


EVENTS = ("GET /status/events", "HEAD /status/events")
"""An answer without an end, which is not asked for here; tests/test_status_stream.py does."""


def ask_for_everything(url: str) -> tuple[Counter[tuple[str, int]], int]:
    """Ask for each operation; count what was answered, and the operations."""
    document = httpx.get(f"{url}/openapi.json", headers=ADMIN).json()
    operations = [found.ok() for found in schemathesis.openapi.from_dict(document).get_all_operations()]
    statuses = Counter[tuple[str, int]]()
    for operation in operations:
        if operation.label in EVENTS:
            continue
        token, examples = (PUSH_TOKEN, 25) if operation.path == PUSH_PATH else (ADMIN_TOKEN, 2)
        for mode in GenerationMode:
            if mode is GenerationMode.NEGATIVE and operation.path == "/livez":
                continue  # where everybody may ask, and nothing is said, nothing can be wrong
            for headers in ({"Authorization": f"Bearer {token}"}, {}):
                ask(operation, mode, examples, partial(check, url, headers, statuses))
    return statuses, len(operations)


def ask(operation: Any, mode: GenerationMode, examples: int, check: Callable[[Case], None]) -> None:
    """Try some examples, the same ones each time."""
    some = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[*HealthCheck],  # a busy machine is no failure
    )

    @some
    @given(operation.as_strategy(generation_mode=mode))
    def each(case: Case) -> None:
        check(case)

    each()


def check(url: str, headers: dict[str, str], statuses: Counter[tuple[str, int]], case: Case) -> None:
    """Send one request, and hold the answer against the document."""
    answer = case.call_and_validate(base_url=url, headers=headers)
    statuses[case.operation.label, answer.status_code] += 1
