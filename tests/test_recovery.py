"""What was held when a process died: reported, run again, put back, failed, forgotten or left alone."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from tests.forerunner import claimed_by_the_dead, leave_behind, lines
from trio_worker import Context, Query
from trio_worker.errors import AccessDenied
from trio_worker.held import Held
from trio_worker.journal import open_journal
from trio_worker.phrases import ENGLISH
from trio_worker.query import Done, Failed, Released
from trio_worker.runners import inline
from trio_worker.state_folder import Address, StateFolder
from trio_worker.testing import WebBuddy, open_worker, trio_time

RARELY = 86_400.0


class SickReads(httpx.AsyncBaseTransport):
    """A proxy that gives up reading certain queries."""

    def __init__(self, inner: httpx.AsyncBaseTransport, paths: set[str]) -> None:
        self.inner = inner
        self.paths = paths

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET" and request.url.path in self.paths:
            return httpx.Response(504, html="<html>too slow</html>", request=request)
        return await self.inner.handle_async_request(request)


class SickWebBuddy(WebBuddy):
    """A WebBuddy behind such a proxy."""

    def __init__(self) -> None:
        super().__init__(now=trio_time())
        self.sick: set[str] = set()

    def transport(self) -> httpx.AsyncBaseTransport:
        return SickReads(super().transport(), self.sick)


class Agent:
    """A handler that remembers what it was called with."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.called: list[tuple[int, int]] = []
        self.at_work: set[int] = set()
        self.together: list[set[int]] = []

    async def handle(self, query: Query, ctx: Context) -> str:
        self.called.append((query.id, ctx.attempt))
        self.at_work.add(query.id)
        self.together.append(set(self.at_work))
        try:
            await trio.sleep(self.seconds)
        finally:
            self.at_work.discard(query.id)
        return f"answer {query.id}"


def nothing_left(state_dir: Path) -> bool:
    """Whether all journals and locks are gone."""
    return [path for path in state_dir.rglob("*") if path.is_file()] == []


# --- An outcome that was not reported ------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "status", "answer"),
    [
        (Done("Всё работает"), "done", "Всё работает"),
        (Failed("no such page", "said_so"), "failed", "no such page"),
        (Released("stopping"), "queued", ""),
    ],
)
async def test_an_outcome_is_reported_after_its_log(
    outcome: Done | Failed | Released,
    status: str,
    answer: str,
    webbuddy: WebBuddy,
    tmp_path: Path,
    autojump_clock: MockClock,
) -> None:
    """The log entries that were not sent come first, then the outcome; then nothing is left on disk."""
    stored, entry = claimed_by_the_dead(webbuddy, running=False, outcome=outcome, ended_at=webbuddy.now())
    entry.lines = lines("looking", "found")
    leave_behind(tmp_path, webbuddy, [entry])
    webbuddy.sqlite = False
    agent = Agent()
    async with (
        webbuddy.running(),
        open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path, num_workers=1),
    ):
        await webbuddy.until(lambda: len(stored.history) > 2)
        assert (stored.status, stored.answer_text) == (status, answer)
        assert stored.logs == ["+1.0s looking · +2.0s found"]
        assert agent.called == []
        await webbuddy.until(lambda: webbuddy.count("patch", 200) == 1)
    assert stored.statuses[:3] == ["queued", "in_progress", status]
    assert nothing_left(tmp_path) == (status != "queued")  # of what was put back its history is kept


