"""The service under hypercorn: real processes and sockets, and every way in which it is stopped."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from tests.processes import TOO_LONG, WorkerProcess, start_worker
from trio_worker.orders import order_drain
from trio_worker.state_folder import Address, StateFolder
from trio_worker.testing import StoredQuery, WebBuddy, serve_webbuddy

HYPERCORN = ("-m", "hypercorn", "trio_worker.asgi:app")
ON_TRIO = (*HYPERCORN, "-k", "trio", "-b", "127.0.0.1:0")

# Each query ends when there is a file of its name.
HELD = """
import pathlib, trio

async def handle(query, ctx):
    ctx.log("at work")
    while not pathlib.Path(query.query_text).exists():
        await trio.sleep(0.02)
    return "let go"
"""

STUBBORN = """
import trio

async def handle(query, ctx):
    ctx.log("at work")
    while True:
        try:
            await trio.sleep(0.2)
        except trio.Cancelled:
            pass
"""


@asynccontextmanager
async def running(
    tmp_path: Path, webbuddy: WebBuddy, *options: str, processes: int = 1, handler: str = HELD, **environ: str
) -> AsyncIterator[WorkerProcess]:
    """A WebBuddy on a socket, and a worker under hypercorn that it pushes to."""
    # Of two processes the busy one may get the push; the other then finds the query by polling.
    environ = {"POLLING_INTERVAL": "0.5"} | environ
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(
            tmp_path, webbuddy_url=url, command=(*ON_TRIO, *options), handler=handler, **environ
        ) as worker,
    ):
        for number in range(1, processes + 1):
            await worker.until(lambda line, number=number: worker.output.count("Running on") >= number)
        webbuddy.push_url = worker.url
        yield worker


async def at_work(webbuddy: WebBuddy, *queries: StoredQuery) -> None:
    """Wait until a handler works on each of them."""
    for query in queries:
        with trio.fail_after(TOO_LONG):
            await webbuddy.until(lambda query=query: any("at work" in entry for entry in query.logs))


def children(worker: WorkerProcess) -> list[int]:
    """The processes in which hypercorn runs the app: those that have said that they started."""
    names = [json.loads(line)["worker"] for line in worker.lines if '"event": "started"' in line]
    return [int(name.rpartition(":")[2]) for name in names]


async def gone(pid: int) -> None:
    """Wait until a process that is not our child has ended."""
    with trio.fail_after(TOO_LONG):
        while _alive(pid):  # noqa: ASYNC110 - there is no event for the end of somebody else's child
            await trio.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie that its adoptive parent has not reaped yet has ended as well.
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


async def test_a_push_is_answered_and_its_query_done(tmp_path: Path) -> None:
    """The documented start: a push gets its 200, its query an answer; the log says what runs."""
    webbuddy = WebBuddy()
    (tmp_path / "now").touch()
    async with running(tmp_path, webbuddy) as worker:
        query = webbuddy.add_query("now")
        with trio.fail_after(TOO_LONG):
            await webbuddy.until(webbuddy.all_ended)
        assert (query.status, query.answer_text) == ("done", "let go")
        assert webbuddy.pushes["accepted"] == 1
        assert '"consumers": "5"' in worker.output
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.wait() == 0, worker.output


async def test_behind_a_root_path(tmp_path: Path) -> None:
    """With --root-path the push endpoint answers with and without the prefix."""
    webbuddy = WebBuddy()
    async with running(tmp_path, webbuddy, "--root-path", "/agents") as worker, httpx.AsyncClient() as client:
        for path in ("/agents/api/process-query", "/api/process-query", "//api/process-query"):
            answer = await client.post(worker.url + path, json={"query_id": 1})
            assert (answer.status_code, answer.text) == (200, '{"status": "accepted"}')


@pytest.mark.parametrize("workers", ["0", "1", "2"])
@pytest.mark.parametrize("whom", ["parent", "group", "ctrl-c"])
async def test_a_stop_is_graceful(tmp_path: Path, workers: str, whom: str) -> None:
    """Whoever gets the signal: running queries end as done, no process is cut short by its sibling."""
    webbuddy = WebBuddy()
    processes = max(1, int(workers))
    async with running(
        tmp_path, webbuddy, "--workers", workers, processes=processes, NUM_WORKERS=str(processes)
    ) as worker:
        queries = [webbuddy.add_query(name) for name in ("one", "two")[:processes]]
        await at_work(webbuddy, *queries)
        if whom == "parent":
            worker.process.send_signal(signal.SIGTERM)
        else:
            os.killpg(worker.process.pid, signal.SIGTERM if whom == "group" else signal.SIGINT)
        await worker.until(lambda line: worker.output.count("stopping") == processes)
        late = webbuddy.add_query("late", push=False)
        for query in queries:  # one after the other, so that one process is done long before the other
            (tmp_path / query.query_text).touch()
            with trio.fail_after(TOO_LONG):
                await webbuddy.until(lambda query=query: query.status == "done")
        await worker.wait()
    assert [query.statuses for query in queries] == [["queued", "in_progress", "done"]] * processes
    assert late.status == "queued"
    assert worker.output.count('"stopped"') == processes
    assert "Traceback" not in worker.output


async def test_a_drain_of_all_processes(tmp_path: Path) -> None:
    """Hypercorn's parent would stop the others with the first that ends: that one waits for them."""
    webbuddy = WebBuddy()
    async with running(tmp_path, webbuddy, "--workers", "2", processes=2, NUM_WORKERS="2") as worker:
        queries = [webbuddy.add_query(name) for name in ("one", "two")]
        await at_work(webbuddy, *queries)
        folder = StateFolder(tmp_path / "state", Address(webbuddy.url, "worker"))
        assert len(order_drain(folder)) == 2
        await worker.until(lambda line: worker.output.count('"draining') == 2)
        (tmp_path / "one").touch()
        await worker.until(lambda line: "waiting for the other processes that drain" in line)
        late = webbuddy.add_query("late", push=False)
        (tmp_path / "two").touch()
        await worker.wait()
    assert [query.statuses for query in queries] == [["queued", "in_progress", "done"]] * 2
    assert late.status == "queued"
    assert "Traceback" not in worker.output


