"""`trio-worker pause`, `resume` and `drain`, and the workers that obey."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from tests.commands import environment, run_command
from tests.journals import leave_behind, open_own, state_folder
from tests.processes import TOO_LONG, start_worker
from trio_worker import Context, Query, RetryLater
from trio_worker.cli.orders import drain_workers, pause_workers, resume_workers
from trio_worker.errand import Errand
from trio_worker.errors import JournalError
from trio_worker.journal import open_journal
from trio_worker.orders import Orders, draining, living, order_drain, pause, read_orders, resume
from trio_worker.pause import Pause
from trio_worker.runners import inline
from trio_worker.state_folder import Address, StateFolder
from trio_worker.stop import Stop
from trio_worker.testing import WebBuddy, open_worker, serve_webbuddy, trio_time

HELD = """
import pathlib, trio

async def handle(query, ctx):
    ctx.log("at work")
    while not pathlib.Path("go").exists():
        await trio.sleep(0.02)
    return "let go"
"""


def folder_of(tmp_path: Path, webbuddy: WebBuddy) -> StateFolder:
    return StateFolder(tmp_path, Address(webbuddy.url, "worker"))


# --- On disk ----------------------------------------------------------------------------------------


def test_orders_are_files(tmp_path: Path) -> None:
    """A pause is for all, a drain for those that live just now; a journal that goes takes its order along."""
    folder = state_folder(tmp_path)
    dead = leave_behind(folder)
    one, other = sorted((folder.new(), folder.new()), key=lambda lock: lock.path)
    for lock in (one, other):
        lock.path.touch()
    assert living(folder) == [one.path, other.path]
    assert read_orders(folder, one.path) == Orders()
    assert (pause(folder), pause(folder)) == (True, False)
    assert read_orders(folder, one.path) == Orders(paused=True)
    assert order_drain(folder) == order_drain(folder) == draining(folder) == [one.path, other.path]
    assert read_orders(folder, other.path) == Orders(paused=True, drain=True)
    assert not read_orders(folder, dead).drain
    assert (resume(folder), resume(folder)) == (True, False)
    assert read_orders(folder, one.path) == Orders(drain=True)
    one.remove()
    other.release()
    assert draining(folder) == []
    for lock in folder.take_free():
        lock.remove()
    assert list(folder.path.iterdir()) == []


def test_an_order_without_a_journal_is_cleaned_up(tmp_path: Path) -> None:
    """Its process ended in the moment in which it was given."""
    folder = state_folder(tmp_path)
    (folder.path / "0000-1.drain").touch()
    open_own(tmp_path).close()
    assert list(folder.path.iterdir()) == []


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    """Says which variable is meant; nobody lives there, and nothing is to be resumed."""
    (tmp_path / "state").write_text("a file")
    folder = StateFolder(tmp_path / "state", Address("http://localhost:8000", "worker"))
    with pytest.raises(JournalError, match="WORKER_STATE_DIR is"):
        pause(folder)
    with pytest.raises(JournalError, match="WORKER_STATE_DIR is"):
        read_orders(folder, folder.path / "x.journal")
    assert (resume(folder), order_drain(folder)) == (False, [])


# --- A worker that obeys, in virtual time -----------------------------------------------------------


async def test_a_pause(autojump_clock: MockClock, tmp_path: Path, events: list[EventDict]) -> None:
    """What is held goes on and is reported, also what was put aside; what is queued waits for the resume."""

    async def handle(query: Query, ctx: Context) -> str:
        if query.query_text == "later" and ctx.attempt == 1:
            raise RetryLater(200)
        await trio.sleep(100)
        return "ok"

    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(handle, webbuddy=webbuddy, state_dir=tmp_path) as worker:
        running, later = webbuddy.add_query("running"), webbuddy.add_query("later")
        await trio.sleep(10)
        assert worker.front.readiness.reasons == {}
        pause(folder_of(tmp_path, webbuddy))
        await trio.sleep(3)
        assert worker.front.readiness.reasons == {"pause": "it is paused: nothing new is taken"}
        new = webbuddy.add_query("new")
        await webbuddy.until(lambda: running.status == later.status == "done")
        await trio.sleep(1000)
        assert (new.status, worker.front.liveness.reasons) == ("queued", {})
        resume(folder_of(tmp_path, webbuddy))
        with trio.fail_after(3):
            await webbuddy.until(lambda: new.status == "in_progress")
        assert worker.front.readiness.reasons == {}
    said = [event["event"] for event in events if "paused" in event["event"] or "resumed" in event["event"]]
    assert said == [
        "paused: nothing new is taken until `trio-worker resume`",
        "resumed: queries are taken again",
    ]


async def test_a_pause_survives_a_restart(autojump_clock: MockClock, tmp_path: Path) -> None:
    """A crash must not undo it; nothing is claimed before the worker knows."""

    async def handle(query: Query, ctx: Context) -> str:
        return "ok"

    webbuddy = WebBuddy(now=trio_time())
    query = webbuddy.add_query("a question", push=False)
    pause(folder_of(tmp_path, webbuddy))
    async with open_worker(handle, webbuddy=webbuddy, state_dir=tmp_path) as worker:
        await trio.sleep(1000)
        assert query.status == "queued"
        assert "pause" in worker.front.readiness.reasons


async def test_nothing_is_claimed_before_the_first_look() -> None:
    """The disk may be slow, and the worker paused."""
    async with open_journal(None, runner=inline) as journal:
        pause = Pause(journal=journal, stop=Stop(grace=25, reserve=5), every=2)
        assert not pause.gate.is_open
        assert pause.problem == "whether it is paused is not known yet"


async def test_a_drain_of_those_that_live(autojump_clock: MockClock, tmp_path: Path) -> None:
    """They end when what they run has; the next that starts is not meant."""

    async def handle(query: Query, ctx: Context) -> str:
        await trio.sleep(100)
        return "ok"

    webbuddy = WebBuddy(now=trio_time())
    folder = folder_of(tmp_path, webbuddy)
    async with open_worker(handle, webbuddy=webbuddy, state_dir=tmp_path) as worker:
        query = webbuddy.add_query("a question")
        await trio.sleep(10)
        assert len(order_drain(folder)) == 1
        await trio.sleep(3)
        late = webbuddy.add_query("late")
        with trio.fail_after(95):
            await worker.ended.wait()
        assert (query.status, late.status) == ("done", "queued")
    assert list(folder.path.iterdir()) == []
    async with open_worker(handle, webbuddy=webbuddy, state_dir=tmp_path):
        await webbuddy.until(lambda: late.status == "done")


async def test_an_errand_does_not_wait_for_a_resume(autojump_clock: MockClock, tmp_path: Path) -> None:
    """`trio-worker once` in a cron job says why it does nothing, and ends."""

    async def handle(query: Query, ctx: Context) -> str:
        return "ok"

    webbuddy, errand = WebBuddy(now=trio_time()), Errand(every=True)
    query = webbuddy.add_query("a question", push=False)
    pause(folder_of(tmp_path, webbuddy))
    async with open_worker(handle, webbuddy=webbuddy, state_dir=tmp_path, errand=errand) as worker:
        with trio.fail_after(5):
            await worker.ended.wait()
    assert query.status == "queued"
    assert errand.failure == "the workers of this folder are paused: `trio-worker resume` lets them go on"


# --- The commands -----------------------------------------------------------------------------------


def test_pause_and_resume_where_nobody_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is for those that will; a drain is for nobody."""
    monkeypatch.chdir(tmp_path)
    for name, value in environment("http://webbuddy:8000").items():
        monkeypatch.setenv(name, value)
    assert pause_workers() == 0
    assert " ".join(capsys.readouterr().out.split()) == (
        "Paused: no worker runs here now. What workers hold goes on. Those that start later are paused as"
        " well, until trio-worker resume."
    )
    assert (pause_workers(), capsys.readouterr().out) == (0, "It is paused already.\n")
    assert (resume_workers(), capsys.readouterr().out) == (
        0,
        "Resumed: queries are taken again, within 2 s.\n",
    )
    assert (resume_workers(), capsys.readouterr().out) == (0, "It is not paused.\n")
    assert drain_workers(wait=True) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("trio-worker: no worker runs on this state folder: ")
    monkeypatch.setenv("WEBBUDDY_URL", "nonsense")
    assert pause_workers() == 2
    monkeypatch.setenv("WEBBUDDY_URL", "http://webbuddy:8000")
    monkeypatch.setenv("WORKER_STATE_DIR", "file")
    (tmp_path / "file").touch()
    assert pause_workers() == 4
    assert "WORKER_STATE_DIR is" in capsys.readouterr().err


