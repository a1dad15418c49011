"""`trio-worker run --processes`: a parent and its processes, real ones, and whatever happens to them."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from structlog.typing import EventDict

from tests.processes import TOO_LONG, WorkerProcess, start_worker
from tests.scrapes import parse
from tests.test_asgi import at_work, gone
from tests.test_systemd import Manager
from trio_worker.cli.child import DYING, PATIENCE, STARTS_WITHIN, Child
from trio_worker.orders import order_drain
from trio_worker.state_folder import Address, StateFolder
from trio_worker.testing import StoredQuery, WebBuddy, serve_webbuddy

# Each query ends when there is a file of its name; each run of one adds a line to `runs`.
HELD = """
import os, pathlib, trio

async def handle(query, ctx):
    with open("runs", "a") as runs:
        print(query.query_text, ctx.attempt, os.environ.get("NOTIFY_SOCKET"), file=runs)
    ctx.log(f"at work, try {ctx.attempt}")
    while not pathlib.Path(query.query_text).exists():
        await trio.sleep(0.02)
    return "let go"
"""


def command(processes: int) -> tuple[str, ...]:
    return ("-m", "trio_worker", "run", "--processes", str(processes))


@asynccontextmanager
async def running(
    tmp_path: Path, webbuddy: WebBuddy, *, processes: int = 2, **environ: str
) -> AsyncIterator[WorkerProcess]:
    """A WebBuddy on a socket, and processes with a consumer each that it pushes to."""
    environ = {"POLLING_INTERVAL": "0.5", "NUM_WORKERS": str(processes), "handler": HELD} | environ
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(tmp_path, webbuddy_url=url, command=command(processes), **environ) as worker,
    ):
        for number in range(processes):
            await started(worker, number)
        webbuddy.push_url = worker.url
        yield worker


def events(worker: WorkerProcess, event: str) -> list[EventDict]:
    """All lines of this beginning that it has logged so far."""
    logged = (json.loads(line) for line in worker.lines if line.startswith("{"))
    return [one for one in logged if one["event"].startswith(event)]


async def seen(worker: WorkerProcess, event: str, times: int = 1, **fields: Any) -> EventDict:
    """Wait for a line of the log. Returns the last one that was waited for."""

    def found() -> list[EventDict]:
        return [one for one in events(worker, event) if fields.items() <= one.items()]

    await worker.until(lambda _line: len(found()) >= times)
    return found()[times - 1]


async def started(worker: WorkerProcess, process: int, times: int = 1) -> int:
    """Wait until a process has started for so many times. Returns its id."""
    name: str = (await seen(worker, "started", times, process=process))["worker"]
    return int(name.rpartition(":")[2])


async def claimed_by(worker: WorkerProcess, query: StoredQuery) -> int:
    """Wait until a query is claimed. Returns the process."""
    number: int = (await seen(worker, "query claimed", query=query.id))["process"]
    return number


async def tried(webbuddy: WebBuddy, query: StoredQuery, attempt: int) -> None:
    """Wait until a handler works on it for so many times."""
    with trio.fail_after(TOO_LONG):
        await webbuddy.until(lambda: any(f"at work, try {attempt}" in entry for entry in query.logs))


async def ended(webbuddy: WebBuddy) -> None:
    with trio.fail_after(TOO_LONG):
        await webbuddy.until(webbuddy.all_ended)


TAKEN_UP = "taking up what"  # was held before, or another process has left


async def taken_up(worker: WorkerProcess, times: int) -> int:
    """Wait until what a dead process held was taken up for so many times. Returns the process."""
    number: int = (await seen(worker, TAKEN_UP, times))["process"]
    return number


async def kill(worker: WorkerProcess, process: int) -> None:
    """kill -9 it, once all is said of its start; wait until that is seen."""
    times = len(events(worker, "a process has ended by itself"))
    pids = [one["worker"] for one in events(worker, "started") if one["process"] == process]
    os.kill(int(pids[-1].rpartition(":")[2]), signal.SIGKILL)
    told = await seen(worker, "a process has ended by itself", times + 1)
    assert (told["level"], told["process"], told["signal"]) == ("error", process, "SIGKILL")


async def both_answer(url: str) -> dict[str, Any]:
    """Wait until whichever is asked answers for both. Returns what `/readyz` says."""
    with trio.fail_after(TOO_LONG):
        async with httpx.AsyncClient(base_url=url, timeout=TOO_LONG) as client:
            while True:
                page = parse((await client.get("/metrics")).text)
                ready: dict[str, Any] = (await client.get("/readyz")).json()
                if page["trio_worker_processes", ()] == 2 and ready["ready"]:
                    return ready


async def test_a_process_that_dies_is_replaced_and_its_query_done(tmp_path: Path) -> None:
    """kill -9, twice: while the other process is busy, and while it is idle. Then a drain ends all."""
    webbuddy = WebBuddy()
    async with running(tmp_path, webbuddy) as worker:
        long, short = webbuddy.add_query("long"), webbuddy.add_query("short")
        await at_work(webbuddy, long, short)
        place = await claimed_by(worker, long)
        assert {place, await claimed_by(worker, short)} == {0, 1}
        await kill(worker, place)
        await started(worker, place, times=2)
        place = await taken_up(worker, 1)
        (tmp_path / "short").touch()
        await tried(webbuddy, long, 2)
        await seen(worker, "query done", query=short.id)
        await kill(worker, place)
        # Long before its next look, and before there is another in the place: it was told.
        assert await taken_up(worker, 2) == 1 - place
        await tried(webbuddy, long, 3)
        await seen(worker, "started", 4)
        ready = await both_answer(worker.url)  # one of them is, the other runs a query alone
        assert ready["notes"]["recovery"].startswith("process ")
        (tmp_path / "long").touch()
        await ended(webbuddy)
        worker.process.send_signal(signal.SIGUSR1)
        assert await worker.wait() == 0, worker.output
    assert long.statuses == short.statuses == ["queued", "in_progress", "done"]
    runs = sorted(line.split()[0] for line in (tmp_path / "runs").read_text().splitlines())
    assert runs == ["long"] * 3 + ["short"]
    assert len(events(worker, "a process has drained")) == 2


async def test_one_stop_for_all(tmp_path: Path) -> None:
    """Ctrl-C reaches the parent alone, a second one means now; systemd hears of the start and of the end."""
    manager = Manager(str(tmp_path / "notify"))
    webbuddy = WebBuddy()
    grace = {"WORKER_SHUTDOWN_GRACE": "3600", "NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"}
    with manager.socket:
        async with running(tmp_path, webbuddy, **grace) as worker:
            await manager.until("READY=1")
            await manager.until("STATUS=takes queries")
            await manager.until("WATCHDOG=1")
            queries = [webbuddy.add_query("one"), webbuddy.add_query("two")]
            await at_work(webbuddy, *queries)
            groups = {os.getpgid(await started(worker, number)) for number in (0, 1)}
            assert len(groups | {os.getpgid(worker.process.pid)}) == 3
            os.killpg(worker.process.pid, signal.SIGINT)
            await seen(worker, "stopping: no new query", 2)
            await manager.until("STOPPING=1")
            os.killpg(worker.process.pid, signal.SIGINT)
            assert await worker.wait() == 0, worker.output
    assert [query.statuses for query in queries] == [["queued", "in_progress", "queued"]] * 2
    assert {line.split()[-1] for line in (tmp_path / "runs").read_text().splitlines()} == {"None"}


async def test_the_end_of_the_grace(tmp_path: Path) -> None:
    """What runs then is put back; a process that hears nothing is killed, and makes the exit code."""
    webbuddy = WebBuddy()
    async with running(tmp_path, webbuddy, WORKER_SHUTDOWN_GRACE="9") as worker:
        queries = [webbuddy.add_query("one"), webbuddy.add_query("two")]
        await at_work(webbuddy, *queries)
        deaf = await claimed_by(worker, queries[0])
        os.kill(await started(worker, deaf), signal.SIGSTOP)
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.wait() == 1, worker.output
    assert [query.status for query in queries] == ["in_progress", "queued"]
    assert [one["process"] for one in events(worker, "a process outstays the grace")] == [deaf]


async def test_a_drain_by_order(tmp_path: Path) -> None:
    """`trio-worker drain`. Who dies meanwhile is replaced by one that does what was left, and drains."""
    webbuddy = WebBuddy()
    async with running(tmp_path, webbuddy) as worker:
        one, two = webbuddy.add_query("one"), webbuddy.add_query("two")
        await at_work(webbuddy, one, two)
        order_drain(StateFolder(tmp_path / "state", Address(webbuddy.url, "worker")))
        await seen(worker, "draining", 2)
        await kill(worker, await claimed_by(worker, one))
        await tried(webbuddy, one, 2)
        await seen(worker, "draining", 3)
        for name in ("one", "two"):
            (tmp_path / name).touch()
        assert await worker.wait() == 0, worker.output
    assert (one.status, two.status) == ("done", "done")


async def test_a_killed_parent_is_noticed(tmp_path: Path) -> None:
    """kill -9 of the parent: the others let their queries finish, and end, instead of working on for ever."""
    webbuddy = WebBuddy()
    async with running(tmp_path, webbuddy) as worker:
        queries = [webbuddy.add_query("one"), webbuddy.add_query("two")]
        await at_work(webbuddy, *queries)
        pids = [await started(worker, number) for number in (0, 1)]
        worker.process.kill()
        await seen(worker, "the parent process is gone", 2)
        for query in queries:
            (tmp_path / query.query_text).touch()
        for pid in pids:
            await gone(pid)
    assert [query.status for query in queries] == ["done", "done"]


BUSY_FOR_EVER = """
import os, time, trio