@pytest.mark.parametrize("workers", [1, 2])
async def test_sigterm_to_a_child(tmp_path: Path, workers: int) -> None:
    """SIGTERM to one child: it drains, and then hypercorn stops the others, which drain as well."""
    webbuddy = WebBuddy()
    async with running(
        tmp_path, webbuddy, "--workers", str(workers), processes=workers, NUM_WORKERS=str(workers)
    ) as worker:
        queries = [webbuddy.add_query(name) for name in ("one", "two")[:workers]]
        await at_work(webbuddy, *queries)
        os.kill(children(worker)[0], signal.SIGTERM)
        await worker.until(lambda line: "stopping" in line)
        for query in queries:
            (tmp_path / query.query_text).touch()
        await worker.wait()
    assert [query.status for query in queries] == ["done"] * workers
    assert worker.output.count('"stopped"') == workers


async def test_a_killed_parent_is_noticed(tmp_path: Path) -> None:
    """kill -9 of hypercorn's parent: the children notice, drain and end, instead of working on for ever."""
    webbuddy = WebBuddy()
    async with running(tmp_path, webbuddy, "--workers", "2", processes=2, NUM_WORKERS="2") as worker:
        queries = [webbuddy.add_query(name) for name in ("one", "two")]
        await at_work(webbuddy, *queries)
        pids = children(worker)
        worker.process.send_signal(signal.SIGKILL)
        await worker.until(lambda line: worker.output.count("parent process is gone") == 2)
        for query in queries:
            (tmp_path / query.query_text).touch()
        for pid in pids:
            await gone(pid)
    assert [query.status for query in queries] == ["done", "done"]