async def test_a_real_worker_drains(tmp_path: Path) -> None:
    """By the command, which waits for its end; it exits with 0, and the query that it ran is done."""
    webbuddy = WebBuddy()
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(tmp_path, webbuddy_url=url, handler=HELD, POLLING_INTERVAL="0.5") as worker,
    ):
        query = webbuddy.add_query("a question", push=False)
        with trio.fail_after(TOO_LONG):
            await webbuddy.until(lambda: any("at work" in entry for entry in query.logs))
        async with trio.open_nursery() as nursery:

            async def drain() -> None:
                ended = await run_command(
                    tmp_path, "drain", "--wait", webbuddy_url=url, WORKER_USERNAME="worker"
                )
                assert ended.code == 0, ended.err
                assert " ".join(ended.out.split()) == (
                    "1 worker process will take nothing new, within 2 s, and end when what runs there has"
                    " ended. 1 of 1 ended."
                )

            nursery.start_soon(drain)
            await worker.until(lambda line: '"draining' in line)
            (tmp_path / "go").touch()
            assert await worker.wait() == 0, worker.output
    assert (query.status, query.answer_text) == ("done", "let go")


async def test_a_signal_drains(tmp_path: Path) -> None:
    """SIGUSR1; and a SIGTERM behind it stops with the grace."""
    webbuddy = WebBuddy()
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(
            tmp_path, webbuddy_url=url, handler=HELD, POLLING_INTERVAL="0.5", WORKER_SHUTDOWN_GRACE="6"
        ) as worker,
    ):
        query = webbuddy.add_query("a question", push=False)
        with trio.fail_after(TOO_LONG):
            await webbuddy.until(lambda: any("at work" in entry for entry in query.logs))
        worker.process.send_signal(signal.SIGUSR1)
        await worker.until(lambda line: '"draining' in line)
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.wait() == 0, worker.output
    assert query.statuses == ["queued", "in_progress", "queued"]
