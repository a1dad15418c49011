"""Both ways to start the worker, as a process, with clients around it that mean no good."""

from __future__ import annotations

import resource
import select
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import trio

from tests.processes import TOO_LONG, WorkerProcess, start_worker
from tests.scrapes import parse
from tests.test_hypercorn_fixes import HEAD, PUSH
from trio_worker.testing import WebBuddy, serve_webbuddy
from trio_worker.web.connections import MOST

PUSH_TOKEN, ADMIN_TOKEN = "push-token-0123456789", "admin-token-0123456789"
RUN = ("-m", "trio_worker", "run")
HYPERCORN = ("-m", "hypercorn", "-k", "trio", "-b", "127.0.0.1:0", "trio_worker.asgi:app")

USUAL = 1_024
"""Files that a process may open, as most systems have it."""
LIMITED = f"""
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({USUAL}, {USUAL}))
sys.argv = ["trio-worker", "run"]
runpy.run_module("trio_worker", run_name="__main__")
"""
IDLE = 5_000

GIGABYTE = 1_000_000_000
CHUNKED = HEAD.replace(b"Content-Length: %d" % len(PUSH), b"Transfer-Encoding: chunked") + b"\r\n"
LONG = HEAD.replace(b"Length: %d" % len(PUSH), b"Length: %d" % GIGABYTE) + b"\r\n"
SIEGE: list[tuple[bytes, bytes, float]] = [
    (b"", b"", 0),
    (HEAD, b"", 0),
    (CHUNKED, b"", 0),
    (CHUNKED, b"10000\r\n" + b"x" * 65_536 + b"\r\n", 0),
    (LONG, b"x" * 65_536, 0),
    (HEAD, b"x", 1),
    (LONG, b"x", 1),
    (b"", b"x", 0.2),
]
"""What a client begins with, what it says then again and again, and after how many seconds each."""


@asynccontextmanager
async def besieged(
    folder: Path, command: tuple[str, ...], webbuddy: WebBuddy
) -> AsyncIterator[tuple[WorkerProcess, trio.Nursery]]:
    """Run a worker, and what besieges it as long."""
    tokens = {"WORKER_PUSH_TOKEN": PUSH_TOKEN, "WORKER_ADMIN_TOKEN": ADMIN_TOKEN, "POLLING_INTERVAL": "0.2"}
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(folder, webbuddy_url=url, command=command, **tokens) as worker,
        trio.open_nursery() as besiegers,
    ):
        await worker.until(lambda line: "Running on http://" in line)
        yield worker, besiegers
        assert PUSH_TOKEN not in worker.output
        assert ADMIN_TOKEN not in worker.output
        assert "Traceback" not in worker.output
        besiegers.cancel_scope.cancel()


async def goes_on(webbuddy: WebBuddy, worker: WorkerProcess) -> None:
    """See it claim and answer queries."""
    queries = [webbuddy.add_query(str(number), push=False) for number in range(5)]
    with trio.fail_after(TOO_LONG):
        await webbuddy.until(webbuddy.all_ended)
    assert {query.status for query in queries} == {"done"}, worker.output


