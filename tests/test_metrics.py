"""`/metrics`: each figure changes by exactly what has happened, in the formats that Prometheus reads."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import trio
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from structlog.typing import EventDict
from trio.testing import MockClock

from tests.processes import TOO_LONG, start_worker
from tests.scrapes import Watched, parse, watched
from trio_worker import Context, Query, QueryFailed, RetryLater
from trio_worker.figures import FIGURES, PREFIX, Figures
from trio_worker.handlers.loading import handler_of
from trio_worker.tallies import SHORT, Count, Spread, Spreads
from trio_worker.testing import WebBuddy, serve_webbuddy, trio_time
from trio_worker.watchdog import watchdog

ROOT = Path(__file__).parent.parent


async def handle(query: Query, ctx: Context) -> str:
    """Do what the text says."""
    match query.query_text.split():
        case ["fail"]:
            raise QueryFailed("no")
        case ["raise"]:
            raise ZeroDivisionError
        case ["later"] if ctx.attempt == 1:
            raise RetryLater(60, "not now")
        case ["run", seconds]:
            await trio.sleep(float(seconds))
        case ["hold"]:
            with trio.CancelScope(shield=True):
                await trio.sleep(100)
        case ["log", lines]:
            for number in range(int(lines)):
                ctx.log(f"line {number} " + 3000 * "x")
        case ["talk"]:
            for number in range(3):
                ctx.log(f"line {number}")
                await trio.sleep(1)
    return "ok"


async def through(seen: Watched, *texts: str, push: bool = True) -> None:
    """Have queries answered, one after the other, and all of it reported."""
    for text in texts:
        await seen.worker.ask(text, push=push)
    await trio.sleep(1)


# --- Tallies ----------------------------------------------------------------------------------------


def test_a_count_knows_its_kinds() -> None:
    """Those that it was given are there from the start; others when they come."""
    count = Count("a", "b")
    count.add("a")
    count.add("c", 3)
    assert count.by == {"a": 1, "b": 0, "c": 3}


def test_a_spread_has_bounds() -> None:
    """A bound belongs to what is below it, and what is beyond all has a place; below nothing is nothing."""
    spread = Spread((1.0, 2.0))
    for seconds in (0.5, 1.0, 1.5, 2.0, 2.1, -5.0):
        spread.add(seconds)
    assert spread.counts == [3, 2, 1]
    assert spread.sum == pytest.approx(7.1)
    spreads = Spreads((1.0,), "a")
    spreads.add("b", 3.0)
    assert {kind: one.counts for kind, one in spreads.by.items()} == {"a": [0, 0], "b": [0, 1]}


def test_only_figures_that_are_known() -> None:
    """A part that names one which is not in the list is a bug that shows at once."""
    with pytest.raises(ValueError, match="no such figures: trio_worker_nonsense"):
        Figures().ask({"nonsense": lambda: 1})


# --- Claims and queries -----------------------------------------------------------------------------


async def test_claims_by_result(autojump_clock: MockClock) -> None:
    """Found, empty, busy, failed, lost; and each that was sent again."""
    async with watched(handle, lost_claims="report") as seen:
        assert await seen.values("claims_total") == {
            "found": 0, "empty": 1, "busy": 0, "failed": 0, "lost": 0,
        }  # fmt: skip
        await through(seen, "x")
        assert await seen.changes("claims_total", "retries_total") == {
            "claims_total": {"found": 1},
            "retries_total": {},
        }
        seen.webbuddy.fail_next(500, calls=2, endpoint="claim_next")
        await through(seen, "x")
        assert await seen.changes("claims_total", "retries_total") == {
            "claims_total": {"found": 1, "busy": 2},
            "retries_total": {"claim": 2},
        }
        seen.webbuddy.fail_next(429, endpoint="claim_next")
        await through(seen, "x")
        assert await seen.changes("claims_total", "retries_total") == {
            "claims_total": {"found": 1, "failed": 1},
            "retries_total": {"claim": 1},
        }
        seen.webbuddy.cut_next(endpoint="claim_next")
        await through(seen, "x")
        assert await seen.changes("claims_total", "retries_total") == {
            "claims_total": {"found": 1, "lost": 1},
            "retries_total": {"claim": 1},
        }


async def test_a_claim_that_a_stop_forestalls_has_not_failed(autojump_clock: MockClock) -> None:
    """It was not sent, and nothing is wrong."""
    async with watched(handle) as seen:
        seen.webbuddy.expire_tokens()
        seen.webbuddy.slow = 1
        seen.webbuddy.add_query("x")
        await trio.sleep(1.5)  # in the middle of the log-in that the claim needs
        seen.worker.stop.ask()
        await seen.worker.ended.wait()
        assert await seen.changes("claims_total") == {}


async def test_queries_by_outcome(autojump_clock: MockClock) -> None:
    """Each way to end is counted once, and failures by kind."""
    async with watched(handle, processing_timeout=10, watch_interval=5) as seen:
        for text, outcome in (("x", "done"), ("fail", "failed"), ("raise", "failed"), ("run 20", "failed")):
            await through(seen, text)
            assert await seen.changes("queries_total") == {outcome: 1}, text
        assert await seen.values("failures_total") == {
            "said_so": 1, "error": 1, "timeout": 1, "left_behind": 0,
        }  # fmt: skip
        await through(seen, "later")
        assert await seen.changes("queries_total") == {"put_aside": 1, "done": 1}
        taken = seen.webbuddy.add_query("run 8")
        await trio.sleep(1)
        seen.webbuddy.set_status(taken, "done", seen.webbuddy.accounts[2])
        await trio.sleep(8)
        assert await seen.changes("queries_total") == {"taken_away": 1}
        seen.webbuddy.add_query("run 9")
        await trio.sleep(1)
        seen.worker.stop.hurry()
        await seen.worker.ended.wait()
        assert await seen.changes("queries_total") == {"put_back": 1}


async def test_what_was_taken_away_between_two_lives(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Somebody has ended it while no worker ran: the next one counts it as taken away."""
    webbuddy = WebBuddy(now=trio_time())
    async with watched(handle, webbuddy, state_dir=tmp_path):
        query = webbuddy.add_query("later")
        await webbuddy.until(lambda: len(query.logs) > 0)
        await trio.sleep(2)
    webbuddy.set_status(query, "done", webbuddy.accounts[2])
    async with watched(handle, webbuddy, state_dir=tmp_path) as seen:
        await trio.sleep(100)
        assert await seen.values("queries_total") == {
            "done": 0, "failed": 0, "put_back": 0, "put_aside": 0, "taken_away": 1,
        }  # fmt: skip


