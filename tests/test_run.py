"""`trio-worker run` as its operator meets it: a real process, real sockets, real signals."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from tests.processes import TOO_LONG, WorkerProcess, start_worker
from trio_worker.testing import StoredQuery, WebBuddy, serve_webbuddy

HELD = """
import os, pathlib, trio

async def handle(query, ctx):
    ctx.log("at work")
    while not pathlib.Path("go").exists():
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

SPINNING = """
async def handle(query, ctx):
    while True:
        pass
"""

BLOCKING = """
import time

async def handle(query, ctx):
    time.sleep(2)
    return "at last"
"""

LAST = """
import os, signal, sys

class Last:
    def __del__(self, kill=os.kill, pid=os.getpid(), numbers=(signal.SIGTERM, signal.SIGINT), write=os.write):
        for number in numbers:
            kill(pid, number)
        write(1, b"was there to the very end\\n")

sys.last_words = Last()  # what is in there goes last

async def handle(query, ctx):
    return "done"
"""

LOADING = """
import time

print("loading")
while True:
    try:
        time.sleep(0.1)
    except BaseException:  # as a module that guards its own imports may do
        pass
"""


@asynccontextmanager
async def running(tmp_path: Path, webbuddy: WebBuddy, **environ: str) -> AsyncIterator[WorkerProcess]:
    """A WebBuddy on a socket, and a worker that it pushes to."""
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(tmp_path, webbuddy_url=url, **environ) as worker,
    ):
        await worker.until(lambda line: "Running on" in line)
        webbuddy.push_url = worker.url
        yield worker


async def ended(webbuddy: WebBuddy) -> None:
    with trio.fail_after(TOO_LONG):
        await webbuddy.until(webbuddy.all_ended)


async def at_work(webbuddy: WebBuddy, query: StoredQuery) -> None:
    """Wait until the handler has said so."""
    with trio.fail_after(TOO_LONG):
        await webbuddy.until(lambda: any("at work" in entry for entry in query.logs))


async def test_200_queries_pushed_and_polled_while_tokens_expire(tmp_path: Path) -> None:
    """200 queries, half pushed, half found by polling: each gets its own answer exactly once."""
    webbuddy = WebBuddy(access_lifetime=2, refresh_lifetime=5)
    handler = (
        "import trio\n"
        "async def handle(query, ctx):\n"
        "    ctx.log('one'); await trio.sleep(query.id % 7 / 10); ctx.log('two')\n"
        "    return 'answer to ' + query.query_text\n"
    )
    async with running(tmp_path, webbuddy, handler=handler, POLLING_INTERVAL="0.5") as worker:
        for number in range(20):
            for each in range(10):
                webbuddy.add_query(f"question {number}.{each}", push=each % 2 == 0)
            half = (number + 1) * 5
            with trio.fail_after(TOO_LONG):
                await webbuddy.until(lambda half=half: len(webbuddy.with_status("done")) >= half)
        await ended(webbuddy)
        worker.process.send_signal(signal.SIGTERM)
        stopped = json.loads(await worker.until(lambda line: '"stopped"' in line))
        assert stopped["pushes"] == {"accepted": 100, "refused": 0, "other_url": 0}
        assert await worker.wait() == 0, worker.output
    for query in webbuddy.queries.values():
        assert query.statuses == ["queued", "in_progress", "done"]
        assert query.answer_text == f"answer to {query.query_text}"
        log = " · ".join(query.logs)
        assert log.index("Claimed by") < log.index("one") < log.index("two") < log.index("Done after")
    assert webbuddy.calls["refresh", 200] + webbuddy.calls["login", 200] >= 3
    assert webbuddy.pushes["accepted"] == 100
    assert webbuddy.calls["claim_next", 200] == 200
    assert '"push"' in worker.output
    assert '"poll"' in worker.output


