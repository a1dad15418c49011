"""When claims are sent: enough of them, at once, and hardly one too many. All in virtual time."""

from __future__ import annotations

import tracemalloc

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_worker import Context, Query
from trio_worker.testing import RunningWorker, WebBuddy, open_worker, trio_time
from trio_worker.wakeups import MOST_ASKING, Announcements, Wakeups

RARELY = 86_400.0  # a polling interval that no test lives to see the end of


async def one_second(query: Query, ctx: Context) -> str:
    await trio.sleep(1)
    return "ok"


async def ten_seconds(query: Query, ctx: Context) -> str:
    await trio.sleep(10)
    return "ok"


def new_webbuddy(queries: int = 0, **knobs: object) -> WebBuddy:
    """A WebBuddy with a backlog that nobody is told of."""
    webbuddy = WebBuddy(now=trio_time(), **knobs)  # type: ignore[arg-type]
    for number in range(queries):
        webbuddy.add_query(f"query {number}", push=False)
    return webbuddy


def push_many(worker: RunningWorker, number: int) -> None:
    for count in range(number):
        worker.webbuddy.add_query(f"query {count}")


async def settle(worker: RunningWorker) -> None:
    """Let the first tick's claim find nothing."""
    await worker.webbuddy.until(lambda: worker.webbuddy.count("claim_next") == 1)
    await trio.sleep(5)


async def all_ended(worker: RunningWorker) -> None:
    await worker.webbuddy.until(worker.webbuddy.all_ended)
    await trio.sleep(10)  # for claims that nobody needs


# --- How many claims ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("queries", "consumers"), [(1, 5), (5, 5), (50, 5), (50, 50), (300, 100)])
async def test_pushes_cause_as_many_claims(queries: int, consumers: int, autojump_clock: MockClock) -> None:
    """N pushes at once cause N claims, not N times the number of consumers."""
    async with open_worker(one_second, num_workers=consumers, polling_interval=RARELY) as worker:
        await settle(worker)
        push_many(worker, queries)
        await all_ended(worker)
        assert worker.webbuddy.count("claim_next", 200) == queries
        assert worker.webbuddy.count("claim_next") == 1 + queries  # 1 of the first tick


async def test_sparse_pushes_cause_one_claim_each(autojump_clock: MockClock) -> None:
    """A push into an idle worker costs one claim, also when the query takes longer than the pause."""
    async with open_worker(ten_seconds, polling_interval=RARELY) as worker:
        await settle(worker)
        for number in range(20):
            worker.webbuddy.add_query(f"query {number}")
            await trio.sleep(4)
        await all_ended(worker)
        assert worker.webbuddy.count("claim_next") == 1 + 20


async def test_a_backlog_costs_hardly_more_claims_than_it_has_queries(autojump_clock: MockClock) -> None:
    """1 000 queries that nobody named: 1 000 claims, and at most one empty one for each consumer."""
    webbuddy = new_webbuddy(1000)
    async with open_worker(one_second, webbuddy=webbuddy, num_workers=20, polling_interval=RARELY) as worker:
        await all_ended(worker)
    assert webbuddy.count("claim_next", 200) == 1000
    assert webbuddy.count("claim_next", 404) <= 20


async def test_an_idle_worker_asks_once_a_tick(autojump_clock: MockClock) -> None:
    """Fifty consumers with nothing to do: one claim for each interval, not fifty."""
    async with open_worker(one_second, num_workers=50, polling_interval=30) as worker:
        await trio.sleep(3600)
        assert 3600 / 33 <= worker.webbuddy.count("claim_next") <= 1 + 3600 / 27


async def test_an_id_pushed_twice_costs_two_claims_and_a_second_look(autojump_clock: MockClock) -> None:
    """The same push twice: the second claim finds nothing, and a second later one makes sure."""
    async with open_worker(one_second, polling_interval=RARELY) as worker:
        await settle(worker)
        query = worker.webbuddy.add_query("twice")
        worker.webbuddy.push(query.id)
        await all_ended(worker)
        assert query.statuses == ["queued", "in_progress", "done"]
        assert worker.webbuddy.count("claim_next") <= 1 + 3