async def test_pick_up_time(autojump_clock: MockClock) -> None:
    """By WebBuddy's clock, by how it was found; not of a query that was claimed before."""
    async with watched(handle, polling_interval=30) as seen:
        await through(seen, "x")
        names = ("pickup_seconds_count", "pickup_seconds_sum")
        assert await seen.changes(*names) == {names[0]: {"push": 1}, names[1]: {}}
        created = trio.current_time()
        query = seen.webbuddy.add_query("x", push=False)
        await seen.webbuddy.until(lambda: query.status == "done")
        assert query.started is not None
        waited = round(query.started - query.created, 6)
        assert 0 < waited <= trio.current_time() - created
        assert await seen.changes(*names) == {names[0]: {"poll": 1}, names[1]: {"poll": waited}}
        await trio.sleep(1000)
        seen.webbuddy.requeue(query.id)
        await trio.sleep(1000)
        assert query.status == "done"
        assert await seen.changes(*names) == {names[0]: {}, names[1]: {}}
        seen.webbuddy.shows_started = False
        await through(seen, "x")
        assert (await seen.changes(*names))[names[0]] == {"push": 1}


async def test_run_time(autojump_clock: MockClock) -> None:
    """How long the handler was at work; each in its bucket."""
    async with watched(handle) as seen:
        await through(seen, "run 4", "run 40")
        changes = await seen.changes("run_seconds_count", "run_seconds_sum", "run_seconds_bucket")
        assert changes["run_seconds_count"] == {"": 2}
        assert changes["run_seconds_sum"] == {"": 44}
        below = {bound: count for bound, count in changes["run_seconds_bucket"].items() if float(bound) < 100}
        assert below == {"5.0": 1, "10.0": 1, "30.0": 1, "60.0": 2}