async def test_an_outcome_that_was_taken_is_not_reported_again(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """WebBuddy shows our own answer: the process died before it could note that."""
    stored, entry = claimed_by_the_dead(
        webbuddy, running=False, outcome=Done("ours"), ended_at=webbuddy.now()
    )
    stored.status, stored.answer_text = "done", "ours"
    leave_behind(tmp_path, webbuddy, [entry])
    async with webbuddy.running(), open_worker(Agent().handle, webbuddy=webbuddy, state_dir=tmp_path):
        await trio.sleep(60)
    assert webbuddy.count("patch") == 0
    assert nothing_left(tmp_path)


async def test_only_the_log_is_missing(webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock) -> None:
    """The result had overtaken its log: the rest of the log arrives, and the result is not said again."""
    stored, entry = claimed_by_the_dead(
        webbuddy, running=False, outcome=Done("ours"), ended_at=webbuddy.now(), reported=True
    )
    stored.status, stored.answer_text = "done", "ours"
    entry.lines = lines("late")
    leave_behind(tmp_path, webbuddy, [entry])
    async with webbuddy.running(), open_worker(Agent().handle, webbuddy=webbuddy, state_dir=tmp_path):
        await trio.sleep(60)
    assert stored.logs == ["late"]
    assert webbuddy.count("patch") == 0
    assert nothing_left(tmp_path)


async def test_an_entry_that_had_arrived_is_not_sent_twice(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The process died after WebBuddy had taken an entry, and before that was on disk."""
    stored, entry = claimed_by_the_dead(webbuddy, running=False, outcome=Done("a"), ended_at=webbuddy.now())
    entry.lines = lines("one", "two", "three")
    webbuddy.add_entry(stored, 1, "+1.0s one · +2.0s two")
    leave_behind(tmp_path, webbuddy, [entry])
    async with webbuddy.running(), open_worker(Agent().handle, webbuddy=webbuddy, state_dir=tmp_path):
        await webbuddy.until(webbuddy.all_ended)
    assert stored.logs == ["+1.0s one · +2.0s two", "three"]


# --- A handler that was at work ------------------------------------------------------------------


async def test_it_is_run_again_before_anything_new(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Two that were at work come first, the older queue after them; their authors read why."""
    agent = Agent(seconds=10)
    held = [claimed_by_the_dead(webbuddy) for _ in range(2)]
    leave_behind(tmp_path, webbuddy, [entry for _, entry in held])
    webbuddy.add_query("new", push=False)
    async with (
        webbuddy.running(),
        open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path, num_workers=2),
    ):
        await webbuddy.until(webbuddy.all_ended)
    assert sorted(agent.called[:2]) == [(1, 2), (2, 2)]
    assert agent.called[2] == (3, 1)
    for stored, _ in held:
        assert stored.statuses == ["queued", "in_progress", "done"]
        assert stored.answer_text == f"answer {stored.id}"
        assert "Attempt 2 by test-worker, after the worker had died" in stored.logs[0]
    assert nothing_left(tmp_path)


async def test_nothing_is_claimed_while_webbuddy_can_not_be_asked(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """An hour's outage at the start: then what was held is run, and only then something new."""
    agent = Agent()
    stored, entry = claimed_by_the_dead(webbuddy)
    leave_behind(tmp_path, webbuddy, [entry])
    webbuddy.add_query("new", push=False)
    webbuddy.down = True
    async with (
        webbuddy.running(),
        open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path, num_workers=1),
    ):
        await trio.sleep(3600)
        assert agent.called == []
        webbuddy.down = False
        await webbuddy.until(webbuddy.all_ended)
    assert agent.called == [(1, 2), (2, 1)]
    assert stored.status == "done"


@pytest.mark.parametrize("policy", ["requeue", "fail"])
async def test_other_policies(
    policy: str, webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Put back, and then claimed again like any other; or failed, saying why."""
    agent = Agent()
    stored, entry = claimed_by_the_dead(webbuddy)
    leave_behind(tmp_path, webbuddy, [entry])
    async with (
        webbuddy.running(),
        open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path, on_crash=policy, polling_interval=5),
    ):
        await webbuddy.until(webbuddy.all_ended)
    if policy == "requeue":
        assert stored.statuses == ["queued", "in_progress", "queued", "in_progress", "done"]
        assert agent.called == [(1, 2)]  # its attempts are remembered
    else:
        assert stored.statuses == ["queued", "in_progress", "failed"]
        assert stored.answer_text == "The worker died while it worked on this query."
        assert agent.called == []


async def test_where_reads_are_missing_it_goes_on_without(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A WebBuddy that shows no queries: what is held is taken for ours."""
    agent = Agent()
    webbuddy.missing = frozenset({"read", "by_status", "query_logs"})
    stored, entry = claimed_by_the_dead(webbuddy)
    leave_behind(tmp_path, webbuddy, [entry])
    async with webbuddy.running(), open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path):
        await webbuddy.until(webbuddy.all_ended)
    assert (stored.status, agent.called) == ("done", [(1, 2)])


@pytest.mark.parametrize("status", [500, 502])
async def test_one_that_can_not_be_looked_at_does_not_hold_up_the_rest(
    status: int, webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """An error for each look at one query, be it a proxy's: what is new is claimed all the same."""
    agent = Agent()
    _, entry = claimed_by_the_dead(webbuddy)
    leave_behind(tmp_path, webbuddy, [entry])
    webbuddy.fail_next(status, calls=10**6, endpoint="read")
    async with (
        webbuddy.running(),
        open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path) as worker,
    ):
        query = await worker.ask("new")
        assert query.status == "done"
        assert agent.called == [(2, 1)]
        webbuddy.faults.clear()
        await webbuddy.until(webbuddy.all_ended)


async def test_a_refused_log_in_ends_the_start(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Also when it is not a claim that needs the log-in first: exit 3, not silence."""
    leave_behind(tmp_path, webbuddy, [claimed_by_the_dead(webbuddy)[1]])
    webbuddy.refuse_logins = True
    with pytest.RaisesGroup(AccessDenied, flatten_subgroups=True):
        async with webbuddy.running(), open_worker(Agent().handle, webbuddy=webbuddy, state_dir=tmp_path):
            await trio.sleep(3600)


async def test_it_is_not_ready_before_that_is_done(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """`/readyz` says that what was held is not taken up, while WebBuddy is down."""
    leave_behind(tmp_path, webbuddy, [claimed_by_the_dead(webbuddy)[1]])
    webbuddy.down = True
    async with (
        webbuddy.running(),
        open_worker(Agent().handle, webbuddy=webbuddy, state_dir=tmp_path) as worker,
    ):
        await trio.sleep(60)
        assert list(worker.front.readiness.reasons) == ["login", "recovery"]
        webbuddy.down = False
        await webbuddy.until(webbuddy.all_ended)
        assert worker.front.readiness.reasons == {}


async def test_a_clock_that_was_wrong_puts_nothing_off_for_ever(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Put aside until next year by a machine whose clock was a year ahead: thirty days at most."""
    agent = Agent()
    due = webbuddy.now() + 365 * 86_400
    stored, entry = claimed_by_the_dead(webbuddy, running=False, retries=1, due=due)
    leave_behind(tmp_path, webbuddy, [entry])
    async with (
        webbuddy.running(),
        open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path),
    ):
        await trio.sleep(1)
        autojump_clock.jump(30 * 86_400 - 10)
        assert agent.called == []
        with trio.fail_after(60):
            await webbuddy.until(lambda: stored.status == "done")


# --- No longer ours ------------------------------------------------------------------------------


@pytest.mark.parametrize("has_outcome", [False, True])
@pytest.mark.parametrize("meanwhile", ["requeued", "claimed by another", "answered", "deleted"])
async def test_one_that_is_no_longer_ours_is_forgotten(
    meanwhile: str,
    has_outcome: bool,
    webbuddy: WebBuddy,
    tmp_path: Path,
    autojump_clock: MockClock,
    events: list[EventDict],
) -> None:
    """Nothing is run, logged or reported over what somebody has made of it."""
    agent = Agent()
    ended = {"running": False, "outcome": Done("stale"), "ended_at": 0.0} if has_outcome else {}
    stored, entry = claimed_by_the_dead(webbuddy, **ended)
    entry.lines = lines("stale")
    await trio.sleep(100)
    if meanwhile == "deleted":
        webbuddy.delete_query(stored.id)
    elif meanwhile == "answered":
        stored.status, stored.answer_text = "done", "a person's"
    elif meanwhile == "requeued":
        stored.status = "failed"
    else:
        webbuddy.claim(stored, webbuddy.accounts[2])
    leave_behind(tmp_path, webbuddy, [entry])
    async with webbuddy.running(), open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path):
        await trio.sleep(60)
    assert agent.called == []
    assert (webbuddy.count("patch"), webbuddy.count("logs")) == (0, 0)
    assert [event["event"] for event in events if event["log_level"] == "warning"] == [
        "a query held here is no longer ours; forgotten"
    ]
    assert nothing_left(tmp_path)


