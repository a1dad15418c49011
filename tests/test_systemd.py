"""What systemd is told, over a real datagram socket."""

from __future__ import annotations

import signal
import socket
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from tests.processes import TOO_LONG, start_worker
from trio_worker.liveness import Liveness
from trio_worker.stop import Stop
from trio_worker.systemd import Systemd
from trio_worker.testing import WebBuddy, serve_webbuddy


class Manager:
    """A systemd that only listens."""

    def __init__(self, path: str) -> None:
        self.address = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + path[1:] if path.startswith("@") else path)
        self.socket.setblocking(False)
        self.unread: deque[str] = deque()

    def heard(self) -> list[list[str]]:
        """All datagrams since the last call, each as its lines."""
        datagrams = []
        try:
            while True:
                datagrams.append(self.socket.recv(4096).decode().splitlines())
        except BlockingIOError:
            return datagrams

    async def until(self, wanted: str) -> None:
        """Wait for a line behind the last one that was waited for."""
        with trio.fail_after(TOO_LONG):
            while True:
                while self.unread:
                    if self.unread.popleft() == wanted:
                        return
                await trio.lowlevel.wait_readable(self.socket)
                self.unread += [line for datagram in self.heard() for line in datagram]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    with manager.socket:
        yield manager


# --- The environment --------------------------------------------------------------------------------


def test_it_is_found_and_no_child_finds_it() -> None:
    """Another process's watchdog is not ours to feed."""
    environ = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "2000000", "HOME": "/"}
    found = Systemd.from_environ(environ)
    assert found is not None
    assert (found.address, found.watchdog) == ("/run/notify", 2.0)
    assert environ == {"HOME": "/"}
    other = Systemd.from_environ({"NOTIFY_SOCKET": "@a", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"})
    assert other is not None
    assert (other.address, other.watchdog) == ("@a", float("inf"))


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_it_is_not_there(environ: dict[str, str]) -> None:
    assert Systemd.from_environ(environ) is None


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="abstract sockets are Linux's")
def test_an_abstract_socket() -> None:
    manager = Manager("@trio-worker test " + str(id(object())))
    with manager.socket:
        Systemd(manager.address).say("READY=1", "STATUS=Привет")
        assert manager.heard() == [["READY=1", "STATUS=Привет"]]


def test_a_socket_that_is_gone_is_told_once(tmp_path: Path, events: list[EventDict]) -> None:
    systemd = Systemd(str(tmp_path / "nowhere"))
    systemd.say("READY=1")
    systemd.say("WATCHDOG=1")
    assert [event["log_level"] for event in events] == ["warning"]


# --- What is said when, in virtual time -------------------------------------------------------------


async def test_from_the_start_to_the_end(
    autojump_clock: MockClock, manager: Manager, nursery: trio.Nursery
) -> None:
    """READY once, though WebBuddy is down; a status when it changes; fed while no loop is late."""
    liveness, stop = Liveness(), Stop(grace=25, reserve=5)
    reasons = {"service": "it has not started yet"}
    systemd = Systemd(manager.address, watchdog=10.0)

    async def run() -> None:
        await systemd.keep_informed(readiness=lambda: reasons, late=lambda: liveness.reasons, stop=stop)

    nursery.start_soon(run)
    await trio.sleep(0.1)
    assert manager.heard() == [["STATUS=service: it has not started yet", "WATCHDOG=1"]]
    reasons.clear()
    reasons["login"] = "it has not logged in\nto WebBuddy yet"
    await trio.sleep(0.3)
    assert ["READY=1", "STATUS=login: it has not logged in to WebBuddy yet", "WATCHDOG=1"] in manager.heard()
    reasons.clear()
    await trio.sleep(51)
    said = manager.heard()
    assert said.pop(0) == ["STATUS=takes queries", "WATCHDOG=1"]
    assert said == [["WATCHDOG=1"]] * 9
    pulse = liveness.pulse("ticker")
    pulse.within(-26)
    await trio.sleep(100)
    before, late, *rest = manager.heard()
    assert before == ["WATCHDOG=1"]
    assert len(late) == 1
    assert late[0].startswith("STATUS=ticker: it should have gone on 3")
    assert all("WATCHDOG=1" not in lines for lines in rest)
    pulse.rest()
    await trio.sleep(5)
    assert ["STATUS=takes queries", "WATCHDOG=1"] in manager.heard()
    stop.drain()
    reasons["service"] = "it drains"
    await trio.sleep(5)
    assert manager.heard() == [["STATUS=service: it drains", "WATCHDOG=1"]]
    stop.ask()
    await trio.sleep(0.1)
    assert manager.heard() == [["STOPPING=1", "WATCHDOG=1"]]
    await trio.sleep(5)
    assert manager.heard() == [["WATCHDOG=1"]]
    nursery.cancel_scope.cancel()


async def test_without_a_watchdog_it_is_not_fed(
    autojump_clock: MockClock, manager: Manager, nursery: trio.Nursery
) -> None:
    systemd, stop = Systemd(manager.address), Stop(grace=25, reserve=5)

    async def run() -> None:
        await systemd.keep_informed(readiness=dict, late=dict, stop=stop)

    nursery.start_soon(run)
    await trio.sleep(100)
    assert manager.heard() == [["READY=1", "STATUS=takes queries"]]
    nursery.cancel_scope.cancel()


# --- A real process ---------------------------------------------------------------------------------


async def test_a_real_worker(tmp_path: Path, manager: Manager) -> None:
    """Ready when it listens, fed while it lives, and its end is told. A handler can't see that socket."""
    webbuddy = WebBuddy()
    handler = "import os\nasync def handle(query, ctx):\n    return str(os.environ.get('NOTIFY_SOCKET'))\n"
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(
            tmp_path,
            webbuddy_url=url,
            handler=handler,
            POLLING_INTERVAL="0.5",
            NOTIFY_SOCKET=manager.address,
            WATCHDOG_USEC="200000",
        ) as worker,
    ):
        await manager.until("READY=1")
        assert "Running on" in worker.output
        await manager.until("STATUS=takes queries")
        for _ in range(3):
            await manager.until("WATCHDOG=1")
        query = webbuddy.add_query("a question", push=False)
        with trio.fail_after(TOO_LONG):
            await webbuddy.until(webbuddy.all_ended)
        assert query.answer_text == "None"
        worker.process.send_signal(signal.SIGTERM)
        await manager.until("STOPPING=1")
        assert await worker.wait() == 0, worker.output
