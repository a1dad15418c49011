"""`/livez`: a loop that is stuck is named; whatever takes long but goes on is no illness."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from tests.journals import Disk
from trio_worker import Context, Query
from trio_worker.journal_rows import fact
from trio_worker.journal_writer import LAZY, JournalWriter
from trio_worker.liveness import Liveness, Pulse
from trio_worker.testing import RunningWorker, WebBuddy, open_worker, trio_time
from trio_worker.ticker import look_again, tick
from trio_worker.wakeups import Wakeups


async def livez(worker: RunningWorker) -> httpx.Response:
    assert worker.webbuddy.push_transport is not None
    transport = worker.webbuddy.push_transport
    async with httpx.AsyncClient(transport=transport, base_url="http://worker.test") as client:
        return await client.get("/livez")


async def quick(query: Query, ctx: Context) -> str:
    return "ok"


# --- One loop ---------------------------------------------------------------------------------------


async def test_half_a_minute_is_put_up_with(autojump_clock: MockClock) -> None:
    """A loop is late from 30 s past its time on, by as many seconds as it is."""
    liveness = Liveness()
    liveness.pulse("other")
    pulse = liveness.pulse("ticker")
    assert liveness.reasons == {}
    pulse.within(10)
    await trio.sleep(40)
    assert liveness.reasons == {}
    await trio.sleep(5)
    assert liveness.reasons == {"ticker": "it should have gone on 35 s ago"}
    pulse.rest()
    assert liveness.reasons == {}


async def test_a_loop_that_has_ended_is_not_late(autojump_clock: MockClock) -> None:
    """Neither one that was cancelled in its sleep, nor all of them behind the end of the service."""
    liveness = Liveness()
    pulse = liveness.pulse("ticker")
    with trio.move_on_after(1):
        await pulse.sleep(10)
    assert pulse.due == math.inf
    pulse.within(1)
    liveness.forget()
    await trio.sleep(100)
    assert liveness.reasons == {}


async def test_the_ticker_names_its_next_tick(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """And the second look names one only while it waits for its second."""
    wakeups, ticker, second = Wakeups(), Pulse(), Pulse()
    nursery.start_soon(tick, wakeups, lambda: 30.0, ticker)
    nursery.start_soon(look_again, wakeups, second)
    for _ in range(10):
        await trio.sleep(20)
        assert 0 < ticker.due - trio.current_time() <= 33
    assert second.due == math.inf
    wakeups.push()
    with wakeups.listen() as listener:
        await wakeups.wait(listener)
        wakeups.found_nothing(wakeups.newest)
    await trio.testing.wait_all_tasks_blocked()
    assert 0.9 <= second.due - trio.current_time() <= 1.1
    await trio.sleep(2)
    assert second.due == math.inf
    nursery.cancel_scope.cancel()


# --- The whole worker -------------------------------------------------------------------------------


async def test_long_is_not_ill(autojump_clock: MockClock) -> None:
    """Ten hours of one query, an idle hour, WebBuddy down for two, a full queue: `/livez` is 200."""

    async def handle(query: Query, ctx: Context) -> str:
        ctx.log("at work")
        await trio.sleep(36_000 if query.query_text == "long" else 20)
        return "ok"

    webbuddy, late = WebBuddy(now=trio_time(), access_lifetime=300), []
    async with (
        open_worker(
            handle,
            webbuddy=webbuddy,
            num_workers=2,
            processing_timeout=40_000,
            max_processing_time=40_000,
            watch_interval=300,
            polling_interval=120,
        ) as worker,
        trio.open_nursery() as nursery,
    ):

        async def ask_always() -> None:
            while True:
                late.extend(worker.front.liveness.reasons.items())
                await trio.sleep(61)

        nursery.start_soon(ask_always)
        await trio.sleep(3600)
        first = webbuddy.add_query("long")
        second = webbuddy.add_query("long", push=False)
        await webbuddy.until(lambda: first.status == second.status == "done")
        webbuddy.down = True
        await trio.sleep(7200)
        for number in range(30):
            webbuddy.add_query(f"short {number}", push=False)
        webbuddy.down = False
        await trio.sleep(60)
        webbuddy.fail_next(503, calls=50)
        await webbuddy.until(webbuddy.all_ended)
        answer = await livez(worker)
        assert (answer.status_code, answer.json()) == (200, {"live": True, "reasons": {}})
        nursery.cancel_scope.cancel()
    assert late == []
    assert worker.front.liveness._loops == {}


async def test_slow_is_not_ill(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Nor is a loop that waits for others: for calls of 25 s, one by one, or for a disk that hangs."""
    webbuddy, late, disk = WebBuddy(now=trio_time()), [], Disk()

    async def handle(query: Query, ctx: Context) -> str:
        await trio.sleep(2000)
        return "ok"

    async with (
        open_worker(
            handle, webbuddy=webbuddy, state_dir=tmp_path, processing_timeout=3000, polling_interval=1000
        ) as worker,
        trio.open_nursery() as nursery,
    ):

        async def ask_always() -> None:
            while True:
                late.extend(worker.front.liveness.reasons.items())
                await trio.sleep(1)

        nursery.start_soon(ask_always)
        await trio.sleep(1)
        webbuddy.cut_next(endpoint="claim_next", after_commit=True)
        for number in range(6):
            webbuddy.add_query(f"question {number}")
        await trio.sleep(10)
        webbuddy.slow = 25
        await trio.sleep(600)
        webbuddy.slow = 0
        assert worker.journal is not None
        worker.journal._runner, disk.stuck = disk, True
        await trio.sleep(200)
        disk.go_on()
        await webbuddy.until(webbuddy.all_ended)
        nursery.cancel_scope.cancel()
    assert late == []