async def test_a_push_for_nothing_costs_two_claims(autojump_clock: MockClock) -> None:
    """A push whose query somebody else got: one claim, and one more a second later, then silence."""
    async with open_worker(one_second, polling_interval=RARELY) as worker:
        await settle(worker)
        worker.webbuddy.push(4711)
        await trio.sleep(600)
        assert worker.webbuddy.count("claim_next") == 1 + 2


# --- How soon ----------------------------------------------------------------------------------------


async def test_four_consumers_share_eight_queries(autojump_clock: MockClock) -> None:
    """One tick engages all consumers: 8 queries of 10 s by 4 consumers take 20 s, not 80."""
    webbuddy = new_webbuddy(8)
    async with open_worker(ten_seconds, webbuddy=webbuddy, num_workers=4, polling_interval=RARELY):
        await webbuddy.until(webbuddy.all_ended)
        assert 20 <= trio.current_time() < 20.5


async def test_a_backlog_engages_all_consumers_by_doubling(autojump_clock: MockClock) -> None:
    """1 000 consumers and queries, 50 ms a call: claimed in under 2 s (by a chain of one: 50 s)."""
    webbuddy = new_webbuddy(1000, slow=0.05)
    async with open_worker(ten_seconds, webbuddy=webbuddy, num_workers=1000, polling_interval=RARELY):
        await webbuddy.until(lambda: not webbuddy.with_status("queued"))
        # 64 calls at once: 0.8 s is the least that it can take.
        assert 0.8 < trio.current_time() < 2.0
        await webbuddy.until(webbuddy.all_ended)
    assert webbuddy.count("claim_next", 200) == 1000


async def test_more_consumers_than_queries_cost_few_claims_for_nothing(autojump_clock: MockClock) -> None:
    """1 000 consumers find a backlog of 400: not all of the others ask as well."""
    webbuddy = new_webbuddy(400, slow=0.05)
    async with open_worker(ten_seconds, webbuddy=webbuddy, num_workers=1000, polling_interval=RARELY):
        await webbuddy.until(webbuddy.all_ended)
    assert webbuddy.count("claim_next", 200) == 400
    assert webbuddy.count("claim_next", 404) <= 2 * MOST_ASKING


async def test_doubling_takes_as_many_round_trips_as_the_logarithm(autojump_clock: MockClock) -> None:
    """32 idle consumers, one tick, a second for each call: all at work after 6 round trips, not 32."""
    webbuddy = new_webbuddy(32, slow=1)
    async with open_worker(ten_seconds, webbuddy=webbuddy, num_workers=32, polling_interval=RARELY):
        await webbuddy.until(lambda: not webbuddy.with_status("queued"))
        # The log-in, a call that tells WebBuddy's clock, and 1 + 2 + 4 + 8 + 16 + 1 claims.
        assert trio.current_time() <= 2 + 6


async def test_a_pushed_query_is_claimed_at_once(autojump_clock: MockClock) -> None:
    """The pick-up of a pushed query takes no time beside the call's."""
    async with open_worker(one_second, polling_interval=RARELY) as worker:
        await settle(worker)
        query = await worker.ask("now")
        assert query.started is not None
        assert query.started - query.created < 0.001


async def test_a_push_ahead_of_its_commit_is_found_a_second_later(autojump_clock: MockClock) -> None:
    """The query appears half a second after its push: a second look finds it, not the next poll."""
    async with open_worker(one_second, polling_interval=RARELY) as worker:
        await settle(worker)
        pushed_at = worker.webbuddy.now()
        worker.webbuddy.push(1)
        await trio.sleep(0.5)
        query = worker.webbuddy.add_query("late", push=False)
        await worker.webbuddy.until(lambda: query.status == "done")
        assert query.started is not None
        assert 0.9 <= query.started - pushed_at <= 1.1
        assert "push" in query.logs[0]


