"""The processes behind one address: each is asked, whichever of them is scraped. Real sockets."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from tests.processes import TOO_LONG
from tests.scrapes import Sample, parse
from tests.test_asgi import running
from trio_worker.neighbours import ANSWERS_WITHIN, Heard, Neighbours
from trio_worker.runners import inline
from trio_worker.state_folder import Address, StateFolder
from trio_worker.testing import WebBuddy
from trio_worker.web import Readiness, make_app


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    made = StateFolder(tmp_path, Address("http://webbuddy.test", "worker"))
    made.make()
    return made


@pytest.fixture
def clock() -> MockClock:
    """Let time jump once nothing has moved for a moment: both ends of each connection are here."""
    return MockClock(autojump_threshold=0.01)


@asynccontextmanager
async def living(folder: StateFolder, said: Any, group: str = "a") -> AsyncIterator[Neighbours]:
    neighbours = Neighbours(group)
    async with neighbours.open(folder, {"figures": lambda: said}, runner=inline):
        yield neighbours


async def test_each_can_ask_all_others(folder: StateFolder, clock: MockClock) -> None:
    """But itself, and those of another group; by their numbers, and for what there is."""
    with trio.fail_after(30):
        async with (
            living(folder, "zero") as zero,
            living(folder, ["one"]) as one,
            living(folder, "two", group="b") as two,
            living(folder, {"three": 3}) as three,
        ):
            assert [each.number for each in (zero, one, two, three)] == [0, 1, 2, 3]
            assert await zero.ask("figures") == {1: ["one"], 3: {"three": 3}}
            assert await three.ask("figures") == {0: "zero", 1: ["one"]}
            assert await two.ask("figures") == {}
            assert await zero.ask("what is not known") == {}


async def test_nothing_is_left(folder: StateFolder) -> None:
    """Of one that has ended; before and after it there is nobody to ask."""
    async with living(folder, "zero") as zero:
        assert oct((folder.path / "process-0.sock").stat().st_mode)[-3:] == "600"
    assert list(folder.path.iterdir()) == []
    assert await zero.ask("figures") == {}


async def test_one_is_alone_at_something(folder: StateFolder) -> None:
    """Of all on the folder, whatever their group; then the next. Who has no neighbours always is."""
    async with living(folder, "zero") as zero, living(folder, "one", group="b") as one:
        async with zero.alone_at("queue") as first, one.alone_at("queue") as second:
            assert (first, second) == (True, False)
            async with one.alone_at("another") as third:
                assert third
        async with one.alone_at("queue") as then:
            assert then
    assert list(folder.path.iterdir()) == []
    async with Neighbours().alone_at("queue") as alone, Neighbours().alone_at("queue") as too:
        assert alone
        assert too


async def test_a_number_is_taken_again(
    folder: StateFolder, monkeypatch: pytest.MonkeyPatch, clock: MockClock
) -> None:
    """By whoever starts next, also when its process was killed, which leaves its socket behind."""
    monkeypatch.chdir(folder.path)  # a socket's path is short
    async with living(folder, "zero"), living(folder, "one") as one:
        pass
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind("process-1.sock")
    async with living(folder, "zero") as zero:
        assert await zero.ask("figures") == {}
        async with living(folder, "new") as new:
            assert new.number == one.number == 1
            assert await zero.ask("figures") == {1: "new"}


async def test_who_does_not_answer_is_left_out(
    folder: StateFolder, monkeypatch: pytest.MonkeyPatch, clock: MockClock
) -> None:
    """In half a second, and the others' answers are there all the same."""
    monkeypatch.chdir(folder.path)
    async with living(folder, "zero") as zero, living(folder, "one"):
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as hanging:
            hanging.bind("process-7.sock")
            hanging.listen()
            began = trio.current_time()
            assert await zero.ask("figures") == {1: "one"}
            assert trio.current_time() - began == pytest.approx(ANSWERS_WITHIN)


def fill(listener: socket.socket, waiting: contextlib.ExitStack) -> None:
    """Have as many wait to be accepted as there may be."""
    with contextlib.suppress(BlockingIOError):
        while True:
            one_more = waiting.enter_context(socket.socket(socket.AF_UNIX))
            one_more.setblocking(False)
            one_more.connect(listener.getsockname())