async def test_time_from_end_to_reported(autojump_clock: MockClock) -> None:
    """Also over an outage, and over a refusal that makes it another result; each counted once."""
    async with watched(handle) as seen:
        names = ("report_delay_seconds_count", "report_delay_seconds_sum")
        seen.webbuddy.slow = 1
        await through(seen, "run 3")
        assert await seen.changes(*names) == {
            names[0]: {"": 1},
            names[1]: {"": 2},
        }  # the last lines, the result
        seen.webbuddy.slow = 0
        seen.webbuddy.fail_next(
            400, endpoint="patch", headers={"Content-Type": "application/json"}, body=b"{}"
        )
        await through(seen, "run 3")
        assert (await seen.changes(*names))[names[0]] == {"": 1}


async def test_consumers(autojump_clock: MockClock) -> None:
    """How many, how many are at work, and for how long they were: what still runs is in it."""
    async with watched(handle, num_workers=3) as seen:
        assert await seen.values("consumers") == {"": 3}
        assert await seen.values("consumers_busy") == {"": 0}
        seen.webbuddy.add_query("run 10")
        seen.webbuddy.add_query("run 20")
        await trio.sleep(5)
        assert await seen.values("consumers_busy") == {"": 2}
        assert await seen.values("consumer_busy_seconds_total") == {"": 10}
        await trio.sleep(10)
        assert await seen.values("consumers_busy") == {"": 1}
        assert await seen.values("consumer_busy_seconds_total") == {"": 25}
        await trio.sleep(10)
        assert await seen.values("consumer_busy_seconds_total") == {"": 30}


async def test_wakeups_by_source(autojump_clock: MockClock) -> None:
    """Push, poll, second look, and those that a claim hands on."""
    async with watched(handle, num_workers=2, polling_interval=100) as seen:
        assert await seen.values("wakeups_total") == {
            "push": 0,
            "poll": 1,
            "second_look": 0,
            "claim": 0,
            "bus": 0,
        }
        seen.webbuddy.push(4711)  # of a query that is not there
        await trio.sleep(5)
        assert await seen.changes("wakeups_total") == {"push": 1, "second_look": 1}
        await trio.sleep(110)
        assert await seen.changes("wakeups_total") == {"poll": 1}
        seen.webbuddy.add_query("x")
        await trio.sleep(1)
        assert await seen.changes("wakeups_total") == {"push": 1}
        seen.webbuddy.add_query("run 1", push=False)
        seen.webbuddy.push(4711)
        await trio.sleep(5)
        # The queue is of unknown length then: two others are woken, and the push is in doubt.
        assert await seen.changes("wakeups_total") == {"push": 1, "claim": 2, "second_look": 1}


# --- The way to WebBuddy ----------------------------------------------------------------------------


async def test_calls_by_endpoint_and_status(autojump_clock: MockClock) -> None:
    """The calls of one query, with how long they took; and one that is refused, breaks or hangs."""
    async with watched(handle, request_timeout=5) as seen:
        seen.webbuddy.slow = 2
        await through(seen, "x")
        await trio.sleep(5)
        names = ("webbuddy_calls_total", "webbuddy_call_seconds_count", "webbuddy_call_seconds_sum")
        assert await seen.changes(*names) == {
            names[0]: {"claim 2xx": 1, "log 2xx": 1, "report 2xx": 1},
            names[1]: {"claim": 1, "log": 1, "report": 1},
            names[2]: {"claim": 2, "log": 2, "report": 2},
        }
        seen.webbuddy.slow = 0
        seen.webbuddy.fail_next(503, endpoint="logs")
        seen.webbuddy.cut_next(endpoint="logs")
        seen.webbuddy.hang_next(endpoint="logs")
        await through(seen, "x")
        await trio.sleep(100)
        changes = await seen.changes(*names, "retries_total")
        assert changes[names[0]]["log 5xx"] == 1
        assert changes[names[0]]["log none"] == 2
        assert changes[names[1]]["log"] == 4
        assert changes[names[2]]["log"] == 5  # the one that hung, to its limit
        assert changes["retries_total"] == {"log": 3}
        seen.webbuddy.fail_next(500, endpoint="patch")
        await through(seen, "x")
        changes = await seen.changes(*names, "retries_total")
        assert changes[names[0]]["report 5xx"] == 1
        assert changes["retries_total"] == {"report": 1}


async def test_an_endpoint_is_none_of_a_query(autojump_clock: MockClock) -> None:
    """Ids stay out of the labels: all that a worker calls has a name, and anything else has one together."""
    async with watched(handle, watch_interval=5, on_crash="rerun") as seen:
        await through(seen, "run 20", "later")
        endpoints = {labels.split()[0] for labels in await seen.values("webbuddy_calls_total")}
    assert endpoints == {"account", "claim", "log", "login", "queries", "query", "refresh", "report"}