async def test_an_older_query_that_nobody_named_is_found_with_the_pushed_one(
    autojump_clock: MockClock,
) -> None:
    """The queue is first in, first out: the older one comes first, and the pushed one is not forgotten."""
    async with open_worker(one_second, polling_interval=RARELY) as worker:
        await settle(worker)
        older = worker.webbuddy.add_query("older", push=False)
        await trio.sleep(100)
        newer = await worker.ask("newer")
        for query in (older, newer):
            assert query.started is not None
            assert query.started - newer.created < 0.1


async def test_queries_put_back_by_another_worker_are_found_together(autojump_clock: MockClock) -> None:
    """What was pushed to us, claimed elsewhere and put back there, is a backlog again: not one a tick."""
    async with open_worker(one_second, polling_interval=100) as worker:
        webbuddy = worker.webbuddy
        await settle(worker)
        # Another worker is quicker each time, so our claims find nothing.
        for number in range(10):
            webbuddy.add_query(f"query {number}", status="in_progress")
        await trio.sleep(5)
        assert webbuddy.pushes["accepted"] == 10
        # It is stopped, and puts them back. Nobody pushes that.
        for query in webbuddy.queries.values():
            webbuddy.set_status(query, "queued", webbuddy.accounts[1])
        await webbuddy.until(webbuddy.all_ended)
        assert trio.current_time() < 120  # one tick, and two rounds of five consumers


async def test_a_push_among_queries_put_back_is_not_left_for_the_poll(autojump_clock: MockClock) -> None:
    """As above, with a new push: its query is claimed at once, with all that stood before it."""
    async with open_worker(one_second, polling_interval=RARELY) as worker:
        webbuddy = worker.webbuddy
        await settle(worker)
        for number in range(10):
            webbuddy.add_query(f"query {number}", status="in_progress")
        await trio.sleep(5)
        for query in list(webbuddy.queries.values()):
            webbuddy.set_status(query, "queued", webbuddy.accounts[1])
        began = trio.current_time()
        await worker.ask("new")
        await webbuddy.until(webbuddy.all_ended)
        assert trio.current_time() - began < 5


async def test_a_push_during_an_empty_claim_is_not_lost(autojump_clock: MockClock) -> None:
    """A wake-up is spent only by a claim sent after it: here the claim was under way when it came."""
    async with open_worker(one_second, num_workers=1, polling_interval=100) as worker:
        webbuddy = worker.webbuddy
        await settle(worker)
        webbuddy.slow = 2
        await webbuddy.until(lambda: webbuddy.under_way == 1)  # the claim of the second tick, due at 100 s
        await trio.sleep(1.5)  # it has looked into the queue; its answer is on the way
        query = await worker.ask("during")
        assert query.started is not None
        assert query.started - query.created < 3


async def test_a_failed_claim_keeps_its_wake_up(autojump_clock: MockClock) -> None:
    """The claim of a push meets a 503: its query is found when claims get through again, not by the poll."""
    async with open_worker(one_second, polling_interval=RARELY) as worker:
        await settle(worker)
        worker.webbuddy.fail_next(503, calls=4, endpoint="claim_next")
        query = await worker.ask("patience")
        assert query.started is not None
        assert query.started - query.created < 1 + 2 + 4 + 8  # the ceilings of the pauses


async def test_all_wake_ups_of_an_outage_are_kept(autojump_clock: MockClock) -> None:
    """Twenty pushes while claims fail: all consumers are engaged as soon as one gets through."""
    async with open_worker(ten_seconds, num_workers=20, polling_interval=RARELY) as worker:
        webbuddy = worker.webbuddy
        await settle(worker)
        webbuddy.fail_next(503, calls=1000, endpoint="claim_next")
        push_many(worker, 20)
        await trio.sleep(100)
        webbuddy.faults.clear()
        await webbuddy.until(lambda: not webbuddy.with_status("queued"))
        began = trio.current_time()
        await webbuddy.until(webbuddy.all_ended)
        assert trio.current_time() - began < 11
        # The outage ends with the claim that one consumer tries again with.
        assert began < 100 + 60 + 5 + 1