async def test_who_is_silent(folder: StateFolder, monkeypatch: pytest.MonkeyPatch, clock: MockClock) -> None:
    """One that has answered and lives, also when many wait for it; none that has ended, or is another's."""
    monkeypatch.chdir(folder.path)
    async with living(folder, "zero") as zero:
        async with living(folder, "one"):
            assert await zero.hear("figures") == Heard({1: "one"}, set())
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as hanging:
            hanging.bind("process-1.sock")
            hanging.listen()
            await trio.Path("process-7.sock").symlink_to("process-1.sock")
            assert await zero.hear("figures") == Heard({}, {1})
            with contextlib.ExitStack() as waiting:
                fill(hanging, waiting)
                assert await zero.hear("figures") == Heard({}, {1})
        assert await zero.hear("figures") == Heard({}, set())


async def test_who_asks_badly(folder: StateFolder, monkeypatch: pytest.MonkeyPatch, clock: MockClock) -> None:
    """Too much, nothing, or no line: the connection is closed, and the next is answered."""
    monkeypatch.chdir(folder.path)
    async with living(folder, "zero"), living(folder, "one") as one:
        for nonsense in (b"x" * 5000, b"", b"\xff\n", b"figures\n"):
            stream = await trio.open_unix_socket("process-0.sock")
            async with stream:
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(nonsense)
                    await stream.send_eof()
                    assert await stream.receive_some() == b""
        assert await one.ask("figures") == {0: "zero"}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="elsewhere the worker says that it can't")
async def test_a_folder_that_lies_deep(tmp_path: Path, clock: MockClock) -> None:
    """A socket's path has 107 bytes; a state folder's may have more."""
    folder = StateFolder(tmp_path / ("deep" * 30), Address("http://webbuddy.test", "worker"))
    folder.make()
    open_before = len(os.listdir("/proc/self/fd"))
    async with living(folder, "zero"), living(folder, "one") as one:
        assert await one.ask("figures") == {0: "zero"}
    assert len(os.listdir("/proc/self/fd")) == open_before


async def test_a_folder_without_sockets(folder: StateFolder, events: list[EventDict]) -> None:
    """The worker works on, alone, and says so."""
    (folder.path / "process-0.sock").mkdir()
    async with living(folder, "zero") as zero:
        assert await zero.ask("figures") == {}
    (event,) = events
    assert event["log_level"] == "warning"
    assert event["event"].startswith("/metrics shows this process alone")


async def test_the_figures_of_all_processes(tmp_path: Path) -> None:
    """Two children of hypercorn: whichever is asked gives both, told apart, and all that was done."""
    webbuddy = WebBuddy()
    async with running(tmp_path, webbuddy, "--workers", "2", processes=2, NUM_WORKERS="2") as worker:
        for number in range(6):
            (tmp_path / str(number)).touch()
            webbuddy.add_query(str(number))
        done: dict[str, float] = {}
        with trio.fail_after(TOO_LONG):
            await webbuddy.until(webbuddy.all_ended)
            async with httpx.AsyncClient(base_url=worker.url, timeout=TOO_LONG) as client:
                # A process counts a result when it hears that WebBuddy has it; one may be too busy to answer.
                while sum(done.values()) < 6 or len(done) < 2:
                    page = parse((await client.get("/metrics")).text)
                    done = done_by_process(page)
    assert page["trio_worker_processes", ()] == 2
    assert set(done) == {"0", "1"}
    assert sum(done.values()) == 6


def done_by_process(page: dict[Sample, float]) -> dict[str, float]:
    return {
        dict(labels)["process"]: value
        for (name, labels), value in page.items()
        if name == "trio_worker_queries_total" and dict(labels)["outcome"] == "done"
    }


async def test_ready_together(folder: StateFolder, clock: MockClock) -> None:
    """One that is ready does for all, with a note for the other; where none is, each says why."""
    readiness, neighbours = Readiness(), Neighbours("a")
    readiness.ask(service=lambda: None)
    other: dict[str, Any] = {"reasons": {"pause": "it is paused"}, "notes": {}}
    app = make_app(pushed=lambda _: None, own_url="", readiness=readiness, neighbours=neighbours)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://worker")  # type: ignore[arg-type]
    other_one = Neighbours("a", 1)
    async with (
        client,
        neighbours.open(folder, {}, runner=inline),
        other_one.open(folder, {"readiness": lambda: other}, runner=inline),
    ):
        assert (neighbours.number, other_one.number) == (0, 1)
        answer = await client.get("/readyz")
        assert answer.status_code == 200
        assert answer.json() == {"ready": True, "reasons": {}, "notes": {"pause": "process 1: it is paused"}}
        readiness.ask(login=lambda: "refused")
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        said = {"login": "process 0: refused", "pause": "process 1: it is paused"}
        assert answer.json() == {"ready": False, "reasons": said}
        readiness.ask(login=lambda: None, pause=lambda: "it is paused")
        assert (await client.get("/readyz")).json()["reasons"] == {"pause": "it is paused"}
