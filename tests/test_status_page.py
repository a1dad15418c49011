"""The status page in a real browser: what people see, on a phone, in the dark, and while it is cut off."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from tests.chromium import Chromium, Page, running_chromium
from trio_worker import Context, Query, QueryFailed
from trio_worker.testing import RunningWorker, WebBuddy, open_worker
from trio_worker.web import Guard, make_app
from trio_worker.web.hypercorn_fixes import install
from trio_worker.web.status_stream import MOST_LOOKERS

AXE = Path(__file__).parent / "axe-core" / "axe.min.js"

NAME = "<img src=x onerror=alert(1)>&amp;" + "TooLong" * 12  # a worker's name may be anything


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with running_chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@attrs.define
class Way:
    """The way from the browser to the worker, which can be cut.

    Attributes:
        port: Where the worker listens.
        is_cut: Whether it is.
    """

    port: int
    is_cut: bool = False
    _under_way: set[trio.CancelScope] = attrs.field(factory=set)

    def cut(self) -> None:
        """Let nothing through any more, not even of what is under way."""
        self.is_cut = True
        for scope in self._under_way:
            scope.cancel()

    async def carry(self, browser: trio.SocketStream) -> None:
        if self.is_cut:
            return
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as worker, trio.open_nursery() as both:
            self._under_way.add(both.cancel_scope)
            both.start_soon(self._pass, browser, worker, both.cancel_scope)
            await self._pass(worker, browser, both.cancel_scope)
        self._under_way.discard(both.cancel_scope)

    async def _pass(self, one: trio.SocketStream, other: trio.SocketStream, both: trio.CancelScope) -> None:
        try:
            async for part in one:
                await other.send_all(part)
        except trio.BrokenResourceError:
            pass
        both.cancel()


@attrs.define
class Scene:
    """A worker whose handler waits until it is told how to end, and its page.

    Attributes:
        worker: The worker.
        way: From the browser to it.
        url: Of the page.
        goes_on: Set: the handlers end.
    """

    worker: RunningWorker
    way: Way
    url: str
    goes_on: trio.Event

    def ask(self, text: str) -> int:
        return self.worker.webbuddy.add_query(text).id


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    goes_on = trio.Event()

    async def handle(query: Query, ctx: Context) -> str:
        if query.query_text != "at once":
            await goes_on.wait()
        if query.query_text == "fail":
            raise QueryFailed("for its author alone")
        return "ok"

    webbuddy = WebBuddy()
    async with (
        open_worker(handle, webbuddy=webbuddy, name=NAME, num_workers=3) as worker,
        serving(worker) as (url, way),
    ):
        yield Scene(worker, way, url, goes_on)
        goes_on.set()


@asynccontextmanager
async def serving(worker: RunningWorker, guard: Guard | None = None) -> AsyncIterator[tuple[str, Way]]:
    install()
    front = worker.front
    app = make_app(pushed=front.pushed, own_url="", status_page=front.status_page, guard=guard)

    stop = trio.Event()
    config = Config.from_mapping(bind=["127.0.0.1:0"], errorlog=None, graceful_timeout=0)
    async with trio.open_nursery() as nursery:
        [url] = await nursery.start(partial(serve, app, config, shutdown_trigger=stop.wait))
        way = Way(int(url.rpartition(":")[2]))
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(trio.serve_listeners, way.carry, [listener])
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}/", way
        stop.set()
        nursery.cancel_scope.cancel()


CELLS = "[...document.querySelectorAll('#places b')].map(cell => cell.textContent).sort().join(' ')"


def row_has(query: int, text: str) -> str:
    return (
        "[...document.querySelectorAll('#queries tbody tr')].some(row =>"
        f" row.cells[0].textContent === '#{query}' && row.cells[5].textContent === '{text}')"
    )


VIOLATIONS = (
    "axe.run().then(found => found.violations.map(({id, nodes}) => [id, nodes.map(node => node.html)]))"
)
WORD = "document.getElementById('word').textContent"
LIVE = "document.getElementById('details').checkVisibility()"  # what only the stream brings
NOTICE = "document.getElementById('connection').textContent"


async def test_it_follows_the_queries(scene: Scene, chromium: Chromium) -> None:
    """A consumer is free, busy, free again; how its query ended is in the table, a failure with its kind."""
    async with chromium.page(scene.url) as page:
        await page.until(LIVE)
        assert await page.evaluate(WORD) == "Waiting"
        assert await page.evaluate("document.getElementById('no-queries').checkVisibility()")
        assert await page.evaluate(CELLS) == "free free free"
        assert await page.text("h1") == NAME
        assert await page.text("#throughput figcaption") == "Queries a minute: none yet"
        good, bad = scene.ask("answer"), scene.ask("fail")
        await page.until(f"{CELLS} === '#{good} #{bad} free'")
        assert await page.evaluate(WORD) == "Working"
        assert "2 queries are at work, 1 consumer is free" in await page.text("#text")
        scene.goes_on.set()
        await page.until(f"{row_has(good, 'done')} && {row_has(bad, 'failed: said so')}")
        assert await page.evaluate(CELLS) == "free free free"
        assert "1 done, 1 failed" in await page.text("#throughput figcaption")
        bars = "[...document.querySelectorAll('#throughput .failed.bar')]"  # one a minute; most are empty
        assert await page.evaluate(f"{bars}.filter(bar => bar.height.baseVal.value > 0).length") == 1
        assert "author" not in await page.evaluate("document.documentElement.outerHTML")
        assert page.complaints == []  # nor does it do what our own policy forbids


async def test_a_handler_that_was_left_behind(chromium: Chromium) -> None:
    """It is said, of one as of one. Takes 6 s, most of which the handler has for ending."""
    goes_on = trio.Event()

    async def handle(query: Query, ctx: Context) -> str:
        with trio.CancelScope(shield=True):
            await goes_on.wait()
        return "too late"

    async with (
        open_worker(handle, webbuddy=WebBuddy(), processing_timeout=0.1) as worker,
        serving(worker) as (url, _way),
        chromium.page(url) as page,
    ):
        worker.webbuddy.add_query("never")
        facts = "document.getElementById('facts').textContent"
        await page.until(f"{facts}.includes('1 handler could not be stopped and still runs')")
        goes_on.set()


async def test_a_row_stays_where_it_is(scene: Scene, chromium: Chromium) -> None:
    """What is new comes above it: who has marked an id to copy it keeps that."""
    async with chromium.page(scene.url) as page:
        first = scene.ask("at once")
        await page.until(row_has(first, "done"))
        await page.evaluate("void (window.row = document.querySelector('#queries tbody tr'))")
        second = scene.ask("at once")
        await page.until(row_has(second, "done"))
        assert await page.evaluate("[...row.parentNode.rows].indexOf(row)") == 1


async def test_everybody_can_read_it(scene: Scene, chromium: Chromium) -> None:
    """axe-core finds nothing, on a phone nothing sticks out, and in the dark it is dark."""
    webbuddy, front = scene.worker.webbuddy, scene.worker.front
    scene.goes_on.set()
    for text in ("fail", "answer"):
        scene.ask(text)
    await webbuddy.until(webbuddy.all_ended)
    front.health.is_broken = True  # a line in another colour
    async with chromium.page(scene.url) as page:
        await page.until(row_has(1, "failed: said so"))
        await page.evaluate(f"{AXE.read_text(encoding='utf-8')}; void 0")
        for width, dark in ((1000, False), (1000, True), (360, True), (360, False)):
            await page.shape(width, dark=dark)
            assert await page.evaluate(VIOLATIONS) == []
            assert await page.evaluate("document.documentElement.scrollWidth") == width
            paper = await page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, paper.strip("rgb()").split(","))) < 200) == dark
        scene.way.cut()
        await page.until(f"{NOTICE} !== ''")
        assert await page.evaluate(VIOLATIONS) == []


async def test_a_lost_connection_is_said_and_comes_back(scene: Scene, chromium: Chromium) -> None:
    """What has happened meanwhile is there then."""
    async with chromium.page(scene.url) as page:
        await page.until(LIVE)
        assert await page.evaluate(NOTICE) == ""
        scene.way.cut()
        await page.until(f"{NOTICE} !== ''")
        assert "No connection to the worker since" in await page.text("#connection")
        query = scene.ask("at once")
        scene.way.is_cut = False
        await page.until(row_has(query, "done"))
        assert await page.evaluate(NOTICE) == ""


async def test_a_hidden_page_asks_for_nothing(scene: Scene, chromium: Chromium) -> None:
    """Nobody looks then; shown again, it goes on."""
    snapshots = scene.worker.front.status_page.snapshots

    async def hide(page: Page, hidden: str) -> None:
        await page.evaluate(
            f"Object.defineProperty(document, 'hidden', {{value: {hidden}, configurable: true}});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )

    async with chromium.page(scene.url) as page:
        await page.until(LIVE)
        assert snapshots.lookers == 1
        await hide(page, "true")
        with trio.fail_after(30):
            while snapshots.lookers:  # noqa: ASYNC110 - nobody is told
                await trio.sleep(0.01)
        query = scene.ask("at once")
        await hide(page, "false")
        await page.until(row_has(query, "done"))


async def test_too_many_look(scene: Scene, chromium: Chromium) -> None:
    """It says so."""
    scene.worker.front.status_page.snapshots.lookers = MOST_LOOKERS
    async with chromium.page(scene.url) as page:
        await page.until(f"{NOTICE} !== ''")
        assert await page.text("#connection") == "8 others look at this page already. Trying again."


async def test_with_a_token(scene: Scene, chromium: Chromium) -> None:
    """What the browser was asked for goes with the script, the style and the stream as well."""
    async with serving(scene.worker, Guard(admin_token="the-token")) as (url, _):
        async with chromium.page(url.replace("://", "://admin:the-token@")) as page:
            await page.until(LIVE)
            assert page.complaints == []
        async with chromium.page(url.replace("://", "://admin:another@")) as page:
            assert await page.evaluate("document.getElementById('state')") is None
