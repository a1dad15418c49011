"""Claims: not more than there are free consumers, gently when WebBuddy is ill, seen through when sent."""

from __future__ import annotations

import itertools
from pathlib import Path
from wsgiref.handlers import format_date_time

import attrs
import pytest
import trio
import trio.testing
from structlog.typing import EventDict
from trio.testing import MockClock

from tests.tapped import Body, TappedWebBuddy
from trio_worker import Context, Query, RetryLater, clock
from trio_worker.errors import AccessDenied
from trio_worker.intake import LONGEST_KNOCK
from trio_worker.testing import WebBuddy, open_worker, trio_time

RARELY = 86_400.0

DOWN, UP = "no query can be claimed; trying again", "WebBuddy hands out queries again"


async def quick(query: Query, ctx: Context) -> str:
    await trio.sleep(1)
    return f"answer {query.id}"


def loud(events: list[EventDict]) -> list[str]:
    """What the log says of the way to WebBuddy, above debug; queries' own lines left out."""
    return [event["event"] for event in events if event["log_level"] != "debug" and "query" not in event]


def claims(webbuddy: WebBuddy) -> list[float]:
    return [call.began for call in webbuddy.requests if call.endpoint == "claim_next"]


# --- An outage ---------------------------------------------------------------------------------------


async def test_an_outage_is_said_on_the_way_down_every_ten_minutes_and_on_the_way_up(
    autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """With fifty consumers and a push each second for an hour: seven lines."""
    async with open_worker(quick, num_workers=50) as worker:
        webbuddy = worker.webbuddy
        await trio.sleep(10)
        webbuddy.fail_next(503, calls=10**6, endpoint="claim_next")
        for _ in range(3600):
            worker.front.pushed(1)
            await trio.sleep(1)
        assert loud(events) in ([DOWN] * 5, [DOWN] * 6)
        webbuddy.faults.clear()
        query = await worker.ask("after")
        assert query.status == "done"
        assert loud(events)[5:] in ([UP], [DOWN, UP])
    (up,) = [event for event in events if event["event"] == UP]
    assert 3590 < up["after_seconds"] < 3700


async def test_an_outage_with_many_faces_is_one_outage(
    autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """Refused connections, plain 500s, 503s, garbage, in turn, as a server comes up: two lines."""
    async with open_worker(quick) as worker:
        webbuddy = worker.webbuddy
        await trio.sleep(1)
        webbuddy.add_query("waits")
        webbuddy.down = True
        await trio.sleep(100)
        webbuddy.down = False
        for _ in range(2):  # more would last ten minutes with bad luck, and be said again
            webbuddy.fail_next(500, calls=10, endpoint="claim_next")
            webbuddy.fail_next(502, calls=2, endpoint="claim_next")
            webbuddy.garble_next(calls=1, endpoint="claim_next", after_commit=False)
        await webbuddy.until(webbuddy.all_ended)
        assert loud(events) == [DOWN, UP]


async def test_a_second_outage_is_said_again(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """Two outages are four lines."""
    async with open_worker(quick) as worker:
        for _ in range(2):
            worker.webbuddy.fail_next(503, calls=3, endpoint="claim_next")
            await worker.ask("query")
            await trio.sleep(100)
    assert loud(events)[:4] == [DOWN, UP, DOWN, UP]


@pytest.mark.parametrize("trouble", ["503", "down", "hang", "refused", "html 404", "redirect"])
async def test_claims_back_off_up_to_a_minute_and_come_back(trouble: str, autojump_clock: MockClock) -> None:
    """Fifty consumers, pushes all the time: an hour's outage costs some hundred claims, not 180 000.

    Where nobody answers at all, it is tried every two seconds: that is no claim.
    """
    tries: list[float] = []

    def count(request: object) -> None:
        if "claim_next" in str(getattr(request, "url", "")):
            tries.append(trio.current_time())

    webbuddy = TappedWebBuddy(count)
    async with open_worker(quick, webbuddy=webbuddy, num_workers=50, request_timeout=5) as worker:
        await trio.sleep(100)
        begin = len(tries)
        webbuddy.down, webbuddy.hang = trouble == "down", trouble == "hang"
        if trouble not in ("down", "hang"):
            status = {"503": 503, "refused": 400, "html 404": 404, "redirect": 302}[trouble]
            webbuddy.fail_next(status, calls=10**6, endpoint="claim_next")
        for _ in range(3600):
            worker.front.pushed(1)
            await trio.sleep(1)
        during = tries[begin:]
        # 50: at first each consumer may have had a claim of its own under way.
        most, gap = (60, 67) if trouble != "down" else (LONGEST_KNOCK, LONGEST_KNOCK + 0.1)
        assert 3600 / 1.2 / most < len(during) < 50 + 15_000 / most
        gaps = [later - earlier for earlier, later in itertools.pairwise(during)]
        assert most / 2 < max(gaps) < gap
        webbuddy.faults.clear()
        webbuddy.down = webbuddy.hang = False
        await trio.sleep(1)  # what hung is carried out now, for callers who have long gone
        query = webbuddy.add_query("after")
        with trio.fail_after(most + 10):
            await webbuddy.until(lambda: query.status == "done")


async def test_the_pauses_have_full_jitter(autojump_clock: MockClock) -> None:
    """Drawn from nothing to the ceiling, so that all the workers of a WebBuddy do not come back at once."""
    async with open_worker(quick, polling_interval=RARELY) as worker:
        worker.webbuddy.fail_next(503, calls=10**6, endpoint="claim_next")
        await trio.sleep(6 * 3600)
        gaps = [later - earlier for earlier, later in itertools.pairwise(claims(worker.webbuddy))][10:]
        assert max(gaps) <= 60
        assert min(gaps) < 10
        assert 25 < sum(gaps) / len(gaps) < 35


async def test_the_first_tries_come_soon(autojump_clock: MockClock) -> None:
    """A hiccup of a moment costs a moment."""
    async with open_worker(quick, polling_interval=RARELY) as worker:
        await trio.sleep(10)
        worker.webbuddy.fail_next(503, endpoint="claim_next")
        query = await worker.ask("hiccup")
        assert query.started is not None
        assert query.started - query.created <= 1


@pytest.mark.parametrize("form", ["seconds", "date"])
@pytest.mark.parametrize("status", [503, 429])
async def test_retry_after_is_honoured(form: str, status: int, autojump_clock: MockClock) -> None:
    """All consumers keep to what the server asked for, pushes or not."""
    async with open_worker(quick) as worker:
        webbuddy = worker.webbuddy
        await trio.sleep(10)
        value = "300" if form == "seconds" else format_date_time(webbuddy.now() + 300)
        headers = {"Retry-After": value, "Date": format_date_time(webbuddy.now())}
        webbuddy.fail_next(status, endpoint="claim_next", headers=headers)
        sent_at = webbuddy.now()
        for number in range(10):
            webbuddy.add_query(f"query {number}")
            await trio.sleep(10)
        await webbuddy.until(webbuddy.all_ended)
        first, following, *_ = [began for began in claims(webbuddy) if began >= sent_at]
        assert 299 <= following - first <= 302


async def test_an_outage_that_other_work_interrupts_is_one(autojump_clock: MockClock) -> None:
    """A query that is due again is no end of it, and what follows is gone about gently."""

    async def handle(query: Query, ctx: Context) -> str:
        if query.query_text == "later" and ctx.attempt == 1:
            raise RetryLater(3600, "not now")
        await trio.sleep(0.1 if query.query_text == "later" else 1000)
        return "done"

    async with open_worker(handle, num_workers=5, processing_timeout=86_400) as worker:
        webbuddy, reasons = worker.webbuddy, worker.front.readiness
        later = webbuddy.add_query("later")
        await trio.sleep(10)
        webbuddy.fail_next(503, calls=10**6, endpoint="claim_next")
        await webbuddy.until(lambda: later.status == "done")
        await trio.sleep(3)
        assert 3500 < float(reasons.reasons["webbuddy"].split()[1]) < 3700
        for _ in range(20):
            webbuddy.add_query("long", push=False)
        webbuddy.faults.clear()
        await webbuddy.until(lambda: bool(webbuddy.with_status("in_progress")))
        await trio.sleep(0.9)
        assert not reasons.reasons
        assert len(webbuddy.with_status("in_progress")) == 1
        await trio.sleep(2)
        assert len(webbuddy.with_status("in_progress")) == 5


async def test_an_answer_in_between_ends_an_outage(autojump_clock: MockClock) -> None:
    """WebBuddy falters for long, and hands out a query now and then: then nobody holds back."""
    async with open_worker(quick, num_workers=5, polling_interval=RARELY) as worker:
        webbuddy = worker.webbuddy
        for _ in range(10):
            webbuddy.fail_next(503, calls=3, endpoint="claim_next")
            await worker.ask("one of many")
            await trio.sleep(50)
        for _ in range(5):
            webbuddy.add_query("the last")
        with trio.fail_after(1.1):  # the handler takes 1 s
            await webbuddy.until(webbuddy.all_ended)


async def test_unreachable_at_the_start_it_waits(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """WebBuddy comes up ten minutes after the worker: no crash, and then the work is done."""
    webbuddy = WebBuddy(now=trio_time(), down=True)
    webbuddy.add_query("early", push=False)
    async with open_worker(quick, webbuddy=webbuddy):
        await trio.sleep(600)
        webbuddy.down = False
        with trio.fail_after(70):
            await webbuddy.until(webbuddy.all_ended)
    assert loud(events)[:2] == [DOWN, UP]


# --- A busy SQLite -----------------------------------------------------------------------------------


@pytest.mark.parametrize("failures", range(1, 6))
async def test_some_plain_500s_are_no_outage(
    failures: int, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """One to five in a row: short tries, the wake-up kept, and nothing in the log above debug."""
    async with open_worker(quick, polling_interval=RARELY) as worker:
        await trio.sleep(10)
        worker.webbuddy.fail_next(500, calls=failures, endpoint="claim_next")
        query = await worker.ask("busy")
        assert query.started is not None
        assert query.started - query.created < 3
        assert loud(events) == []


async def test_plain_500s_that_go_on_are_an_outage(
    autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """The sixth in a row: said, and backed off from."""
    async with open_worker(quick, polling_interval=RARELY) as worker:
        await trio.sleep(10)
        worker.webbuddy.fail_next(500, calls=6, endpoint="claim_next")
        await worker.ask("ill")
        assert loud(events) == [DOWN, UP]


@pytest.mark.parametrize("push", [True, False])
async def test_on_sqlite_all_is_done_and_nothing_is_said(
    push: bool, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """5 consumers, 200 queries with a log: a handful of 500s, calls one at a time, and a quiet log."""

    async def handle(query: Query, ctx: Context) -> str:
        for number in range(3):
            ctx.log(f"step {number}")
            await trio.sleep(0.3)
        return f"answer {query.id}"

    webbuddy = WebBuddy(now=trio_time(), sqlite=True)
    async with open_worker(handle, webbuddy=webbuddy, num_workers=5, polling_interval=RARELY if push else 30):
        await trio.sleep(1)
        for number in range(200):
            webbuddy.add_query(f"query {number}", push=push)
        await webbuddy.until(webbuddy.all_ended)
        assert all(
            (query.status, query.answer_text) == ("done", f"answer {query.id}")
            for query in webbuddy.queries.values()
        )
        assert webbuddy.count(status=500) < 30
        assert loud(events) == []


async def test_on_postgresql_nothing_is_held_back(autojump_clock: MockClock) -> None:
    """Without such 500s calls go at once, up to 64 of them."""
    webbuddy = WebBuddy(now=trio_time(), slow=0.1)
    async with open_worker(quick, webbuddy=webbuddy, num_workers=200) as worker:
        await trio.sleep(1)
        for number in range(200):
            worker.webbuddy.add_query(f"query {number}")
        await webbuddy.until(webbuddy.all_ended)
    assert webbuddy.most_under_way == 64


@pytest.mark.parametrize("consumers", [1, 3, 10])
async def test_never_more_claims_than_free_consumers(consumers: int, autojump_clock: MockClock) -> None:
    """Each claim has a consumer that is ready for what it brings."""
    most = 0
    at_work = 0

    async def handle(query: Query, ctx: Context) -> str:
        nonlocal at_work
        at_work += 1
        look()
        await trio.sleep(2)
        at_work -= 1
        return "ok"

    def look() -> None:
        nonlocal most
        claiming = sum(call.endpoint == "claim_next" and call.ended is None for call in webbuddy.requests)
        most = max(most, at_work + claiming)

    webbuddy = TappedWebBuddy(lambda request: look(), slow=0.5)
    async with open_worker(handle, webbuddy=webbuddy, num_workers=consumers):
        for number in range(50):
            webbuddy.add_query(f"query {number}")
        await webbuddy.until(webbuddy.all_ended)
    assert most == consumers


# --- A claim whose answer is lost --------------------------------------------------------------------


async def test_a_slow_claim_is_waited_for(autojump_clock: MockClock) -> None:
    """An answer that takes half a minute still brings its query, which is then worked on."""
    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(quick, webbuddy=webbuddy, request_timeout=30) as worker:
        await trio.sleep(1)
        webbuddy.slow = 28
        query = webbuddy.add_query("slow")
        await webbuddy.until(lambda: query.status == "in_progress")
        webbuddy.slow = 0
        await webbuddy.until(lambda: query.status == "done")
    assert worker.ended.is_set()


async def test_a_lost_claim_before_the_time_was_known(autojump_clock: MockClock) -> None:
    """Our clock is wrong, and the first that tells the right time is the log-in of the very claim."""
    real = trio_time()
    before = clock.source.set(lambda: real() + 1000)
    webbuddy = WebBuddy(now=real)
    webbuddy.fail_next(429, endpoint="login")
    webbuddy.hang_next(endpoint="claim_next", after_commit=True)
    query = webbuddy.add_query("lost", push=False)
    async with open_worker(quick, webbuddy=webbuddy, polling_interval=60):
        with trio.fail_after(300):
            await webbuddy.until(lambda: query.status == "done")
    clock.source.reset(before)
    assert query.statuses == ["queued", "in_progress", "queued", "in_progress", "done"]


# --- Log-in refused ----------------------------------------------------------------------------------


async def test_refused_at_the_start_ends_the_service(
    autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """A wrong password is nothing to wait for: `AccessDenied`, once, and no traceback in the log."""
    with pytest.raises(BaseExceptionGroup) as raised:  # noqa: ASYNC401 - one or more of them
        async with open_worker(quick, password="wrong"):
            await trio.sleep_forever()
    assert raised.value.split(AccessDenied)[1] is None
    assert not [event for event in events if event["log_level"] in ("critical", "error")]


async def test_refused_after_an_outage_at_the_start_ends_the_service(autojump_clock: MockClock) -> None:
    """The first log-in is the first that was answered."""
    webbuddy = WebBuddy(now=trio_time(), down=True)
    async with webbuddy.running(), trio.open_nursery() as nursery:

        async def come_up() -> None:
            await trio.sleep(100)
            webbuddy.down = False

        nursery.start_soon(come_up)
        with pytest.raises(BaseExceptionGroup) as raised:  # noqa: ASYNC401 - one or more of them
            async with open_worker(quick, webbuddy=webbuddy, password="wrong"):
                await trio.sleep_forever()
    assert raised.value.split(AccessDenied)[1] is None


async def test_refused_while_running(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """No claims and a try each minute; what runs goes on, and is reported when the log-in works again."""
    logins = Body("/api/login/")
    webbuddy = TappedWebBuddy(logins)

    async def handle(query: Query, ctx: Context) -> str:
        for number in range(900):
            ctx.log(f"line {number}")
            await trio.sleep(1)
        return "well"

    async with open_worker(handle, webbuddy=webbuddy, processing_timeout=10_000, num_workers=10):
        running = webbuddy.add_query("long")
        await webbuddy.until(lambda: running.status == "in_progress")
        await trio.sleep(1)
        webbuddy.refuse_logins = True
        webbuddy.expire_tokens()
        waiting = [webbuddy.add_query("waits") for _ in range(20)]
        await trio.sleep(1800)
        assert all(query.statuses == ["queued"] for query in waiting)
        assert running.status == "in_progress"
        assert 28 <= len(logins.seen) - 1 <= 31
        assert loud(events) == [DOWN] * 3
        webbuddy.refuse_logins = False
        with trio.fail_after(61):
            await webbuddy.until(lambda: running.status == "done")
        assert loud(events) == [DOWN, DOWN, DOWN, UP]
        await webbuddy.until(webbuddy.all_ended)
        assert webbuddy.count("claim_next", 200) == 21


async def test_a_new_password_is_read_from_its_file(autojump_clock: MockClock, tmp_path: Path) -> None:
    """The operator changes it, and the file; the worker is not started again.

    The file is read in a thread, for which virtual time does not wait: so no times are looked at.
    """
    password_file = tmp_path / "password"
    password_file.write_text("secret\n")
    logins = Body("/api/login/")
    webbuddy = TappedWebBuddy(logins)
    async with open_worker(quick, webbuddy=webbuddy, password="", password_file=password_file) as worker:
        await worker.ask("before")
        (account,) = [account for account in webbuddy.accounts.values() if account.username == "worker"]
        webbuddy.accounts[account.id] = attrs.evolve(account, password="new")
        webbuddy.expire_tokens()
        query = webbuddy.add_query("after")
        await webbuddy.until(lambda: webbuddy.count("login", 401) > 1)
        assert query.status == "queued"
        password_file.write_text("new\n")
        await webbuddy.until(webbuddy.all_ended)
    assert [body["password"] for body in logins.seen][-1] == "new"


@pytest.mark.parametrize("status", [500, 502])
async def test_a_call_that_only_tells_the_time_may_be_ill(status: int, autojump_clock: MockClock) -> None:
    """Before its first claim a worker asks for WebBuddy's clock; it claims without it, too."""
    webbuddy = WebBuddy(now=trio_time())
    webbuddy.fail_next(status, calls=10**9, endpoint="me")
    async with open_worker(quick, webbuddy=webbuddy) as worker:
        assert (await worker.ask("x")).status == "done"


async def test_a_log_in_without_an_answer_is_no_knock(autojump_clock: MockClock) -> None:
    """A server that takes the password and hangs up is ill, and not away: each try may cost it a hash."""
    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(quick, webbuddy=webbuddy, polling_interval=RARELY):
        webbuddy.cut_next(calls=10**6, endpoint="login")
        await trio.sleep(600)
        assert 5 < webbuddy.count("login") < 60
