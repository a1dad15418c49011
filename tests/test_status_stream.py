"""What feeds the status page: when, for how many, and for how long; and the page as it is served."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from quart_trio import QuartTrio
from trio.testing import MockClock

from trio_worker.neighbours import Neighbours
from trio_worker.runners import inline
from trio_worker.state_folder import Address, StateFolder
from trio_worker.web import make_app
from trio_worker.web.status_page import STATIC, StatusPage
from trio_worker.web.status_stream import BEAT, EVERY, MOST_LOOKERS, Snapshots, StatusStream

ROOT = Path(__file__).parent.parent
STATE = {"level": "good", "word": "Working", "text": "All is well."}


@attrs.define
class Source:
    """What is shown, and how often somebody has asked for it."""

    shown: dict[str, Any] = attrs.field(factory=lambda: {"state": STATE})
    asked: int = 0

    def __call__(self) -> dict[str, Any]:
        self.asked += 1
        return self.shown


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def page(source: Source) -> StatusPage:
    page = StatusPage()
    page.show(source)
    return page


@pytest.fixture
def app(page: StatusPage) -> QuartTrio:
    return make_app(pushed=lambda _: None, own_url="", status_page=page)


def client_of(app: QuartTrio) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://worker")  # type: ignore[arg-type]


# --- The stream --------------------------------------------------------------------------------------


@asynccontextmanager
async def looking(snapshots: Snapshots, came: list[tuple[float, str, Any]]) -> AsyncIterator[None]:
    """Somebody looks: when what has come."""

    async def look() -> None:
        async with StatusStream(snapshots) as stream:
            async for event in stream:
                name, data = re.findall(rb"^(?:event|data): (.*)$", event, re.MULTILINE)
                came.append((trio.current_time(), name.decode(), json.loads(data)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await trio.testing.wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


async def test_a_change_is_sent_within_a_second(
    page: StatusPage, source: Source, autojump_clock: MockClock
) -> None:
    """Whoever comes has a snapshot at once, and the next when there is something new."""
    came: list[tuple[float, str, Any]] = []
    async with looking(page.snapshots, came):
        await trio.sleep(1.9)
        source.shown = {"state": {**STATE, "word": "Waiting"}}
        await trio.sleep(0.6)
    assert [(at, name, sent["is"]["state"]["word"]) for at, name, sent in came] == [
        (0, "snapshot", "Working"),
        (2, "snapshot", "Waiting"),
    ]


async def test_while_nothing_changes_there_is_a_sign_of_life(
    page: StatusPage, autojump_clock: MockClock
) -> None:
    """Or a page could not tell it from a connection that is lost."""
    came: list[tuple[float, str, Any]] = []
    async with looking(page.snapshots, came):
        await trio.sleep(10.5)
    assert [(at, name) for at, name, _ in came[1:]] == [(at, "beat") for at in (BEAT, 2 * BEAT, 3 * BEAT)]


async def test_it_costs_nothing_while_nobody_looks(
    page: StatusPage, source: Source, autojump_clock: MockClock
) -> None:
    """And the same for one as for many: a snapshot a second, or two where they are out of step."""
    await trio.sleep(60)
    assert source.asked == 0
    async with looking(page.snapshots, []), looking(page.snapshots, []):
        await trio.sleep(0.7)
        async with looking(page.snapshots, []), looking(page.snapshots, []):
            await trio.sleep(10 * EVERY)
    assert 11 <= source.asked <= 22
    before = source.asked
    await trio.sleep(60)
    assert (source.asked, page.snapshots.lookers) == (before, 0)


async def test_it_is_packed(page: StatusPage, source: Source, autojump_clock: MockClock) -> None:
    """Each event can be read as soon as it has come; one that is much like the last is a tenth as long."""
    many = [
        [number, number, 1, "push", 0.0123, 1.2345, "done", "", 1795000000.0 + number]
        for number in range(100)
    ]
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    sizes = []
    async with StatusStream(page.snapshots, packed=True) as stream:
        for count in (100, 99):
            source.shown = {"state": STATE, "queries": many[:count]}
            event = await anext(aiter(stream))
            sizes.append(len(event))
            _, data = unpacker.decompress(event).decode().split("data: ")
            assert json.loads(data)["is"] == source.shown
        page.end()
        assert unpacker.decompress(await anext(aiter(stream))) == b": over\n\n"
    assert unpacker.eof
    assert sizes[1] * 10 < sizes[0]


async def test_only_so_many_may_look(page: StatusPage, autojump_clock: MockClock) -> None:
    """One more is told to come back later; when somebody has gone there is a place."""
    came: list[tuple[float, str, Any]] = []
    async with trio.open_nursery() as nursery:
        for _ in range(MOST_LOOKERS):
            nursery.start_soon(_look_on, page.snapshots)
        await trio.testing.wait_all_tasks_blocked()
        async with looking(page.snapshots, came):
            await trio.sleep(10)
        assert [(name, sent) for _, name, sent in came] == [("full", MOST_LOOKERS)]
        assert page.snapshots.lookers == MOST_LOOKERS
        nursery.cancel_scope.cancel()
    async with looking(page.snapshots, came):
        assert came[-1][1] == "snapshot"


async def _look_on(snapshots: Snapshots) -> None:
    async with StatusStream(snapshots) as stream:
        async for _ in stream:
            pass


async def test_it_ends_with_the_service(page: StatusPage, autojump_clock: MockClock) -> None:
    """At once: the server waits for what is under way."""
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_look_on, page.snapshots)
            await trio.sleep(2.5)
            page.end()
    assert trio.current_time() == 2.5


# --- The way to the browser --------------------------------------------------------------------------


def scope(method: str = "GET", path: str = "/status/events") -> dict[str, Any]:
    return {
        "type": "http",
        "method": method,
        "path": path,
        "http_version": "2",
        "scheme": "http",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": None,
    }


def request_until(hangs_up: trio.Event) -> Callable[[], Awaitable[dict[str, Any]]]:
    """An ASGI `receive`: a request without a body, and its client."""
    events = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> dict[str, Any]:
        for event in events:
            return event
        await hangs_up.wait()
        return {"type": "http.disconnect"}

    return receive


@pytest.mark.parametrize("reads", [0, 1, 2])
async def test_who_does_not_read_is_left(
    app: QuartTrio, page: StatusPage, reads: int, autojump_clock: MockClock
) -> None:
    """On HTTP/2 one need only grant no window. The place is free again after some seconds."""
    sent: list[Any] = []

    async def send(event: Any) -> None:
        if len(sent) >= reads:
            await trio.sleep_forever()
        sent.append(event)

    with trio.fail_after(10):
        await app(scope(), request_until(trio.Event()), send)  # type: ignore[arg-type]
    assert page.snapshots.lookers == 0
    assert trio.current_time() == pytest.approx(5 if reads < 2 else 6, abs=3)


async def test_who_hangs_up_is_gone(app: QuartTrio, page: StatusPage, autojump_clock: MockClock) -> None:
    """However long there is nothing to send."""
    hangs_up = trio.Event()
    sent: list[Any] = []

    async def send(event: Any) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(event)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(app, scope(), request_until(hangs_up), send)
        await trio.sleep(200)  # longer than Quart would let an answer take
        assert page.snapshots.lookers == 1
        assert sent[-1]["body"].startswith(b"event: beat\n")
        hangs_up.set()
    assert page.snapshots.lookers == 0
    headers = dict(sent[0]["headers"])
    assert b"content-encoding" not in headers
    assert headers[b"content-type"] == b"text/event-stream"
    assert headers[b"cache-control"] == b"no-store"


async def test_a_head_of_the_stream_has_an_end(app: QuartTrio, autojump_clock: MockClock) -> None:
    """It has no body to wait for."""
    with trio.fail_after(5):
        async with client_of(app) as client:
            assert (await client.head("/status/events")).status_code == 200


# --- The page ----------------------------------------------------------------------------------------


async def test_the_page_without_a_script(app: QuartTrio, source: Source) -> None:
    """It shows the state, and nothing in it is taken for HTML."""
    source.shown = {"worker": "<b>w</b>", "state": {**STATE, "text": "<script>alert(1)</script>"}}
    async with client_of(app) as client:
        answer = await client.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "&lt;b&gt;w&lt;/b&gt;" in answer.text
    assert "&lt;script&gt;alert(1)" in answer.text
    assert "<script>" not in answer.text


async def test_the_page_needs_nobody_else(app: QuartTrio) -> None:
    """All that it names is here; no script and no style stands in it, so any policy will do."""
    async with client_of(app) as client:
        page = (await client.get("/")).text
        named = re.findall(r'(?:src|href)="([^"]*)"', page)
        assert sorted(named) == ["icon.svg", "status.css", "status.js"]
        for name in named:
            answer = await client.get(f"/{name}")
            assert answer.status_code == 200
            assert answer.content == (STATIC / name).read_bytes()
            assert not re.search(
                r"https?://(?!www\.w3\.org/2000/svg)|@import|innerHTML|\beval\b", answer.text
            )
    assert not re.search(r'<style|\bstyle="|\bon\w+="|javascript:|<script(?! src="status.js")', page)


async def test_without_a_page_there_is_nothing() -> None:
    """For whoever serves the push endpoint alone."""
    async with client_of(make_app(pushed=lambda _: None, own_url="")) as client:
        for path in ("/", "/status/events", "/status.js"):
            assert (await client.get(path)).status_code == 404


def test_the_wheel_has_it(tmp_path: Path) -> None:
    """Template, script, style and icon are installed with the package."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    [wheel] = tmp_path.glob("*.whl")
    web = {path.relative_to(ROOT).as_posix() for path in (ROOT / "trio_worker" / "web").glob("*/*.*")}
    web = {path for path in web if "__pycache__" not in path}
    assert len(web) == 4
    assert web <= set(zipfile.ZipFile(wheel).namelist())


# --- Several processes -------------------------------------------------------------------------------


async def test_all_processes_are_shown(tmp_path: Path) -> None:
    """Whichever is looked at, with its page without a script; they are asked once a second. Real sockets."""
    folder = StateFolder(tmp_path, Address("http://webbuddy.test", "worker"))
    folder.make()
    asked = 0

    def other() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return {"state": {**STATE, "level": "bad", "word": "Ill", "text": "It hangs."}}

    mine, theirs = Neighbours("a"), Neighbours("a")
    page = StatusPage(neighbours=mine)
    page.show(lambda: {"state": STATE})
    async with (
        mine.open(folder, {}, runner=inline),
        theirs.open(folder, {"overview": other}, runner=inline),
        client_of(make_app(pushed=lambda _: None, own_url="", status_page=page)) as client,
    ):
        assert "process 1: It hangs." in (await client.get("/")).text
        assert json.loads(await page.snapshots.text())["state"]["word"] == "Ill"
        assert asked == 1
