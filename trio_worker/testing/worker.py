"""The whole worker in a test: its service and its push endpoint, over an embedded WebBuddy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import attrs
import httpx
import trio

from trio_worker.bus import Bus, NoBus
from trio_worker.capture import Capture
from trio_worker.errand import Errand
from trio_worker.front import Front
from trio_worker.handlers.loading import Handler
from trio_worker.journal import Journal, open_journal
from trio_worker.parts import Given
from trio_worker.runners import Runner, inline, open_thread
from trio_worker.service import run_service
from trio_worker.settings import Settings
from trio_worker.state_folder import Address, StateFolder
from trio_worker.stop import Stop
from trio_worker.testing.state import StoredQuery
from trio_worker.testing.trial import HandlerFunction, look_at
from trio_worker.testing.virtual_time import same_time, time_is_virtual, time_of_the_test
from trio_worker.testing.webbuddy import WebBuddy
from trio_worker.watchdog import watchdog
from trio_worker.webbuddy import open_webbuddy

__all__ = ["OpenWorker", "RunningWorker", "open_worker"]


@attrs.define
class RunningWorker:
    """A worker at work in the same program.

    Attributes:
        webbuddy: The WebBuddy that it works for: its state, knobs and counters.
        settings: What it runs with.
        stop: `Stop.ask` stops it as a signal would.
        front: Shared by its push endpoint and its consumers.
        ended: Set when its service has ended.
        journal: What it holds; None until it has begun.
        abandoned: Set when it would have ended its process by force: a handler can't be stopped.
    """

    webbuddy: WebBuddy
    settings: Settings
    stop: Stop
    front: Front
    ended: trio.Event = attrs.field(factory=trio.Event)
    abandoned: trio.Event = attrs.field(factory=trio.Event)
    journal: Journal | None = None

    async def ask(self, text: str, *, project: int = 1, push: bool = True) -> StoredQuery:
        """Create a query as a user would, and wait until it is ``done`` or ``failed``.

        Args:
            text: What the user writes.
            project: The number of the project.
            push: Whether WebBuddy tells the worker; if not, polling finds it.
        """
        query = self.webbuddy.add_query(text, project=project, push=push)
        await self.webbuddy.until(lambda: query.status in ("done", "failed"))
        return query


class OpenWorker(Protocol):
    """What the pytest fixture `open_worker` gives: the function of that name, for the test's own WebBuddy."""

    def __call__(
        self,
        handler: HandlerFunction | Handler | str,
        *,
        state_dir: Path | None = None,
        errand: Errand | None = None,
        **settings: Any,
    ) -> AbstractAsyncContextManager[RunningWorker]:
        """Run the whole worker; see `trio_worker.testing.open_worker`."""
        ...


@asynccontextmanager
async def open_worker(
    handler: HandlerFunction | Handler | str,
    *,
    webbuddy: WebBuddy | None = None,
    state_dir: Path | None = None,
    errand: Errand | None = None,
    abandon: Callable[[], None] | None = None,
    bus: Bus | None = None,
    **settings: Any,
) -> AsyncIterator[RunningWorker]:
    """Run the whole worker with this handler, without sockets. Works in virtual time.

    ::

        async def test_my_handler(autojump_clock):
            async with open_worker(handle) as worker:
                query = await worker.ask("Is the login page up?")
            assert query.status == "done"

    Leaving the block stops it as a signal would, and waits for that.

    Args:
        handler: The handler, async or plain, or the function that opens one; as a text, what
            ``WORKER_HANDLER`` may be, such as ``"process:agent:handle"``. Virtual time waits neither for
            threads or processes nor for the network: where a handler is none that is async, or uses real
            sockets, use the real clock.
        webbuddy: The WebBuddy to work for; None makes one that keeps the test's time.
        state_dir: Where its journal lies, for tests of what survives a crash; None: in memory.
        errand: What it is to do before it stops by itself, as ``trio-worker once`` does.
        abandon: Ends this process when a handler can't be stopped; then also when one blocks the event loop
            beyond the stop, from the thread of a watchdog. None: `RunningWorker.abandoned` is set instead.
        bus: Where it shares wake-ups with other workers; None: with none.
        **settings: Attributes of `Settings`, such as ``num_workers=1`` or ``processing_timeout=5``.

    Raises:
        HandlerError: That is no handler.
        ExceptionGroup: When the service has crashed, or what the handler needs can't be opened.
    """
    webbuddy = WebBuddy(now=time_of_the_test()) if webbuddy is None else webbuddy
    values = {"username": "worker", "password": "secret", "handler": "test:handler", "name": "test-worker"}
    chosen = Settings(**(values | {"webbuddy_url": webbuddy.url} | settings))
    capture = Capture(chosen.capture, chosen.log_level)
    found = look_at(handler, most=chosen.num_workers, path=chosen.handler, capture=capture)
    worker = RunningWorker(
        webbuddy,
        chosen,
        Stop(grace=chosen.shutdown_grace, reserve=chosen.shutdown_reserve, closes=found.opens),
        Front(),
    )
    folder = None
    if state_dir is not None:
        folder = StateFolder(state_dir, Address(chosen.webbuddy_url, chosen.username))
    with same_time():
        async with webbuddy.running(), _pushing(worker), trio.open_nursery() as nursery:
            nursery.start_soon(_run_worker, worker, found, folder, errand, abandon, bus or NoBus())
            try:
                yield worker
            finally:
                worker.stop.ask()


@asynccontextmanager
async def _runner() -> AsyncIterator[Runner]:
    """Where the journal waits for the disk: while a thread works, virtual time would jump."""
    if time_is_virtual():
        yield inline
    else:
        async with open_thread("trio-worker journal") as thread:
            yield thread


@asynccontextmanager
async def _pushing(worker: RunningWorker) -> AsyncIterator[None]:
    """Let WebBuddy's pushes arrive at the worker's own endpoint."""
    app = worker.front.app(worker.settings.webbuddy_url)
    before = worker.webbuddy.push_url, worker.webbuddy.push_transport
    worker.webbuddy.push_url = worker.webbuddy.push_url or "http://worker.test:8001"
    worker.webbuddy.push_transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    try:
        yield
    finally:
        worker.webbuddy.push_url, worker.webbuddy.push_transport = before


@contextmanager
def _watched(worker: RunningWorker, handler: Handler, abandon: Callable[[], None] | None) -> Iterator[None]:
    if abandon is None:
        yield
    else:
        stop, delays = worker.stop, worker.front.liveness.delays
        with watchdog(handler, forced_end=lambda: stop.forced_end, abandon=abandon, delays=delays):
            yield


async def _run_worker(
    worker: RunningWorker,
    handler: Handler,
    folder: StateFolder | None,
    errand: Errand | None,
    abandon: Callable[[], None] | None,
    bus: Bus,
) -> None:
    settings = worker.settings
    async with (
        _runner() as runner,
        open_journal(folder, sync=settings.journal_sync, runner=runner) as worker.journal,
        open_webbuddy(
            url=settings.webbuddy_url,
            credentials=settings.credentials(),
            request_timeout=settings.request_timeout,
            transport=worker.webbuddy.transport(),
        ) as client,
    ):
        with _watched(worker, handler, abandon):
            given = Given(
                settings=settings,
                handler=handler,
                webbuddy=client,
                journal=worker.journal,
                front=worker.front,
                stop=worker.stop,
                consumers=settings.num_workers,
                errand=errand,
                bus=bus,
            )
            await run_service(given, abandon=abandon or worker.abandoned.set)
    worker.ended.set()