@pytest.mark.parametrize("command", [RUN, HYPERCORN], ids=["run", "hypercorn"])
async def test_a_besieged_worker_goes_on_claiming(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Idle connections, heads and bodies that never end, that come byte by byte, or that are a gigabyte, in
    more than all places: queries are claimed and done meanwhile, found by polls and by a push with the token.
    Nothing of the tokens is printed, and no memory is lost to it.
    """
    webbuddy = WebBuddy()
    async with besieged(tmp_path, command, webbuddy) as (worker, besiegers):
        before = await figures(worker.url)
        sent: list[int] = []
        for number in range(MOST + 20):
            besiegers.start_soon(besiege, worker.url, sent, *SIEGE[number % len(SIEGE)])
        await goes_on(webbuddy, worker)
        await knock(worker.url)
        after = await figures(worker.url)
        assert max(sent, default=0) < GIGABYTE / 10  # of a body, before it was cut off
        assert_small(before, after)


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process have as many connections as the siege needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = IDLE + USUAL
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"needs {needed} open files, and the system allows {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
async def test_thousands_of_idle_connections(tmp_path: Path) -> None:
    """5 000 of them, each opened anew when it is closed, against a worker that may open 1 024 files: it
    claims, hears who asks, and takes no more memory and no more files than its 64 places need.
    """
    webbuddy = WebBuddy()
    async with besieged(tmp_path, ("-c", LIMITED), webbuddy) as (worker, besiegers):
        before = await figures(worker.url)
        opened: list[int] = []
        besiegers.start_soon(besiege_idly, worker.url, opened)
        await goes_on(webbuddy, worker)
        async with httpx.AsyncClient(timeout=TOO_LONG) as client:
            assert (await client.get(f"{worker.url}/livez")).status_code == 200
        after = await figures(worker.url)
        assert len(opened) > IDLE  # some were closed meanwhile, and came again
        assert_small(before, after)


def assert_small(before: dict[str, float], after: dict[str, float]) -> None:
    """Each place costs two files at most, and not a megabyte."""
    if sys.platform != "linux":  # where prometheus_client can't tell
        return
    assert after["process_open_fds"] - before["process_open_fds"] < MOST + 30
    grown = after["process_resident_memory_bytes"] - before["process_resident_memory_bytes"]
    assert grown < 30_000_000


async def knock(url: str) -> None:
    """Push without the token, and with it; ask how it is, as whom it concerns and as nobody."""
    async with httpx.AsyncClient(timeout=TOO_LONG) as client:
        push, ready = f"{url}/api/process-query", f"{url}/readyz"
        assert (await client.post(push, json={"query_id": 1})).status_code == 401
        good = push.replace("http://", f"http://push:{PUSH_TOKEN}@")
        assert (await client.post(good, json={"query_id": 1})).status_code == 200
        assert (await client.get(ready)).status_code == 401
        assert (await client.get(ready, auth=("me", ADMIN_TOKEN))).status_code == 200
        assert (await client.get(f"{url}/livez")).status_code == 200


async def figures(url: str) -> dict[str, float]:
    """Scrape it, as Prometheus does with ``authorization: {credentials: TOKEN}``."""
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    async with httpx.AsyncClient(timeout=TOO_LONG) as client:
        answer = await client.get(f"{url}/metrics", headers=headers)
    assert answer.status_code == 200
    return {name: value for (name, _), value in parse(answer.text).items()}


async def besiege(url: str, sent: list[int], first: bytes, then: bytes, pause: float) -> None:
    """Take a connection, again and again, and say something that has no end; count what it took of it."""
    port = int(url.rpartition(":")[2])
    while True:
        with suppress(OSError, trio.BrokenResourceError):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(first)
                count = 0
                try:
                    while then and count < GIGABYTE:
                        await stream.send_all(then)
                        count += len(then)
                        await trio.sleep(pause)
                    await stream.receive_some()
                finally:
                    sent.append(count)


async def besiege_idly(url: str, opened: list[int]) -> None:
    """Keep `IDLE` connections that say nothing, and list the ports that were asked."""
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    with _idle_connections() as idle:
        closed = select.poll()
        for _ in range(IDLE):
            _connect(idle, closed, address)
            opened.append(address[1])
        while True:
            for number, _ in closed.poll(0):
                closed.unregister(number)
                idle.pop(number).close()
                _connect(idle, closed, address)
                opened.append(address[1])
            await trio.sleep(0.1)


@contextmanager
def _idle_connections() -> Iterator[dict[int, socket.socket]]:
    idle: dict[int, socket.socket] = {}
    try:
        yield idle
    finally:
        for one in idle.values():
            one.close()


def _connect(idle: dict[int, socket.socket], closed: select.poll, address: tuple[str, int]) -> None:
    one = socket.socket()
    idle[one.fileno()] = one
    one.setblocking(False)
    one.connect_ex(address)
    closed.register(one, select.POLLIN)