async def test_a_database_that_was_reset(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """The number is another query's now: what is held is kept, shown, and never reported to that one."""
    _, entry = claimed_by_the_dead(webbuddy, running=False, outcome=Done("of old"), ended_at=0.0)
    leave_behind(tmp_path, webbuddy, [entry])
    await trio.sleep(100)
    webbuddy.reset_database()
    other, _ = claimed_by_the_dead(webbuddy)
    assert other.id == entry.query.id
    async with (
        webbuddy.running(),
        open_worker(Agent().handle, webbuddy=webbuddy, state_dir=tmp_path) as worker,
    ):
        await trio.sleep(60)
        assert worker.journal is not None
        (kept,) = worker.journal.entries.values()
        assert "reset" in (kept.dead or "")
    assert (other.status, webbuddy.count("patch")) == ("in_progress", 0)
    assert not nothing_left(tmp_path)
    assert any("left alone" in event["event"] for event in events)


async def test_entries_of_another_account_are_left_alone(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Another account's journal is not even opened."""
    _, entry = claimed_by_the_dead(webbuddy)
    path = leave_behind(tmp_path, webbuddy, [entry], account="member")
    async with webbuddy.running(), open_worker(Agent().handle, webbuddy=webbuddy, state_dir=tmp_path):
        await trio.sleep(60)
    assert path.exists()


# --- Who is to blame -----------------------------------------------------------------------------


async def test_the_first_rerun_is_together(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """One death may have been anybody's fault."""
    agent = Agent(seconds=100)
    leave_behind(tmp_path, webbuddy, [claimed_by_the_dead(webbuddy)[1] for _ in range(3)])
    async with webbuddy.running(), open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path):
        await webbuddy.until(webbuddy.all_ended)
    assert agent.together[-1] == {1, 2, 3}


async def test_from_the_second_death_on_suspects_run_alone(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """One at a time, nothing beside them, nothing new before the last of them; innocents go first."""
    agent = Agent(seconds=100)
    entries = [claimed_by_the_dead(webbuddy, deaths=1)[1] for _ in range(3)]
    innocent = claimed_by_the_dead(webbuddy, running=False)[1]
    leave_behind(tmp_path, webbuddy, [*entries, innocent])
    async with webbuddy.running(), open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path) as worker:
        await trio.sleep(1)
        webbuddy.add_query("new")
        worker.front.wakeups.tick()
        await webbuddy.until(webbuddy.all_ended)
    assert [number for number, _ in agent.called] == [4, 1, 2, 3, 5]
    assert all(len(together) == 1 for together in agent.together)


async def test_one_that_kills_the_worker_alone_is_failed_at_last(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Three deaths, each while it was the only one at work: failed, saying so, and not run again."""
    agent = Agent()
    stored, entry = claimed_by_the_dead(webbuddy, deaths=4, blamed=2, attempts=5)
    leave_behind(tmp_path, webbuddy, [entry])
    async with webbuddy.running(), open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path):
        await webbuddy.until(webbuddy.all_ended)
    assert stored.status == "failed"
    assert stored.answer_text == "The worker died 3 times while this query was the only one it worked on."
    assert stored.logs[-1] == stored.answer_text
    assert agent.called == []


@pytest.mark.parametrize("facts", [{"stopping": 1}, {"boot": "another run of the machine"}])
async def test_a_stop_and_a_reboot_blame_nobody(
    facts: dict[str, object], webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Alone at work in a process that was told to stop, or on a machine that went down: run again."""
    agent = Agent()
    stored, entry = claimed_by_the_dead(webbuddy, deaths=4, blamed=2)
    leave_behind(tmp_path, webbuddy, [entry], **facts)
    async with webbuddy.running(), open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path):
        await webbuddy.until(webbuddy.all_ended)
    assert (stored.status, len(agent.called)) == ("done", 1)


async def test_a_suspect_that_was_put_back_runs_alone_too(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """With `requeue` its deaths are remembered, so that it can't kill worker after worker."""
    agent = Agent(seconds=100)
    leave_behind(tmp_path, webbuddy, [claimed_by_the_dead(webbuddy, deaths=1)[1]])
    async with (
        webbuddy.running(),
        open_worker(
            agent.handle, webbuddy=webbuddy, state_dir=tmp_path, on_crash="requeue", polling_interval=5
        ),
    ):
        await webbuddy.until(lambda: webbuddy.queries[1].status == "queued")
        for number in range(3):
            webbuddy.add_query(f"new {number}")
        await webbuddy.until(webbuddy.all_ended)
    assert len(agent.called) == 4
    assert [together for together in agent.together if 1 in together] == [{1}]


async def test_a_left_behind_handler_is_company(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Who is alone at work beside a handler that was given up and runs on is not to blame alone."""
    agent = Agent()
    stored, entry = claimed_by_the_dead(webbuddy, deaths=4, blamed=2)
    leave_behind(tmp_path, webbuddy, [entry], left_behind=1)
    async with webbuddy.running(), open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path):
        await webbuddy.until(webbuddy.all_ended)
    assert (stored.status, len(agent.called)) == ("done", 1)


async def test_a_left_behind_handler_is_written_down(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """So that the journal knows of it when the process dies."""

    async def stubborn(query: Query, ctx: Context) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)
        return "late"

    async with (
        webbuddy.running(),
        open_worker(stubborn, webbuddy=webbuddy, state_dir=tmp_path, processing_timeout=10) as worker,
    ):
        await worker.ask("x")
        await trio.sleep(5)
        assert worker.journal is not None
        assert worker.journal._own.file.load().facts["left_behind"] == 1
        await trio.sleep(100)
        assert worker.journal._own.file.load().facts["left_behind"] == 0


async def test_a_neighbour_remembers_deaths(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Put back by a process that lives on; claimed by another on the same folder: still a suspect."""
    agent = Agent(seconds=100)
    stored, entry = claimed_by_the_dead(webbuddy, deaths=4, blamed=2, attempts=5, running=False)
    stored.status = "queued"
    folder = StateFolder(tmp_path, Address(webbuddy.url, "worker"))
    async with open_journal(folder, runner=inline) as neighbour:
        Held(neighbour, entry, ENGLISH, resumed=True).bury()
        await neighbour.write().durable()
        async with (
            webbuddy.running(),
            open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path, on_crash="requeue") as worker,
        ):
            await webbuddy.until(lambda: agent.called != [])
            assert worker.journal is not None
            (held,) = worker.journal.entries.values()
            assert (held.attempts, held.deaths, held.blamed) == (6, 4, 2)
            await webbuddy.until(webbuddy.all_ended)
    assert agent.called == [(1, 6)]


async def test_the_cap_of_entries_is_for_all_claims_of_a_query(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Put back after a crash and claimed again: of 40 entries 39 are spent. The claim shows at once, or it
    would be taken for lost; the rest waits for the end."""

    async def handle(query: Query, ctx: Context) -> str:
        for number in range(10):
            ctx.log(f"line {number}")
            await trio.sleep(60)
        return "answer"

    stored, entry = claimed_by_the_dead(webbuddy, entries=39, last_number=100)
    leave_behind(tmp_path, webbuddy, [entry])
    async with (
        webbuddy.running(),
        open_worker(
            handle,
            webbuddy=webbuddy,
            state_dir=tmp_path,
            on_crash="requeue",
            polling_interval=5,
            processing_timeout=1000,
        ),
    ):
        await webbuddy.until(webbuddy.all_ended)
    # That it was put back is said with the entry that was left; then there are two for each claim.
    assert len(stored.logs) == 3
    assert stored.entries[1].at - stored.history[-2].at < 1
    assert stored.logs[-1].endswith("Done after 600.0 s")


# --- While it waits for a consumer ---------------------------------------------------------------


async def test_what_waits_is_not_silent(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Else a worker that has lost a claim at that time would take it for lost, and put it back."""
    agent = Agent(seconds=1000)
    entries = [claimed_by_the_dead(webbuddy)[1] for _ in range(3)]
    leave_behind(tmp_path, webbuddy, entries)
    async with (
        webbuddy.running(),
        open_worker(
            agent.handle, webbuddy=webbuddy, state_dir=tmp_path, num_workers=1, processing_timeout=2000
        ),
    ):
        await trio.sleep(2)
        assert len(agent.called) == 1
        assert [len(query.logs) for query in webbuddy.queries.values()] == [1, 1, 1]


@pytest.mark.parametrize("watch_interval", [0, 30])
async def test_what_was_taken_while_it_waited_is_not_run(
    watch_interval: float, webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A person answers a query that waits behind a long one: no handler, no report."""
    agent = Agent(seconds=200)
    first, second = (claimed_by_the_dead(webbuddy) for _ in range(2))
    leave_behind(tmp_path, webbuddy, [first[1], second[1]])
    async with (
        webbuddy.running(),
        open_worker(
            agent.handle,
            webbuddy=webbuddy,
            state_dir=tmp_path,
            num_workers=1,
            watch_interval=watch_interval,
        ),
    ):
        await trio.sleep(50)
        webbuddy.set_status(second[0], "done", webbuddy.accounts[2])
        await webbuddy.until(lambda: first[0].status == "done")
        await trio.sleep(300)
    assert agent.called == [(1, 2)]
    assert second[0].statuses == ["queued", "in_progress", "done"]
    assert nothing_left(tmp_path)


async def test_at_the_stop_what_waits_is_put_back(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """As what runs is: another worker may have it, and there may be no next start."""
    agent = Agent(seconds=200)
    held = [claimed_by_the_dead(webbuddy) for _ in range(3)]
    leave_behind(tmp_path, webbuddy, [entry for _, entry in held])
    async with (
        webbuddy.running(),
        open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path, num_workers=1),
    ):
        await trio.sleep(5)
    assert {stored.status for stored, _ in held} == {"queued"}


@pytest.mark.parametrize("sick", [1, 2, 3, 4])
async def test_sick_queries_do_not_hide_the_others(
    sick: int, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """However many can't be looked at, the healthy one is run, and what is new is claimed."""
    agent = Agent()
    webbuddy = SickWebBuddy()
    held = [claimed_by_the_dead(webbuddy) for _ in range(sick + 1)]
    leave_behind(tmp_path, webbuddy, [entry for _, entry in held])
    webbuddy.sick |= {f"/api/queries/{number}/" for number in range(1, sick + 1)}
    async with webbuddy.running(), open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path) as worker:
        query = await worker.ask("new")
        assert query.status == "done"
        await webbuddy.until(lambda: held[-1][0].status == "done")
        webbuddy.sick.clear()
        await webbuddy.until(webbuddy.all_ended)


# --- Neighbours ----------------------------------------------------------------------------------


async def test_a_neighbours_journal_is_taken_over(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """Ten seconds after a process on the same folder has died, a living one has what it held."""
    agent = Agent()
    async with webbuddy.running(), open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path):
        await trio.sleep(60)
        stored, entry = claimed_by_the_dead(webbuddy)
        path = leave_behind(tmp_path, webbuddy, [entry])
        with trio.fail_after(12):
            await webbuddy.until(lambda: stored.status == "done")
        assert not path.exists()
    assert agent.called == [(1, 2)]


@pytest.mark.parametrize("outcome", [None, Released("stop")])
async def test_an_older_claim_of_a_neighbour(
    outcome: Released | None, webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It died with a claim of a query that was put back, and that we have claimed since: ours goes on."""
    agent = Agent(seconds=30)
    async with webbuddy.running(), open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path):
        stored, entry = claimed_by_the_dead(webbuddy)
        entry.outcome, entry.running = outcome, outcome is None
        await trio.sleep(1)
        webbuddy.set_status(stored, "queued", webbuddy.accounts[2])
        webbuddy.push(stored.id)
        await webbuddy.until(lambda: bool(agent.at_work))
        leave_behind(tmp_path, webbuddy, [entry])
        with trio.fail_after(40):
            await webbuddy.until(lambda: stored.status == "done")
    assert agent.called == [(1, 1)]
    assert stored.statuses == ["queued", "in_progress", "queued", "in_progress", "done"]
    assert nothing_left(tmp_path)


async def test_a_thousand_are_looked_at_by_pages(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Twenty calls of fifty, not a thousand of one."""
    agent = Agent(seconds=0)
    leave_behind(tmp_path, webbuddy, [claimed_by_the_dead(webbuddy)[1] for _ in range(1000)])
    async with (
        webbuddy.running(),
        open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path, num_workers=50),
    ):
        await webbuddy.until(webbuddy.all_ended)
    assert webbuddy.count("by_status") == 20
    assert webbuddy.count("read") < 50  # a page may shift while the next is read


async def test_a_death_that_was_told(tmp_path: Path, autojump_clock: MockClock) -> None:
    """By an idle process what was held is taken up at once; one at work leaves it until it looks."""
    webbuddy, agent = WebBuddy(now=trio_time()), Agent(seconds=30)
    async with open_worker(
        agent.handle, webbuddy=webbuddy, state_dir=tmp_path, num_workers=2, processing_timeout=100
    ) as worker:
        await trio.sleep(1)
        first, entry = claimed_by_the_dead(webbuddy)
        leave_behind(tmp_path, webbuddy, [entry])
        worker.front.neighbours.note_death()
        await trio.sleep(0.5)
        assert agent.called == [(first.id, 2)]
        second, entry = claimed_by_the_dead(webbuddy)
        leave_behind(tmp_path, webbuddy, [entry])
        worker.front.neighbours.note_death()
        await trio.sleep(0.5)
        assert len(agent.called) == 1
        await trio.sleep(10)
        assert agent.called == [(first.id, 2), (second.id, 2)]