# --- How much memory ---------------------------------------------------------------------------------


async def test_ten_thousand_pushes_while_all_are_busy_take_no_memory(autojump_clock: MockClock) -> None:
    """What is left of them is one wake-up, a few numbers and at most 4 096 ids."""
    async with open_worker(ten_seconds, num_workers=2, polling_interval=RARELY) as worker:
        await settle(worker)
        push_many(worker, 2)
        await worker.webbuddy.until(lambda: len(worker.webbuddy.with_status("in_progress")) == 2)
        await trio.sleep(1)
        claims = worker.webbuddy.count("claim_next")
        tracemalloc.start()
        try:
            for number in range(10_000):
                worker.front.pushed(1_000_000 + number)
            after_ten_thousand, _ = tracemalloc.get_traced_memory()
            for number in range(20_000):
                worker.front.pushed(2_000_000 + number)
            assert tracemalloc.get_traced_memory()[0] - after_ten_thousand < 100_000
        finally:
            tracemalloc.stop()
        await trio.sleep(5)
        assert worker.webbuddy.count("claim_next") == claims  # nobody is free to ask
        await trio.sleep(60)
        # The first empty claim says that there is nothing; no 10 000 claims follow.
        assert worker.webbuddy.count("claim_next") <= claims + 2 + 1


# --- The rules, without a worker ---------------------------------------------------------------------


async def asks(wakeups: Wakeups) -> bool:
    """Whether a consumer that is free now would send a claim; it then counts as asking."""
    with wakeups.listen() as listener, trio.move_on_after(0.001):
        await wakeups.wait(listener)
        return True
    return False


async def test_nothing_rung_nothing_asked(autojump_clock: MockClock) -> None:
    """Without a wake-up nobody asks."""
    assert not await asks(Wakeups())


async def test_a_full_channel_means_the_wake_up_is_there(autojump_clock: MockClock) -> None:
    """Ten ticks that nobody listened to are one wake-up."""
    wakeups = Wakeups()
    for _ in range(10):
        wakeups.tick()
    assert await asks(wakeups)
    assert not await asks(wakeups)


async def test_each_push_is_worth_one_claim(autojump_clock: MockClock) -> None:
    """Three pushes that nobody listened to let three consumers ask, and not a fourth."""
    wakeups = Wakeups()
    for _ in range(3):
        wakeups.push()
    assert [await asks(wakeups) for _ in range(4)] == [True, True, True, False]