async def test_sigterm_lets_a_running_query_finish(tmp_path: Path) -> None:
    """SIGTERM in the middle of a query: it ends as done, a new one is left alone, exit 0."""
    webbuddy = WebBuddy()
    async with running(tmp_path, webbuddy, handler=HELD) as worker:
        first = webbuddy.add_query("first")
        await at_work(webbuddy, first)
        worker.process.send_signal(signal.SIGTERM)
        await worker.until(lambda line: "stopping" in line)
        second = webbuddy.add_query("second")
        (tmp_path / "go").touch()
        assert await worker.wait() == 0, worker.output
    assert (first.status, first.answer_text) == ("done", "let go"), worker.output
    assert second.status == "queued"


async def test_a_second_signal_puts_the_query_back_at_once(tmp_path: Path) -> None:
    """A second Ctrl-C does not wait for the grace: the query is queued again, exit 0."""
    webbuddy = WebBuddy()
    async with running(tmp_path, webbuddy, handler=HELD, WORKER_SHUTDOWN_GRACE="3600") as worker:
        query = webbuddy.add_query("first")
        await at_work(webbuddy, query)
        worker.process.send_signal(signal.SIGINT)
        await worker.until(lambda line: "stopping" in line)
        worker.process.send_signal(signal.SIGINT)
        assert await worker.wait() == 0, worker.output
    assert query.statuses == ["queued", "in_progress", "queued"]
    assert "Put back" in query.logs[-1]


async def test_the_end_of_the_grace_puts_the_query_back(tmp_path: Path) -> None:
    """What still runs at the end of the grace is cancelled and queued again, exit 0."""
    webbuddy = WebBuddy()
    async with running(tmp_path, webbuddy, handler=HELD, WORKER_SHUTDOWN_GRACE="9") as worker:
        query = webbuddy.add_query("first")
        await at_work(webbuddy, query)
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.wait() == 0, worker.output
    assert query.statuses == ["queued", "in_progress", "queued"]


async def test_a_handler_that_can_not_be_stopped(tmp_path: Path) -> None:
    """A handler that swallows its cancellation does not keep the process alive; its query is put back."""
    webbuddy = WebBuddy()
    # The grace is waited for in full. A shorter one leaves less than its five seconds for putting back,
    # which a busy machine may need.
    async with running(tmp_path, webbuddy, handler=STUBBORN, WORKER_SHUTDOWN_GRACE="15") as worker:
        query = webbuddy.add_query("first")
        await at_work(webbuddy, query)
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.wait() == 1, worker.output
    assert query.statuses == ["queued", "in_progress", "queued"]
    assert "could not be stopped" in worker.output