class StuckTransport(httpx.AsyncBaseTransport):
    """A way to WebBuddy on which some calls hang and can't be cancelled, as nothing of ours should."""

    def __init__(self, inner: httpx.AsyncBaseTransport, hang: trio.Event) -> None:
        self.inner = inner
        self.let_go = hang
        self.path = "nothing"

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith(self.path):
            with trio.CancelScope(shield=True):
                await self.let_go.wait()
        return await self.inner.handle_async_request(request)


class StuckWebBuddy(WebBuddy):
    """One behind a `StuckTransport`."""

    def transport(self) -> Any:
        self.way = StuckTransport(super().transport(), trio.Event())
        return self.way


@pytest.mark.parametrize(
    ("path", "loop", "seconds"),
    [
        ("/api/queries/claim_next/", "claims", 30 + 31),
        ("/api/logs/", "log shipper", 30 + 120),
        ("/api/queries/1/", "reporter", 30 + 120),
    ],
)
async def test_a_loop_that_is_stuck_is_named(
    path: str, loop: str, seconds: float, autojump_clock: MockClock
) -> None:
    """Half a minute past its deadline, and not before; the call that it hangs in is late as well."""
    webbuddy = StuckWebBuddy(now=trio_time())
    async with open_worker(quick, webbuddy=webbuddy, num_workers=1) as worker:
        await trio.sleep(10)
        webbuddy.way.path = path
        try:
            webbuddy.add_query("a question")
            await trio.sleep(seconds - 2)
            assert loop not in (await livez(worker)).json()["reasons"]
            await trio.sleep(5)
            answer = await livez(worker)
            assert answer.status_code == 503
            assert answer.json()["live"] is False
            assert answer.json()["reasons"][loop].startswith("it should have gone on 3")
            await trio.sleep(60)
            assert "calls to WebBuddy" in (await livez(worker)).json()["reasons"]
        finally:
            webbuddy.way.path = "nothing"
            webbuddy.way.let_go.set()
        await webbuddy.until(webbuddy.all_ended)
        await trio.sleep(5)
        assert (await livez(worker)).status_code == 200


async def test_the_pause_of_an_outage_has_its_time(autojump_clock: MockClock) -> None:
    """While WebBuddy is down the claims mean to go on after each pause."""
    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(quick, webbuddy=webbuddy) as worker:
        await trio.sleep(5)
        claims = worker.front.liveness._loops["claims"]
        assert claims() == math.inf
        webbuddy.down = True
        worker.front.wakeups.tick()
        await trio.sleep(5)
        assert 0 < claims() - trio.current_time() <= 60
        webbuddy.down = False
        await trio.sleep(120)
        assert claims() == math.inf


async def test_so_have_the_pauses_of_a_report_and_of_a_log(autojump_clock: MockClock) -> None:
    """Whichever of them WebBuddy does not take; a log that the result has overtaken is a log again."""
    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(quick, webbuddy=webbuddy) as worker:
        await trio.sleep(5)
        loops = worker.front.liveness._loops
        webbuddy.fail_next(503, endpoint="patch", calls=4)
        query = webbuddy.add_query("a question")
        await webbuddy.until(lambda: webbuddy.count("patch", 503) == 2)
        await trio.sleep(0.1)
        assert 0 <= loops["reporter"]() - trio.current_time() <= 60
        await webbuddy.until(lambda: query.status == "done")
        await trio.sleep(5)
        assert (loops["reporter"](), loops["log shipper"]()) == (math.inf, math.inf)
        webbuddy.fail_next(503, endpoint="logs", calls=1000)
        query = webbuddy.add_query("a question")
        await webbuddy.until(lambda: query.status == "done")
        await trio.sleep(5)
        assert loops["reporter"]() == math.inf
        assert 0 <= loops["log shipper"]() - trio.current_time() <= 60


# --- The journal's writer ---------------------------------------------------------------------------


async def test_the_journal_writer_names_the_end_of_a_commit(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """And a lazy line's time. A disk that does not answer is ill, which is not the loop's fault."""
    disk, written = Disk(), []
    writer = JournalWriter(written.append, disk, name="test")
    nursery.start_soon(writer.run)
    try:
        await trio.sleep(1)
        assert writer.due == math.inf
        writer.write(fact("x", 1), within=LAZY)
        assert writer.due == pytest.approx(trio.current_time() + 0.1)
        await trio.sleep(1)
        assert (len(written), writer.due) == (1, math.inf)
        disk.stuck = True
        writer.write(fact("x", 2))
        await trio.sleep(1)
        assert writer.due == pytest.approx(trio.current_time() + 4)
        writer.write(fact("x", 3), within=LAZY)
        await trio.sleep(600)
        assert writer.illness is not None
        assert writer.due == math.inf
        disk.go_on()
        await trio.sleep(1)
        assert (writer.illness, writer.due) == (None, math.inf)
    finally:
        disk.go_on()
        writer.close()