async def test_a_claim_wakes_two_more_at_once(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A query that nobody named wakes two of the sleeping consumers; each empty claim wakes nobody."""
    wakeups = Wakeups()
    woken: list[int] = []

    async def consumer() -> None:
        with wakeups.listen() as listener:
            await wakeups.wait(listener)
            woken.append(1)

    for _ in range(10):
        nursery.start_soon(consumer)
    await wait_all_tasks_blocked()
    wakeups.tick()
    await wait_all_tasks_blocked()
    assert len(woken) == 1
    wakeups.found(announced=False)
    await wait_all_tasks_blocked()
    assert len(woken) == 3
    wakeups.found_nothing(wakeups.newest)
    await wait_all_tasks_blocked()
    assert len(woken) == 3
    nursery.cancel_scope.cancel()


async def test_an_empty_claim_ends_the_backlog_unless_a_wake_up_came_later(autojump_clock: MockClock) -> None:
    """Only a claim sent after the newest wake-up can say that there is nothing."""
    wakeups = Wakeups()
    wakeups.push()
    assert await asks(wakeups)
    sent_at = wakeups.newest
    wakeups.push()
    assert not wakeups.found_nothing(sent_at)
    assert await asks(wakeups)
    assert wakeups.found_nothing(wakeups.newest)
    assert not await asks(wakeups)


async def test_a_claim_that_failed_leaves_its_wake_up(autojump_clock: MockClock) -> None:
    """Somebody else may ask in its place."""
    wakeups = Wakeups()
    wakeups.tick()
    assert await asks(wakeups)
    wakeups.failed()
    assert await asks(wakeups)
    assert not await asks(wakeups)


async def test_no_more_than_so_many_ask_for_a_backlog(autojump_clock: MockClock) -> None:
    """A backlog of unknown length has 128 consumers asking at once, however many are free."""
    wakeups = Wakeups()
    wakeups.tick()
    assert await asks(wakeups)
    wakeups.found(announced=False)
    asking = [await asks(wakeups) for _ in range(2 * MOST_ASKING)].count(True)
    assert asking == MOST_ASKING
    wakeups.found(announced=False)  # one for one
    assert [await asks(wakeups) for _ in range(10)].count(True) == 1


async def test_one_push_is_one_claim_although_another_is_free_just_now(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Whoever was woken by it counts before he runs; cancelled meanwhile, he leaves no trace."""
    wakeups, woken = Wakeups(), trio.Event()

    async def idle() -> None:
        with wakeups.listen() as listener:
            await wakeups.wait(listener)
            woken.set()

    nursery.start_soon(idle)
    await wait_all_tasks_blocked()
    wakeups.push()
    assert not wakeups.take()
    await woken.wait()
    assert not wakeups.take()
    wakeups.failed()
    assert wakeups.take()


async def test_cancelled_it_has_taken_nothing(autojump_clock: MockClock) -> None:
    """A consumer that is stopped while it waits leaves the wake-up to the next one."""
    wakeups = Wakeups()
    with trio.CancelScope() as scope:
        scope.cancel()
        with wakeups.listen() as listener:
            wakeups.tick()
            await wakeups.wait(listener)
    assert scope.cancelled_caught
    assert await asks(wakeups)


def test_announcements_forget_the_oldest() -> None:
    """Only so many ids are remembered; a name is used up by its query."""
    announced = Announcements(most=3)
    for number in (1, 2, 3, 2, 4, 5):
        announced.add(number)
    assert [announced.take(number, 0)[0] for number in (1, 2, 3, 4, 5, 5)] == [
        False,
        True,
        False,
        True,
        True,
        False,
    ]


def test_a_name_is_out_of_date_once_the_queue_was_empty() -> None:
    """It still says how the query was found, but no longer what else may wait."""
    announced = Announcements()
    announced.add(1)
    announced.add(2)
    announced.add(3)
    claim_under_way = announced.times_empty
    announced.found_empty()
    announced.add(2)
    assert announced.take(1, announced.times_empty) == (True, False)
    assert announced.take(2, announced.times_empty) == (True, True)
    assert announced.take(3, claim_under_way) == (True, True)
    assert announced.take(4, announced.times_empty) == (False, False)


async def test_what_is_put_back_wakes_one_here_or_is_passed_on() -> None:
    """WebBuddy tells nobody of it: an idle worker looks itself, one that has nobody free tells others."""
    wakeups, passed_on = Wakeups(), []
    wakeups.pass_on = passed_on.append
    wakeups.put_back()
    assert passed_on == [0]
    assert await asks(wakeups)  # it is expected here all the same
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asks, wakeups)
        await trio.testing.wait_all_tasks_blocked()
        wakeups.put_back()
    assert passed_on == [0]


async def test_a_claim_that_failed_tells_nothing_of_the_queue() -> None:
    """Whoever was told of a query learns that nothing is known: others may be able to claim it."""
    found: list[bool | None] = []

    async def tell() -> None:
        found.append(await wakeups.told(named=True))

    for answer in ("found", "nothing", "failed"):
        wakeups = Wakeups()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell)
            await trio.testing.wait_all_tasks_blocked()
            wakeups.ask()
            if answer == "found":
                wakeups.found(announced=True)
            elif answer == "nothing":
                wakeups.found_nothing(wakeups.newest)
            else:
                wakeups.failed()
    assert found == [True, False, None]