async def test_token_renewals(autojump_clock: MockClock) -> None:
    """By refresh, and by a new log-in when that no longer works; a refused one is none."""
    async with watched(handle) as seen:
        assert await seen.values("token_renewals_total") == {"login": 1, "refresh": 0}
        seen.webbuddy.expire_tokens(refresh_tokens=False)
        await through(seen, "x")
        assert await seen.changes("token_renewals_total") == {"refresh": 1}
        seen.webbuddy.expire_tokens()
        await through(seen, "x")
        assert await seen.changes("token_renewals_total") == {"login": 1}
        seen.webbuddy.expire_tokens()
        seen.webbuddy.refuse_logins = True
        seen.webbuddy.add_query("x")
        await trio.sleep(30)
        changes = await seen.changes("token_renewals_total", "webbuddy_calls_total")
        assert changes["token_renewals_total"] == {}
        assert changes["webbuddy_calls_total"]["login 4xx"] == 1


# --- What is held -----------------------------------------------------------------------------------


async def test_held_in_the_journal(autojump_clock: MockClock) -> None:
    """By state, one after the other; and none in the end."""
    async with watched(handle, num_workers=1) as seen:
        nothing = {"running": 0, "waiting": 0, "put_aside": 0, "ended": 0}
        seen.webbuddy.add_query("run 10")
        await trio.sleep(5)
        assert await seen.values("held_queries") == {**nothing, "running": 1}
        seen.webbuddy.down = True
        await trio.sleep(6)
        assert await seen.values("held_queries") == {**nothing, "ended": 1}
        seen.webbuddy.down = False
        await trio.sleep(100)
        assert await seen.values("held_queries") == nothing
        seen.webbuddy.add_query("later")
        await trio.sleep(5)
        assert await seen.values("held_queries") == {**nothing, "put_aside": 1}
        seen.webbuddy.add_query("run 100")
        await trio.sleep(70)
        assert await seen.values("held_queries") == {**nothing, "running": 1, "waiting": 1}


async def test_dead_letters(autojump_clock: MockClock) -> None:
    """A result that is refused for good; it is none of those that are held."""
    async with watched(handle) as seen:
        seen.webbuddy.fail_next(
            400, calls=2, endpoint="patch", headers={"Content-Type": "application/json"}, body=b"{}"
        )
        seen.webbuddy.add_query("x")
        await trio.sleep(10)
        assert await seen.values("dead_letters") == {"": 1}
        assert set((await seen.values("held_queries")).values()) == {0}
        assert (await seen.changes("report_delay_seconds_count")) == {}


async def test_lost_claims(autojump_clock: MockClock) -> None:
    """The time of one is looked into, its query found, and then that is over."""
    async with watched(handle) as seen:
        seen.webbuddy.cut_next(endpoint="claim_next", after_commit=True)
        query = seen.webbuddy.add_query("x")
        await trio.sleep(10)
        assert await seen.values("lost_claims") == {"": 1}
        assert await seen.changes("lost_queries_total") == {}
        await seen.webbuddy.until(lambda: query.status == "queued")
        await trio.sleep(1)
        assert await seen.changes("lost_queries_total") == {"": 1}
        await trio.sleep(600)
        assert await seen.values("lost_claims") == {"": 0}


async def test_token_usage(autojump_clock: MockClock) -> None:
    """Sent, and refused."""

    async def call(query: Query, ctx: Context) -> str:
        await ctx.token_usage(model_name="gpt", request="hi", answer="hello")
        return "ok"

    async with watched(call) as seen:
        for expected in ("sent", "dropped"):
            if expected == "dropped":
                seen.webbuddy.fail_next(
                    400, endpoint="token_usage", headers={"Content-Type": "application/json"}, body=b"{}"
                )
            await through(seen, "x")
            await trio.sleep(1)
            assert await seen.changes("token_usages_total") == {expected: 1}


