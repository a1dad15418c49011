"""The service's promises as a whole, in virtual time and without sockets."""

from __future__ import annotations

import itertools
import random
import re

import pytest
import trio
import trio.testing
from structlog.typing import EventDict
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_worker import Context, Query, QueryFailed
from trio_worker.testing import StoredQuery, WebBuddy, open_worker, trio_time


async def answer(query: Query, ctx: Context) -> str:
    ctx.log("looking")
    await trio.sleep(3)
    return f"answer to {query.query_text}"


async def test_a_pushed_query_is_answered(autojump_clock: MockClock) -> None:
    """A pushed query is claimed at once, logged and answered."""
    async with open_worker(answer) as worker:
        await trio.sleep(1)
        query = await worker.ask("Протестировать авторизацию")
    assert (query.status, query.answer_text) == ("done", "answer to Протестировать авторизацию")
    assert query.statuses == ["queued", "in_progress", "done"]
    assert query.logs == [
        "+0.0s Claimed by test-worker (push) · +0.0s Started, time limit 300 s · +0.0s looking",
        "Done after 3.0 s",
    ]


async def test_two_hundred_queries_while_tokens_expire_all_the_time(
    autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """Half pushed, half found by polling, 5 consumers, tokens of 3 s: each answered, and once."""

    async def handle(query: Query, ctx: Context) -> str:
        ctx.log("working")
        await trio.sleep(random.Random(query.id).uniform(0, 4))  # noqa: S311
        return f"answer {query.id}"

    webbuddy = WebBuddy(now=trio_time(), access_lifetime=3, refresh_lifetime=20, rotate_refresh_tokens=True)
    async with open_worker(handle, webbuddy=webbuddy, num_workers=5):
        for number in range(200):
            webbuddy.add_query(f"query {number}", push=bool(number % 2))
            await trio.sleep(0.1)
        await webbuddy.until(webbuddy.all_ended)
    for query in webbuddy.queries.values():
        assert query.answer_text == f"answer {query.id}"
        assert query.statuses == ["queued", "in_progress", "done"]
    assert webbuddy.count("refresh") > 20
    assert webbuddy.count("login") < 20
    assert not [event for event in events if event["log_level"] in ("warning", "error", "critical")]


async def test_an_ordinary_account_works_on_its_project_only(autojump_clock: MockClock) -> None:
    """WebBuddy shows it no other's queries; those stay queued."""
    async with open_worker(answer, username="member") as worker:
        other = worker.webbuddy.add_query("other", project=2)
        own = await worker.ask("own", project=1)
        await trio.sleep(100)
    assert own.status == "done"
    assert other.statuses == ["queued"]


class BadInterval(float):
    """A bug of the ticker's."""

    def __mul__(self, other: float) -> float:
        if trio.current_time() > 100:
            raise ZeroDivisionError
        return super().__mul__(other)


async def test_a_crash_of_the_ticker_ends_the_service(autojump_clock: MockClock) -> None:
    """Never half alive: without its ticker the worker would miss what is not pushed."""
    webbuddy = WebBuddy(now=trio_time())

    async def handle(query: Query, ctx: Context) -> str:
        await trio.sleep_forever()
        return "never"

    async with webbuddy.running():
        with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
            async with open_worker(
                handle, webbuddy=webbuddy, polling_interval=BadInterval(30), processing_timeout=1000
            ):
                query = webbuddy.add_query("long")
                await trio.sleep_forever()
        assert trio.current_time() < 140
        assert query.statuses == ["queued", "in_progress", "queued"]


# --- Whatever happens --------------------------------------------------------------------------------

LINE = re.compile(r"<(\d+)>")


class Chaos:
    """Makes this and that go wrong, by a seed; nothing of it may lose a claim's answer."""

    def __init__(self, webbuddy: WebBuddy, rng: random.Random) -> None:
        self.webbuddy = webbuddy
        self.rng = rng

    async def run(self) -> None:
        while True:
            await trio.sleep(self.rng.expovariate(1 / 8))
            await self.rng.choice([self.answers, self.cut, self.tokens, self.down, self.slow, self.locked])()

    async def answers(self) -> None:
        endpoint = self.rng.choice(["claim_next", "logs", "patch", "refresh", "login", None])
        status = self.rng.choice([500, 502, 503, 504, 429, 404, 301])
        self.webbuddy.fail_next(status, calls=self.rng.randint(1, 8), endpoint=endpoint)

    async def cut(self) -> None:
        endpoint = self.rng.choice(["logs", "patch"])
        after = self.rng.random() < 0.5
        self.webbuddy.cut_next(calls=self.rng.randint(1, 3), endpoint=endpoint, after_commit=after)
        self.webbuddy.cut_next(endpoint="claim_next")
        self.webbuddy.garble_next(endpoint=endpoint, after_commit=not after)

    async def tokens(self) -> None:
        self.webbuddy.expire_tokens(refresh_tokens=self.rng.random() < 0.5)

    async def down(self) -> None:
        # Not while a claim is under way: its answer would be lost, and its query with it.
        while True:
            await self.webbuddy.until(lambda: not self.claiming())
            await wait_all_tasks_blocked()  # one may have been about to arrive
            if not self.claiming():
                break
        self.webbuddy.down = True
        await trio.sleep(self.rng.uniform(0.1, 100))
        self.webbuddy.down = False

    async def slow(self) -> None:
        self.webbuddy.slow = self.rng.choice([0, 0, 0.01, 0.1, 1])

    async def locked(self) -> None:
        self.webbuddy.sqlite = not self.webbuddy.sqlite

    def claiming(self) -> bool:
        return any(call.endpoint == "claim_next" and call.ended is None for call in self.webbuddy.requests)


@pytest.mark.parametrize("seed", range(16))
async def test_whatever_happens_each_query_ends_once_and_rightly(
    seed: int, autojump_clock: MockClock
) -> None:
    """Random faults, random handlers, two workers' stops in between: the invariants hold."""
    rng = random.Random(seed)  # noqa: S311
    webbuddy = WebBuddy(now=trio_time(), access_lifetime=rng.choice([5, 60, 86_400]))
    runs: dict[int, int] = {}
    settings = {
        "num_workers": rng.choice([1, 3, 10]),
        "polling_interval": rng.choice([5, 30]),
        "processing_timeout": 20,
        "request_timeout": 30,
    }

    async def handle(query: Query, ctx: Context) -> str | None:
        own = random.Random(seed * 1000 + query.id)  # noqa: S311
        runs[query.id] = runs.get(query.id, 0) + 1
        for number in range(own.randint(0, 60)):
            ctx.log(f"<{number}>")
            await trio.sleep(own.expovariate(10))
        if query.query_text == "raise":
            raise ValueError("secret")
        if query.query_text == "refuse":
            raise QueryFailed("No.")
        if query.query_text == "hang":
            await trio.sleep_forever()
        return None if query.query_text == "none" else f"answer {query.id}"

    async with webbuddy.running():
        async with open_worker(handle, webbuddy=webbuddy, **settings) as worker:
            async with trio.open_nursery() as nursery:
                chaos = Chaos(webbuddy, rng)
                nursery.start_soon(chaos.run)
                await create_queries(webbuddy, rng, 30)
                nursery.cancel_scope.cancel()
            webbuddy.faults.clear()
            webbuddy.down, webbuddy.slow = False, 0
        # Stopped in the middle: what it could not finish is in the queue again.
        assert not worker.abandoned.is_set()
        assert not webbuddy.with_status("in_progress")
        async with open_worker(handle, webbuddy=webbuddy, **settings):
            await create_queries(webbuddy, rng, 10)
            with trio.fail_after(1000):
                await webbuddy.until(webbuddy.all_ended)
    for query in webbuddy.queries.values():
        check(query, runs[query.id])


async def create_queries(webbuddy: WebBuddy, rng: random.Random, number: int) -> None:
    for _ in range(number):
        text = rng.choice(["good", "good", "good", "raise", "refuse", "none", "hang"])
        webbuddy.add_query(text, push=rng.random() < 0.5)
        await trio.sleep(rng.expovariate(1 / 2))


def check(query: StoredQuery, runs: int) -> None:
    assert (query.status, query.answer_text) == {
        "good": ("done", f"answer {query.id}"),
        "raise": ("failed", error_sentence(query)),
        "refuse": ("failed", "No."),
        "none": ("failed", "The agent ended without an answer."),
        "hang": ("failed", "The agent ran past its time limit of 20 s and was stopped."),
    }[query.query_text]
    # Ended once; a report whose answer was lost is repeated, and says the same.
    ends = query.statuses[query.statuses.index(query.status) :]
    assert set(ends) == {query.status}
    assert 1 <= runs <= query.statuses.count("in_progress")
    check_log(query)


def error_sentence(query: StoredQuery) -> str:
    return (
        "The agent ended with an error (ValueError)."
        f" The operator of test-worker finds the details under query {query.id}."
    )


def check_log(query: StoredQuery) -> None:
    """In order, each run from the beginning; an entry is there twice when its answer was lost."""
    entries: list[str] = []
    for text in query.logs:
        if not entries or entries[-1] != text:
            entries.append(text)
    numbers = [int(number) for number in LINE.findall(" ".join(entries))]
    for earlier, later in itertools.pairwise(numbers):
        assert later == earlier + 1 or later == 0, numbers


async def test_nobody_waits_for_the_network_twice(autojump_clock: MockClock) -> None:
    """A second for each call, no time for the handlers: each query keeps its consumer for its claim alone.

    Its log and its result travel beside the next ones; by the last of them no query had waited for any.
    """

    async def quick(query: Query, ctx: Context) -> str:
        return "ok"

    webbuddy = WebBuddy(now=trio_time(), slow=1)
    for number in range(100):
        webbuddy.add_query(f"query {number}", push=False)
    async with open_worker(quick, webbuddy=webbuddy, num_workers=1):
        await webbuddy.until(lambda: not webbuddy.with_status("queued"))
        taken = trio.current_time()
        await webbuddy.until(webbuddy.all_ended)
    assert taken <= 2 + 100  # the log-in, and the call that tells WebBuddy's clock
    assert trio.current_time() <= taken + 3  # a log entry and a result


async def test_what_was_worked_on_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    """As many tasks, and as much to remember, after 300 queries as after 3."""

    async def counted() -> tuple[int, int, int]:
        await trio.sleep(1000)
        statistics = trio.lowlevel.current_statistics()
        return statistics.tasks_living, len(worker.journal.entries), len(worker.front.announced.unclaimed)

    async with open_worker(answer) as worker:
        for _ in range(3):
            await worker.ask("query")
        before = await counted()
        for _ in range(297):
            worker.webbuddy.add_query("query")
        await worker.webbuddy.until(worker.webbuddy.all_ended)
        assert await counted() == before