async def test_a_killed_child_takes_nobody_down_hard(tmp_path: Path) -> None:
    """kill -9 of one child: hypercorn stops the other one, and that one drains."""
    webbuddy = WebBuddy()
    async with running(tmp_path, webbuddy, "--workers", "2", processes=2, NUM_WORKERS="2") as worker:
        queries = [webbuddy.add_query(name) for name in ("one", "two")]
        await at_work(webbuddy, *queries)
        os.kill(children(worker)[0], signal.SIGKILL)
        await worker.until(lambda line: "stopping" in line)
        for query in queries:
            (tmp_path / query.query_text).touch()
        await worker.wait()
    assert sorted(query.status for query in queries) == ["done", "in_progress"]


async def test_a_second_signal_is_ignored(tmp_path: Path) -> None:
    """Hypercorn's parent repeats signals by itself, so a second one does not cut a query short."""
    webbuddy = WebBuddy()
    async with running(tmp_path, webbuddy) as worker:
        query = webbuddy.add_query("one")
        await at_work(webbuddy, query)
        os.killpg(worker.process.pid, signal.SIGTERM)
        await worker.until(lambda line: "stopping" in line)
        os.killpg(worker.process.pid, signal.SIGTERM)
        (tmp_path / "one").touch()
        await worker.wait()
    assert query.statuses == ["queued", "in_progress", "done"]


async def test_a_dawdling_client_does_not_delay_the_stop(tmp_path: Path) -> None:
    """The intake is closed at once, not when the last request under way is through."""
    webbuddy = WebBuddy()
    async with running(tmp_path, webbuddy) as worker:
        query = webbuddy.add_query("one")
        await at_work(webbuddy, query)
        host, _, port = worker.url.removeprefix("http://").rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as client:
            # Half a request: it is answered (with 408) two seconds later.
            await client.send_all(
                b"POST /api/process-query HTTP/1.1\r\nHost: w\r\nContent-Length: 9\r\n\r\n{"
            )
            worker.process.send_signal(signal.SIGTERM)
            await worker.until(lambda line: "stopping" in line)
            assert not client.socket.is_readable(), "the request was waited for"
            (tmp_path / "one").touch()
            await worker.wait()
    assert query.status == "done"


async def test_the_end_of_the_grace(tmp_path: Path) -> None:
    """At the end of the grace a query is put back, also when its handler can't be stopped."""

    async def stopped(name: str, handler: str) -> None:
        webbuddy = WebBuddy()
        directory = tmp_path / name
        directory.mkdir()
        # A third of it is for putting back: so much that a busy machine has time for that.
        async with running(directory, webbuddy, handler=handler, WORKER_SHUTDOWN_GRACE="12") as worker:
            query = webbuddy.add_query("one")
            await at_work(webbuddy, query)
            worker.process.send_signal(signal.SIGTERM)
            await worker.wait()
        assert query.statuses == ["queued", "in_progress", "queued"], worker.output

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stopped, "held", HELD)
        nursery.start_soon(stopped, "stubborn", STUBBORN)


async def test_a_crash_ends_the_process(tmp_path: Path) -> None:
    """A service that has crashed says so and ends its process; hypercorn alone would serve on."""
    handler = (
        "import trio_worker.query_log\n"
        "async def handle(query, ctx):\n"
        "    # Break the running worker from inside, as a bug of its own would.\n"
        "    trio_worker.query_log.QueryLog.close = lambda self, last: 1 / 0\n"
        "    return 'never reported'\n"
    )
    webbuddy = WebBuddy()
    async with running(tmp_path, webbuddy, handler=handler) as worker:
        webbuddy.add_query("one")
        await worker.wait()
    assert "this is a bug" in worker.output
    assert "ZeroDivisionError" in worker.output


async def test_a_crash_does_not_cut_the_sibling_short(tmp_path: Path) -> None:
    """Of two processes one crashes: hypercorn stops the other, which lets its query finish."""
    crashing = """
    if query.query_text == "crash":
        # Break the running worker from inside, as a bug of its own would.
        import trio_worker.query_log
        trio_worker.query_log.QueryLog.close = lambda self, last: 1 / 0
    return"""
    handler = HELD.replace("\n    return", crashing)
    webbuddy = WebBuddy()
    async with running(
        tmp_path, webbuddy, "--workers", "2", processes=2, handler=handler, NUM_WORKERS="2"
    ) as worker:
        query = webbuddy.add_query("one")
        await at_work(webbuddy, query, webbuddy.add_query("crash"))
        (tmp_path / "crash").touch()
        await worker.until(lambda line: "stopping: no new query" in line)
        (tmp_path / "one").touch()
        await worker.wait()
    assert "this is a bug" in worker.output
    assert query.status == "done"