async def test_log_lines(autojump_clock: MockClock) -> None:
    """One by one, together, left out, refused."""
    async with watched(handle) as seen:
        await through(seen, "talk")
        # "claimed", "started" and line 0 share an entry, and "line 2" and "done" do not.
        assert await seen.changes("log_lines_total") == {"gathered": 3, "sent": 3}
        seen.webbuddy.down = True
        await trio.sleep(1)
        seen.webbuddy.down = False
        await seen.changes()
        await through(seen, "log 200")
        changes = await seen.changes("log_lines_total")
        assert sum(changes.values()) == 203
        assert 100 < changes["dropped"] < 130  # two times 128 000 characters are kept
        seen.webbuddy.fail_next(
            400, endpoint="logs", headers={"Content-Type": "application/json"}, body=b"{}"
        )
        await through(seen, "talk")
        assert await seen.changes("log_lines_total") == {"dropped": 3, "sent": 3}


async def test_left_behind(autojump_clock: MockClock) -> None:
    """While it still runs; and its query has failed."""
    async with watched(handle, processing_timeout=10) as seen:
        seen.webbuddy.add_query("hold")
        await trio.sleep(50)
        assert await seen.values("left_behind") == {"task": 1, "thread": 0}
        assert await seen.values("failures_total") == {"error": 0, "timeout": 0, "left_behind": 1}
        await trio.sleep(60)
        assert await seen.values("left_behind") == {"task": 0, "thread": 0}


STUCK = """
import time

def handle(query, ctx):
    if query.query_text == "stuck":
        time.sleep(3600)
    return "ok"
"""


async def test_a_thread_that_was_left_behind(tmp_path: Path) -> None:
    """In a real worker: its figure says so, and the one of the readiness once there are too many."""
    webbuddy = WebBuddy()
    variables = {"NUM_WORKERS": "1", "WORKER_PROCESSING_TIMEOUT": "0.2", "POLLING_INTERVAL": "0.2"}

    async def look() -> tuple[float, float, float]:
        async with httpx.AsyncClient(timeout=TOO_LONG) as client:
            page = parse((await client.get(f"{worker.url}/metrics")).text)
        return (
            page[f"{PREFIX}left_behind", (("kind", "thread"), ("process", "0"))],
            page[f"{PREFIX}ready", (("process", "0"),)],
            page[f"{PREFIX}not_ready", (("process", "0"), ("reason", "handler"))],
        )

    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(tmp_path, webbuddy_url=url, handler=STUCK, **variables) as worker,
    ):
        await worker.until(lambda line: "Running on http://" in line)
        for text, status, seen in (
            ("well", "done", (0, 1, 0)),
            ("stuck", "failed", (1, 1, 0)),
            ("well", "done", (1, 1, 0)),
            ("stuck", "failed", (2, 0, 1)),
        ):
            query = webbuddy.add_query(text)
            with trio.fail_after(TOO_LONG):
                await webbuddy.until(lambda query=query: query.status in ("done", "failed"))
            assert (query.status, await look()) == (status, seen)


# --- The worker itself ------------------------------------------------------------------------------


async def test_event_loop_delay(events: list[EventDict]) -> None:
    """How long it takes the loop to answer; one that stands still does it when it runs again."""
    delays = Spread(SHORT)
    with watchdog(handler_of(handle, "test:handle"), delays=delays), trio.fail_after(60):
        began = time.monotonic()
        while not events and time.monotonic() - began < 30:
            time.sleep(0.01)  # noqa: ASYNC251 - until it is named: half a second after the question
        while not sum(delays.counts):  # noqa: ASYNC110 - a thread, which tells nobody
            await trio.sleep(0.01)
    assert delays.sum > 0.5


async def test_pushes(autojump_clock: MockClock) -> None:
    """Accepted, refused, and those that name another WebBuddy."""
    async with watched(handle) as seen:
        names = ("pushes_total", "foreign_pushes_total")
        await through(seen, "x")
        assert await seen.changes(*names) == {"pushes_total": {"accepted": 1}, "foreign_pushes_total": {}}
        transport = seen.webbuddy.push_transport
        assert transport is not None
        async with httpx.AsyncClient(transport=transport, base_url="http://worker.test") as client:
            await client.post("/api/process-query", content=b"nonsense")
            body = {"query_id": 1, "webbuddy_url": "http://elsewhere.test"}
            await client.post("/api/process-query", json=body)
        assert await seen.changes(*names) == {
            "pushes_total": {"accepted": 1, "refused": 1},
            "foreign_pushes_total": {"": 1},
        }
        assert await seen.values("pushes_broken") == {"": 0}
        seen.worker.front.health.is_broken = True
        assert await seen.values("pushes_broken") == {"": 1}


