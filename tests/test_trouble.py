"""The same trouble, a thousand times: said when it begins, every ten minutes, and when it is over."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import httpx
import pytest
import structlog
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from trio_worker import Context, Query
from trio_worker.testing import WebBuddy, open_worker, trio_time
from trio_worker.trouble import AGAIN, PEACE, Trouble
from trio_worker.web import Guard, PushCounts, make_app

log = structlog.get_logger(__name__)
JSON = {"Content-Type": "application/json"}
MANY = 10**6


def said(events: list[EventDict]) -> list[EventDict]:
    """What an operator reads, who has not asked for more."""
    return [event for event in events if event["log_level"] != "debug"]


def counted(events: list[EventDict], *left_out: str) -> Counter[str]:
    """How often he reads each line, but for what is said of each query."""
    return Counter(event["event"] for event in said(events) if event["event"] not in left_out)


OF_A_QUERY = ("query claimed", "query done")


# --- By itself -----------------------------------------------------------------------------------------


async def test_it_is_said_at_once_and_then_with_how_often(
    autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """Each second for an hour: seven lines, and all others for those who debug."""
    trouble = Trouble(log, "no luck", over="luck again")
    for number in range(3601):
        trouble.happened(number=number)
        await trio.sleep(1)
    trouble.is_over()
    trouble.is_over()
    first, second, *_, last = said(events)
    assert first == {"event": "no luck", "log_level": "warning", "number": 0}
    assert (second["number"], second["times"], second["in_seconds"]) == (600, 600, 600)
    assert last == {"event": "luck again", "log_level": "info", "after_seconds": 3601}
    assert counted(events) == {"no luck": 7, "luck again": 1}
    assert len(events) == 3602


async def test_what_comes_and_goes_by_the_second_is_one_trouble(
    autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """Of ten thousand, each over at once: a pair of lines in ten minutes."""
    trouble = Trouble(log, "no luck", over="luck again")
    for _ in range(10_000):
        trouble.happened()
        await trio.sleep(0.5)
        trouble.is_over()
        await trio.sleep(0.5)
    assert counted(events) == {"no luck": 17, "luck again": 17}


async def test_what_comes_back_after_a_minute_of_peace_is_another_trouble(
    autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """It is said at once, and nothing is counted that belongs to the one before."""
    trouble = Trouble(log, "no luck", over="luck again")
    for pause in (PEACE - 1, PEACE, PEACE):
        trouble.happened()
        trouble.happened()
        trouble.is_over()
        await trio.sleep(pause)
    assert counted(events) == {"no luck": 2, "luck again": 2}
    assert all("times" not in event for event in said(events))


async def test_what_comes_back_at_once_and_lasts_is_said(
    autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """When it has lasted for a minute; and when it is over. The last word is never that all is well."""
    trouble = Trouble(log, "no luck", over="luck again")
    for seconds in (20, 540):
        for _ in range(seconds):
            trouble.happened()
            await trio.sleep(1)
        trouble.is_over()
        await trio.sleep(20)
    assert [event["event"] for event in said(events)] == ["no luck", "luck again"] * 2


async def test_another_face_of_it_is_said_at_once(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """Once each, though they take turns."""
    trouble = Trouble(log, "no luck", level="error")
    for _ in range(100):
        for face in ("down", "refused"):
            trouble.happened(face, face=face)
            await trio.sleep(1)
    assert [(event["face"], event["log_level"]) for event in said(events)] == [
        ("down", "error"),
        ("refused", "error"),
    ]


async def test_without_a_word_for_its_end(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """As of results that are refused: hours later it is said again, alone."""
    trouble = Trouble(log, "no luck")
    trouble.happened()
    await trio.sleep(AGAIN)
    trouble.happened()
    assert [set(event) for event in said(events)] == [{"event", "log_level"}] * 2


# --- In a worker -----------------------------------------------------------------------------------------


async def talk(query: Query, ctx: Context) -> str:
    if query.query_text.startswith("long"):
        ctx.log("this will take long")
        await trio.sleep(float(query.query_text.removeprefix("long")))
    for number in range(3):
        ctx.log(f"line {number}")
        await trio.sleep(1)
    return "ok"


@pytest.mark.parametrize(
    ("endpoint", "status", "lines"),
    [
        ("logs", 400, {"WebBuddy refused a log entry; it is dropped"}),
        ("logs", 503, {"WebBuddy takes no log entries: the result goes first"}),
        (None, 500, {"no query can be claimed; trying again"}),
        (None, 503, {"no query can be claimed; trying again"}),
    ],
)
async def test_half_an_hour_of_trouble(
    endpoint: str | None,
    status: int,
    lines: set[str],
    autojump_clock: MockClock,
    events: list[EventDict],
) -> None:
    """With many consumers, and queries all the time: each line at most four times."""
    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(talk, webbuddy=webbuddy, num_workers=20) as worker:
        await worker.ask("before")
        webbuddy.fail_next(status, calls=MANY, endpoint=endpoint, headers=JSON, body=b"{}")
        for _ in range(45):
            webbuddy.add_query("a question")
            await trio.sleep(40)
        found = counted(events, *OF_A_QUERY)
        webbuddy.faults.clear()
    once = "so many answers to claims were lost that the oldest are no longer looked for;"
    assert {event for event in found if not event.startswith(once)} == lines
    assert all(times <= 4 for times in found.values())
    assert all(times >= 2 for event, times in found.items() if event in lines)
    assert all(event.get("times", 1) > 1 for event in said(events) if "in_seconds" in event)


async def test_a_result_that_is_refused_is_said_of_each_query(
    autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """It is an answer that somebody does not get: in the log and in the figures, however many there are."""
    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(talk, webbuddy=webbuddy) as worker:
        for calls in (1, 1, 2):  # the last: "failed" is refused as well
            webbuddy.fail_next(400, calls=calls, endpoint="patch", headers=JSON, body=b"{}")
            webbuddy.add_query("a question")
            await trio.sleep(30)
        assert worker.front.figures.read()["trio_worker_results_refused_total"] == [([], 3)]
        assert [query.status for query in webbuddy.queries.values()] == ["failed", "failed", "in_progress"]
    refused = [event["query"] for event in events if event["event"].startswith("WebBuddy refused the result")]
    dead = [event["query"] for event in events if event["event"].startswith("WebBuddy refuses every result")]
    assert (refused, dead) == ([1, 2, 3], [3])


async def test_after_an_outage_logs_come_before_results_and_nothing_else_is_said(
    autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """Results have waited, each behind its log, some only just. When WebBuddy is back logs come first."""
    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(talk, webbuddy=webbuddy, num_workers=60, processing_timeout=1000) as worker:
        await worker.ask("before")
        texts = ["a question"] * 10 + [f"long {length}" for length in range(840, 890)]
        queries = [webbuddy.add_query(text) for text in texts]
        await trio.sleep(1)
        webbuddy.down = True
        await trio.sleep(900)
        events.clear()
        webbuddy.down = False
        await webbuddy.until(webbuddy.all_ended)
        assert all("Done after" in query.logs[-1] for query in queries)
        assert counted(events, *OF_A_QUERY) == {"WebBuddy hands out queries again": 1}


async def test_a_state_folder_that_is_gone(
    autojump_clock: MockClock, tmp_path: Path, events: list[EventDict]
) -> None:
    """It is looked at every two seconds for orders, and every ten for neighbours: one line in ten minutes."""
    folder = tmp_path / "state"
    async with open_worker(talk, state_dir=folder) as worker:
        await worker.ask("before")
        (own,) = folder.iterdir()
        own.rename(tmp_path / "elsewhere")
        own.write_text("in its place")
        events.clear()
        await trio.sleep(3600)
        found = counted(events)
        own.unlink()
        (tmp_path / "elsewhere").rename(own)
        await trio.sleep(20)
    assert all(times <= 7 for times in found.values()), found
    assert found["whether the worker is to pause or to drain can't be read"] >= 5
    assert "whether the worker is to pause or to drain can be read again" in counted(events)


# --- From outside ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "token", "event"),
    [
        ("/api/process-query", "wrong", "a push without the right token is refused"),
        ("/metrics", "wrong", "a request without the right token is refused"),
        ("/api/process-query", "push-token", "a request to the push endpoint is no push"),
    ],
)
async def test_ten_thousand_requests_that_are_refused(
    path: str, token: str, event: str, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """One line that says from where, and what to do; the pushes are counted."""
    counts = PushCounts()
    guard = Guard(push_token="push-token", admin_token="admin-token")
    app = make_app(pushed=lambda _id: None, own_url="http://localhost:8000", counts=counts, guard=guard)
    transport = httpx.ASGITransport(app, client=("192.0.2.7", 123))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://worker.test") as client:
        headers = {"Authorization": f"Bearer {token}"}
        for _ in range(1_000):
            await client.request("POST" if "push" in event or "api" in path else "GET", path, headers=headers)
    (line,) = said(events)
    assert (line["event"], line["client"]) == (event, "192.0.2.7")
    assert "token" not in str({**line, "event": ""}).replace("_TOKEN", "")
    assert counts.refused == (0 if path == "/metrics" else 1_000)


async def test_pushes_and_other_requests_are_counted_apart(
    autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """Each line counts what its own hint is for: a push that is refused says nothing of the admin token."""
    guard = Guard(push_token="push-token", admin_token="admin-token")
    app = make_app(pushed=lambda _id: None, own_url="http://localhost:8000", guard=guard)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://worker.test") as client:
        for number in range(int(AGAIN) + 1):
            await client.post("/api/process-query")
            if number % 100 == 0:
                await client.get("/metrics")
            await trio.sleep(1)
    lines = [(line["event"].split()[1], line["hint"].split()[0], line.get("times")) for line in said(events)]
    assert lines == [
        ("push", "FASTAPI_URL", None),
        ("request", "send", None),
        ("push", "FASTAPI_URL", 600),
        ("request", "send", 6),
    ]