def stand_still():
    with open("busy", "w") as busy:
        print(os.getpid(), file=busy, flush=True)
    time.sleep(3600)
"""


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(f"{BUSY_FOR_EVER}\nstand_still()\n", id="imports"),
        pytest.param(f"{BUSY_FOR_EVER}\nasync def handle(query, ctx):\n    stand_still()\n", id="blocks"),
    ],
)
async def test_a_killed_parent_is_noticed_by_who_can_do_nothing(tmp_path: Path, handler: str) -> None:
    """While the handler's module is imported, and while a handler blocks the event loop."""
    webbuddy, busy = WebBuddy(), tmp_path / "busy"
    webbuddy.add_query("one")
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(
            tmp_path, webbuddy_url=url, command=command(1), handler=handler, WORKER_SHUTDOWN_GRACE="1"
        ) as worker,
    ):
        with trio.fail_after(TOO_LONG):
            await until(lambda: busy.exists() and busy.read_text().endswith("\n"))
        worker.process.kill()
        await gone(int(busy.read_text()))


TAKES_SIGTERM = """
import os, pathlib, signal, time

signal.signal(signal.SIGTERM, lambda *_: pathlib.Path("taken").touch())
pathlib.Path("pid").write_text(f"{os.getpid()}\\n")
while not pathlib.Path("go").exists():
    time.sleep(0.02)

async def handle(query, ctx):
    return "answered after the stop"
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_module_that_takes_sigterm_for_itself(tmp_path: Path, number: signal.Signals) -> None:
    """A stop, or the death of the parent, while it is imported: it begins, hears of it, and ends at once."""
    webbuddy, pid = WebBuddy(), tmp_path / "pid"
    query = webbuddy.add_query("one")
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(tmp_path, webbuddy_url=url, command=command(1), handler=TAKES_SIGTERM) as worker,
    ):
        with trio.fail_after(TOO_LONG):
            await until(lambda: pid.exists() and pid.read_text().endswith("\n"))
            worker.process.send_signal(number)
            await until((tmp_path / "taken").exists)
        (tmp_path / "go").touch()
        await gone(int(pid.read_text()))
        assert await worker.wait() == (0 if number == signal.SIGTERM else -number), worker.output
    assert query.statuses == ["queued"]


# Whether the process in place 0 is the first to import this is certain: it is started alone.
SECOND_WAITS = f"""
import os, pathlib, time