def lives(pid: int) -> bool:
    """Whether a process is there, and is not one that init has yet to reap."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


async def test_a_program_that_can_not_be_stopped(tmp_path: Path) -> None:
    """One that ignores SIGTERM is killed before its query is put back: two of it must not be at work."""
    program = tmp_path / "agent.sh"
    program.write_text("#!/bin/sh\ntrap '' TERM\necho at work $$ >&2\nwhile :; do sleep 1; done\n")
    program.chmod(0o755)
    webbuddy = WebBuddy()
    stop = {"WORKER_SHUTDOWN_GRACE": "15"}  # of which a quarter of the last five is for its own end
    async with running(tmp_path, webbuddy, WORKER_HANDLER="command:./agent.sh", **stop) as worker:
        query = webbuddy.add_query("first")
        await at_work(webbuddy, query)
        (group,) = [
            int(line.split()[-1]) for line in " · ".join(query.logs).split(" · ") if "at work" in line
        ]
        worker.process.send_signal(signal.SIGTERM)
        await webbuddy.until(lambda: query.status == "queued")
        assert not lives(group)
        assert await worker.wait() == 0, worker.output
    assert query.statuses == ["queued", "in_progress", "queued"]


async def test_a_blocking_call_is_named(tmp_path: Path) -> None:
    """A blocking call in an async handler is named with handler, file and line while it blocks."""
    webbuddy = WebBuddy()
    async with running(tmp_path, webbuddy, handler=BLOCKING) as worker:
        query = webbuddy.add_query("first")
        line = await worker.until(lambda line: "blocks the whole worker" in line)
        assert "agent:handle" in line
        assert f"{tmp_path / 'agent.py'}:5 in handle" in line
        assert f'"query": {query.id}' in line
        await ended(webbuddy)
    assert query.answer_text == "at last"


@pytest.mark.parametrize("signals", [1, 2])
async def test_a_blocked_loop_can_be_stopped(tmp_path: Path, signals: int) -> None:
    """A handler that never gives the loop back: the watchdog ends the process, at the second signal soon."""
    webbuddy = WebBuddy()
    grace = "3" if signals == 1 else "3600"
    async with running(tmp_path, webbuddy, handler=SPINNING, WORKER_SHUTDOWN_GRACE=grace) as worker:
        query = webbuddy.add_query("first")
        await worker.until(lambda line: "blocks the whole worker" in line)
        # Of two kinds: the kernel would make two of the same kind, sent at once, into one.
        for number in (signal.SIGTERM, signal.SIGINT)[:signals]:
            worker.process.send_signal(number)
        assert await worker.wait() == 1, worker.output
    assert query.status == "in_progress"
    assert "leaving by force" in worker.output


OPENED = """
import contextlib, time, trio

async def handle(query, ctx):
    return "well"

async def swallow():
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()

async def block():
    time.sleep(1000)

async def nothing():
    pass

@contextlib.asynccontextmanager
async def agent():
    print("opening", flush=True)
    await OPENING()
    try:
        yield handle
    finally:
        print("closing", flush=True)
        await CLOSING()
"""


@pytest.mark.parametrize("how", ["swallow", "block"])
async def test_what_does_not_close_does_not_keep_the_process(tmp_path: Path, how: str) -> None:
    """It has a share of the grace: by then all is reported, and the process ends by force."""
    webbuddy = WebBuddy()
    handler = OPENED.replace("OPENING", "nothing").replace("CLOSING", how)
    grace = {"WORKER_SHUTDOWN_GRACE": "6", "WORKER_HANDLER": "agent:agent"}
    async with running(tmp_path, webbuddy, handler=handler, **grace) as worker:
        query = webbuddy.add_query("first")
        await ended(webbuddy)
        worker.process.send_signal(signal.SIGTERM)
        await worker.until(lambda line: "closing" in line)
        assert await worker.wait() == 1, worker.output
    assert query.status == "done"
    assert "leaving by force" in worker.output


@pytest.mark.parametrize("how", ["swallow", "block"])
async def test_a_stop_while_it_opens_and_can_not_be_stopped(tmp_path: Path, how: str) -> None:
    """The process ends by force; nothing was claimed."""
    webbuddy = WebBuddy()
    query = webbuddy.add_query("first")
    handler = OPENED.replace("OPENING", how).replace("CLOSING", "nothing")
    grace = {"WORKER_SHUTDOWN_GRACE": "3", "WORKER_HANDLER": "agent:agent"}
    async with running(tmp_path, webbuddy, handler=handler, **grace) as worker:
        await worker.until(lambda line: "opening" in line)
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.wait() == 1, worker.output
    assert query.status == "queued"
    assert "leaving by force" in worker.output


async def test_wrong_password_at_the_start(tmp_path: Path) -> None:
    """A log-in refused at the start: one sentence, exit 3, no traceback, no password."""
    async with (
        serve_webbuddy(WebBuddy()) as url,
        start_worker(tmp_path, webbuddy_url=url, WORKER_PASSWORD="not-this-one") as worker,
    ):
        assert await worker.wait() == 3, worker.output
    assert "refused the log-in of user 'worker'" in worker.output
    assert "Traceback" not in worker.output
    assert "not-this-one" not in worker.output


async def test_wrong_settings(tmp_path: Path) -> None:
    """Everything that is wrong is said at once: exit 2, no traceback, nothing sent."""
    webbuddy = WebBuddy()
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(tmp_path, webbuddy_url=url, NUM_WORKERS="many", POLLING_INTERVAL="-1") as worker,
    ):
        assert await worker.wait() == 2, worker.output
    assert "NUM_WORKERS" in worker.output
    assert "POLLING_INTERVAL" in worker.output
    assert "Traceback" not in worker.output
    assert not webbuddy.requests


async def test_certificates_that_are_none(tmp_path: Path) -> None:
    """One sentence and 2, when it is found out only once the worker runs."""
    async with start_worker(
        tmp_path, webbuddy_url="https://127.0.0.1:1", SSL_CERT_FILE="nowhere.pem"
    ) as worker:
        assert await worker.wait() == 2
    assert (
        "trio-worker: SSL_CERT_FILE is 'nowhere.pem': expected the path of a readable file" in worker.output
    )
    assert "Traceback" not in worker.output


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """A port in use is the operator's matter: one sentence with the variable, exit 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        async with (
            serve_webbuddy(WebBuddy()) as url,
            start_worker(tmp_path, webbuddy_url=url, WORKER_BIND=bind) as worker,
        ):
            assert await worker.wait() == 2, worker.output
    assert f"WORKER_BIND is '{bind}': something listens there already: choose another" in worker.output
    assert "Traceback" not in worker.output