async def test_sighup_starts_the_processes_anew(tmp_path: Path) -> None:
    """Hypercorn's reload: the running query ends as done, the next one is taken by a new process."""
    webbuddy = WebBuddy()
    async with running(tmp_path, webbuddy) as worker:
        first = webbuddy.add_query("one")
        await at_work(webbuddy, first)
        worker.process.send_signal(signal.SIGHUP)
        await worker.until(lambda line: "stopping" in line)
        second = webbuddy.add_query("two", push=False)
        for name in ("one", "two"):
            (tmp_path / name).touch()
        with trio.fail_after(TOO_LONG):
            await webbuddy.until(webbuddy.all_ended)
        assert len(set(children(worker))) == 2
    assert [query.statuses for query in (first, second)] == [["queued", "in_progress", "done"]] * 2


async def test_login_refused_at_the_start(tmp_path: Path) -> None:
    """A wrong password ends the process with one sentence and no traceback."""
    async with running(tmp_path, WebBuddy(), WORKER_PASSWORD="not-this-one") as worker:
        await worker.wait()
    assert "refused the log-in of user 'worker'" in worker.output
    assert "Traceback" not in worker.output
    assert "not-this-one" not in worker.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-b", "127.0.0.1:0"), "start it with -k trio"),
        (("-k", "trio", "-b", "127.0.0.1:0", "--workers", "0"), "NUM_WORKERS is 'many'"),
        (("-k", "trio", "-b", "127.0.0.1:0"), "NUM_WORKERS is 'many'"),
    ],
)
async def test_what_the_operator_forgot_is_one_sentence(
    tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    """No -k trio, wrong settings: a sentence, no traceback, and it ends."""
    async with start_worker(
        tmp_path, webbuddy_url="http://127.0.0.1:9", command=(*HYPERCORN, *options), NUM_WORKERS="many"
    ) as worker:
        code = await worker.wait()
    assert said in worker.output
    assert "Traceback" not in worker.output
    if "0" in options:
        assert code == 2  # otherwise it is hypercorn's parent that exits, with a 0


WITHOUT_SOCKETS = """
from hypercorn.config import Config, Sockets
from hypercorn.trio.run import trio_worker

config = Config()
config.worker_class, config.application_path = "trio", "trio_worker.asgi:app"
trio_worker(config, Sockets([], [], []))
"""


async def test_hypercorns_default_port_is_one_sentence(tmp_path: Path) -> None:
    """It is WebBuddy's. In hypercorn's own worker, but without its sockets: on that port may be anybody."""
    async with start_worker(
        tmp_path, webbuddy_url="http://127.0.0.1:9", command=("-c", WITHOUT_SOCKETS)
    ) as worker:
        assert await worker.wait() == 2
    assert "WebBuddy's own port: start hypercorn with -b 127.0.0.1:8001" in worker.output
    assert "Traceback" not in worker.output


async def test_each_process_takes_its_share(tmp_path: Path) -> None:
    """NUM_WORKERS is for the whole launch: 4 over 2 processes is 2 + 2, and the log says so."""
    async with running(tmp_path, WebBuddy(), "--workers", "2", processes=2, NUM_WORKERS="4") as worker:
        # Each says it when it has begun, which may be after it listens.
        await worker.until(lambda line: worker.output.count('"started"') == 2)
    assert worker.output.count('"consumers": "2 of 4 here"') == 2
    three = tmp_path / "three"
    three.mkdir()
    async with running(three, WebBuddy(), NUM_WORKERS="9", WORKER_PROCESSES="3") as worker:
        await worker.until(lambda line: '"started"' in line)
    assert worker.output.count('"consumers": "3 of 9 here"') == 1