try:
    pathlib.Path("first").touch(exist_ok=False)
except FileExistsError:
    pathlib.Path("second").touch()
    while pathlib.Path("second").exists():
        time.sleep(0.02)
    if pathlib.Path("ends").exists():
        pathlib.Path("ends").unlink()
        os._exit(3)
{HELD}
"""


async def test_a_start_beside_one_that_works(tmp_path: Path) -> None:
    """Systemd hears of it; one that says that its settings are wrong does not end the one that works.

    Nor does the drain of which a single process hears: who drains is said to the parent.
    """
    manager, webbuddy = Manager(str(tmp_path / "notify")), WebBuddy()
    environ = {"NOTIFY_SOCKET": manager.address, "NUM_WORKERS": "2", "POLLING_INTERVAL": "0.5"}
    with manager.socket:
        async with (
            serve_webbuddy(webbuddy) as url,
            start_worker(
                tmp_path, webbuddy_url=url, command=command(2), handler=SECOND_WAITS, **environ
            ) as worker,
        ):
            pid = await started(worker, 0)
            await manager.until("STATUS=service: 1 of 2 processes have begun")
            query = webbuddy.add_query("one")
            await at_work(webbuddy, query)
            with trio.fail_after(TOO_LONG):
                await until((tmp_path / "second").exists)
                (tmp_path / "ends").touch()
                (tmp_path / "second").unlink()
                await seen(worker, "a process has ended by itself", exit_code=3)
                await until((tmp_path / "second").exists)
                (tmp_path / "second").unlink()
            second = await started(worker, 1)
            await manager.until("STATUS=takes queries")
            os.kill(second, signal.SIGUSR1)
            os.kill(second, signal.SIGTERM)
            await manager.until("STATUS=process 1: it is being started")
            (tmp_path / "second").unlink()
            assert await started(worker, 1, times=2) != second
            assert await started(worker, 0) == pid
            (tmp_path / "one").touch()
            await ended(webbuddy)
            worker.process.send_signal(signal.SIGTERM)
            assert await worker.wait() == 0, worker.output
    assert query.statuses == ["queued", "in_progress", "done"]
    codes = [one["exit_code"] for one in events(worker, "a process has ended by itself")]
    assert codes == [3, 0]


OPENS_FOR_EVER = """
import contextlib, pathlib, trio