async def test_webbuddy_down_at_the_start(tmp_path: Path) -> None:
    """WebBuddy unreachable at the start: the worker waits for it, says so once, and works then."""
    webbuddy = WebBuddy(down=True)
    async with running(tmp_path, webbuddy) as worker:
        await worker.until(lambda line: "no query can be claimed" in line)
        query = webbuddy.add_query("late")
        webbuddy.down = False
        await ended(webbuddy)
        # A claim that was under way all along may have got the query; the outage ends with the next one.
        await worker.until(lambda line: "hands out queries again" in line)
    assert query.status == "done"
    assert worker.output.count("no query can be claimed") == 1
    assert worker.output.count("hands out queries again") == 1


async def test_a_unix_socket(tmp_path: Path) -> None:
    """WORKER_BIND may be a unix socket."""
    webbuddy = WebBuddy()
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(tmp_path, webbuddy_url=url, WORKER_BIND=f"unix:{tmp_path}/worker.sock") as worker,
    ):
        await worker.until(lambda line: "Running on" in line)
        transport = httpx.AsyncHTTPTransport(uds=str(tmp_path / "worker.sock"))
        query = webbuddy.add_query("over a unix socket")
        async with httpx.AsyncClient(transport=transport) as client:
            answer = await client.post(
                "http://worker/api/process-query", json={"query_id": query.id, "webbuddy_url": url}
            )
        assert (answer.status_code, answer.text) == (200, '{"status": "accepted"}')
        await ended(webbuddy)
    assert query.status == "done"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_stop_during_the_handlers_import(tmp_path: Path, number: signal.Signals) -> None:
    """A handler's module may load for minutes: Ctrl-C and SIGTERM end that at once, quietly, exit 0."""
    async with start_worker(tmp_path, webbuddy_url="http://127.0.0.1:9", handler=LOADING) as worker:
        await worker.until(lambda line: line == "loading")
        worker.process.send_signal(number)
        assert await worker.wait() == 0, worker.output
    assert worker.lines == ["loading"]


async def test_a_signal_at_the_very_end_is_too_late(tmp_path: Path) -> None:
    """While Python takes itself down, a second Ctrl-C makes no failure of a stop that went well."""
    async with start_worker(tmp_path, webbuddy_url="http://127.0.0.1:9", handler=LAST) as worker:
        await worker.until(lambda line: "Running on" in line)
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.wait() == 0, worker.output
    assert worker.lines[-1] == "was there to the very end"