async def test_ready_and_live(autojump_clock: MockClock) -> None:
    """As the probes say: during an outage, and with a loop that is stuck."""
    async with watched(handle, polling_interval=10) as seen:
        assert await seen.values("ready") == {"": 1}
        assert set((await seen.values("not_ready")).values()) == {0}
        seen.webbuddy.down = True
        await trio.sleep(200)
        assert await seen.values("ready") == {"": 0}
        reasons = await seen.values("not_ready")
        assert [reason for reason, value in reasons.items() if value] == ["webbuddy"]
        seen.webbuddy.down = False
        await trio.sleep(100)
        assert await seen.values("ready") == {"": 1}
        assert await seen.values("late_loops") == {"": 0}
        seen.worker.front.liveness.watch("a loop that is stuck", lambda: trio.current_time() - 31)
        assert await seen.values("late_loops") == {"": 1}


async def test_before_and_after_the_service(autojump_clock: MockClock) -> None:
    """What is counted stays readable to the end; a page of figures is never an error."""
    async with watched(handle) as seen:
        await through(seen, "x")
        seen.worker.stop.ask()
        await seen.worker.ended.wait()
        await seen.changes()
        assert await seen.values("queries_total") == {
            "done": 1, "failed": 0, "put_back": 0, "put_aside": 0, "taken_away": 0,
        }  # fmt: skip
        assert await seen.values("not_ready") != {}


# --- The page ---------------------------------------------------------------------------------------


async def test_both_formats_parse(autojump_clock: MockClock) -> None:
    """Prometheus's text and OpenMetrics, each by its parser, with the type of each figure."""
    async with watched(handle) as seen:
        await through(seen, "x", "fail")
        plain = await seen.get()
        newer = await seen.get("application/openmetrics-text; version=1.0.0")
    assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert newer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    for families in (
        text_string_to_metric_families(plain.text),
        openmetrics.text_string_to_metric_families(newer.text),
    ):
        kinds = {family.name: family.type for family in families if family.name.startswith(PREFIX)}
        assert kinds.pop(f"{PREFIX}processes") == "gauge"
        assert kinds.pop(f"{PREFIX}build", None) or kinds.pop(f"{PREFIX}build_info")
        assert kinds == {name.removesuffix("_total"): figure.kind for name, figure in FIGURES.items()}


async def test_names_are_as_prometheus_asks(autojump_clock: MockClock) -> None:
    """``_total`` on counters and on nothing else, seconds as the only unit of time, labels without ids."""
    for name, figure in FIGURES.items():
        assert re.fullmatch(r"trio_worker(_[a-z]+)+", name), name
        assert name.endswith("_total") == (figure.kind == "counter"), name
        assert name.endswith("_seconds") == (figure.kind == "histogram"), name
        assert not re.search(r"_(ms|milliseconds|minutes|count|sum|bucket|info)(_|$)", name), name
        assert figure.help.endswith("."), name
        assert not {"id", "query", "user", "le", "quantile", "process", "instance", "job"} & {*figure.labels}
    async with watched(handle) as seen:
        for text in ("x", "fail", "raise", "later"):
            await through(seen, text)
        page = parse((await seen.get()).text)
    for name, labels in page:
        for label, value in labels:
            if name.startswith(PREFIX) and label not in ("process", "le", "version", "python"):
                assert re.fullmatch(r"[a-z_]+|[2-5]xx", value), (name, label)
    # One worker's page stays small however long it runs.
    assert len(page) < 400


async def test_a_process_of_its_own(autojump_clock: MockClock) -> None:
    """CPU time, memory and open files, by the names that all exporters give them."""
    async with watched(handle) as seen:
        page = parse((await seen.get()).text)
    (build,) = (dict(labels) for (name, labels) in page if name == "trio_worker_build_info")
    assert set(build) == {"version", "python"}
    assert page["trio_worker_processes", ()] == 1
    if sys.platform == "linux":
        assert page["process_cpu_seconds_total", (("process", "0"),)] > 0
        assert page["process_resident_memory_bytes", (("process", "0"),)] > 1e6


def test_who_is_not_watched_does_not_pay() -> None:
    """Whoever starts a worker has not imported prometheus_client before somebody asks."""
    code = "import sys, trio_worker.cli.run, trio_worker.service; print('prometheus_client' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