@contextlib.asynccontextmanager
async def agent():
    try:
        pathlib.Path("first").touch(exist_ok=False)
    except FileExistsError:
        yield handle
    else:
        await trio.sleep_forever()

async def handle(query, ctx):
    ctx.log("at work")
    while not pathlib.Path("end").exists():
        await trio.sleep(0.02)
    return "let go"
"""


async def test_the_first_dies_before_it_has_begun(tmp_path: Path) -> None:
    """Its handler takes so long to open that the others are no longer kept waiting: it ends none of them."""
    manager, webbuddy = Manager(str(tmp_path / "notify")), WebBuddy()
    environ = {"NUM_WORKERS": "2", "WORKER_HANDLER": "agent:agent", "NOTIFY_SOCKET": manager.address}
    query = webbuddy.add_query("one")
    with manager.socket:
        async with (
            serve_webbuddy(webbuddy) as url,
            start_worker(
                tmp_path, webbuddy_url=url, command=command(2), handler=OPENS_FOR_EVER, **environ
            ) as worker,
        ):
            first = await started(worker, 0)
            await at_work(webbuddy, query)
            await manager.until("STATUS=service: 1 of 2 processes have begun")
            os.kill(first, signal.SIGKILL)
            await started(worker, 0, times=2)
            (tmp_path / "end").touch()
            await ended(webbuddy)
            worker.process.send_signal(signal.SIGTERM)
            assert await worker.wait() == 0, worker.output
    assert query.statuses == ["queued", "in_progress", "done"]


# --- What is wrong from the start --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "code", "said"),
    [
        ({"NUM_WORKERS": "many"}, 2, "NUM_WORKERS is 'many'"),
        ({"WORKER_HANDLER": "no_such_module:handle"}, 2, "there is no module no_such_module"),
        ({"WORKER_PASSWORD": "not-this-one"}, 3, "refused the log-in of user 'worker'"),
        ({"handler": "import os\nos._exit(7)\n"}, 7, "the first process has died at its start"),
    ],
)
async def test_what_is_wrong_is_said_once(
    tmp_path: Path, environ: dict[str, str], code: int, said: str
) -> None:
    """And ends all, with the same exit code as that of one process."""
    async with (
        serve_webbuddy(WebBuddy()) as url,
        start_worker(tmp_path, webbuddy_url=url, command=command(3), **environ) as worker,
    ):
        assert await worker.wait() == code, worker.output
    assert worker.output.count(said) == 1
    assert len(events(worker, "started")) <= 1
    assert "Traceback" not in worker.output


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """One sentence with the variable, and 2; no process is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        async with start_worker(
            tmp_path, webbuddy_url="http://127.0.0.1:9", command=command(2), WORKER_BIND=bind
        ) as worker:
            assert await worker.wait() == 2, worker.output
    assert worker.lines == [
        f"trio-worker: WORKER_BIND is '{bind}': something listens there already: choose another"
        " WORKER_BIND, or stop what listens there"
    ]


async def test_a_unix_socket_and_a_process_that_was_stopped(tmp_path: Path) -> None:
    """A SIGTERM to one process is no drain: it ends, and another takes its place. All without a stdin."""
    path = tmp_path / "worker.sock"
    run = f"import os, sys; os.close(0); os.execv(sys.executable, [sys.executable, *{command(1)}])"
    async with (
        serve_webbuddy(WebBuddy()) as url,
        start_worker(tmp_path, webbuddy_url=url, command=("-c", run), WORKER_BIND=f"unix:{path}") as worker,
    ):
        os.kill(await started(worker, 0), signal.SIGTERM)
        await started(worker, 0, times=2)
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as client:
            answer = await client.post("http://worker/api/process-query", json={"query_id": 1})
        assert answer.text == '{"status": "accepted"}'
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.wait() == 0, worker.output
    assert events(worker, "a process has ended by itself")[0]["exit_code"] == 0


# --- A process that hangs ----------------------------------------------------------------------------


def look(child: Child, times: int) -> None:
    for _ in range(times):
        child.look_after()


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - nobody is told
        await trio.sleep(0.01)


@pytest.mark.parametrize("ignores", [False, True])
async def test_a_process_that_hangs_is_ended(ignores: bool, events: list[EventDict]) -> None:
    """After a minute without a good word; before it has said the first it has ten, and is named after one."""
    ignore = "signal.signal(signal.SIGABRT, signal.SIG_IGN);" if ignores else ""
    script = f"import signal, time; {ignore} print('here', flush=True); time.sleep(1000)"
    ours, theirs = socket.socketpair()
    process = await trio.lowlevel.open_process([sys.executable, "-c", script], stdout=-1)
    child = Child(0, process, 0.0, trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
    assert process.stdout is not None
    with theirs, trio.fail_after(TOO_LONG):
        await process.stdout.receive_some()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child.hear)
            look(child, PATIENCE - 1)
            assert events == []
            look(child, STARTS_WITHIN - PATIENCE)
            assert [event["log_level"] for event in events] == ["warning"]
            events.clear()
            theirs.send(b'{"unready": {}, "late": {}, "drains": false}\n')
            await child.began.wait()
            look(child, PATIENCE - 1)
            theirs.send(b'no JSON\n{"unready": {"pause": "it is paused"}, "late": {}, "drains": false}\n')
            await until(lambda: child.unready)
            look(child, PATIENCE - 1)
            theirs.send(b'{"unready": {}, "late": {"ticker": "late"}, "drains": false}\n')
            await until(lambda: child.late)
            assert events == []
            look(child, 1)
            assert [event["reason"] for event in events] == ["ticker: late"]
            look(child, DYING if ignores else 0)
            assert await process.wait() == -(signal.SIGKILL if ignores else signal.SIGABRT)
            nursery.cancel_scope.cancel()
        await child.aclose()


async def test_a_process_that_never_begins_is_ended(events: list[EventDict]) -> None:
    """A module that waits for something at its import, without a time limit."""
    ours, theirs = socket.socketpair()
    process = await trio.lowlevel.open_process([sys.executable, "-c", "import time; time.sleep(1000)"])
    child = Child(0, process, 0.0, trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
    assert child.problem == "it is being started"
    with theirs, trio.fail_after(TOO_LONG):
        look(child, STARTS_WITHIN)
        assert [event["log_level"] for event in events] == ["warning", "error"]
        assert events[-1]["reason"] == "the import of the handler's module has not ended"
        assert await process.wait() == -signal.SIGABRT
        assert not child.is_overdue
        look(child, 2 * DYING + 1)
        assert child.is_overdue
    await child.aclose()
