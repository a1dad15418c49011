"""One process of a worker in a test: from its start to its end, or to its death."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import httpx
import trio

from trio_worker import clock
from trio_worker.front import Front
from trio_worker.handlers.loading import handler_of
from trio_worker.intake import LONGEST_PAUSE
from trio_worker.journal import Journal, open_journal
from trio_worker.journal_file import Contents
from trio_worker.parts import Given, Rates
from trio_worker.recovery import LOOK_AROUND
from trio_worker.service import run_service
from trio_worker.settings import Settings
from trio_worker.state_folder import Address, StateFolder
from trio_worker.stop import Stop
from trio_worker.testing.simulated_crash import Doors
from trio_worker.testing.simulated_handler import HandlerFunction
from trio_worker.webbuddy import open_webbuddy

__all__ = ["Process", "PushesTo", "make_settings"]


def make_settings(**values: Any) -> Settings:
    """Make settings for a process in a test."""
    base = {
        "webbuddy_url": "http://localhost:8000",
        "username": "worker",
        "password": "secret",
        "handler": "test:handler",
        "name": "worker",
        "journal_sync": "normal",
    }
    return Settings(**(base | values))


@attrs.define(eq=False)
class Process:
    """One process of a worker.

    Attributes:
        settings: What it runs with.
        folder: Its ``WORKER_STATE_DIR``.
        doors: Its ways out.
        handler: Its handler.
        look_around_every: Seconds between two looks for neighbours that have died.
        clock: Its machine's clock, which may be wrong.
        front: What comes in to it.
        stop: Its stop.
        left: What was on its disk when it died.
        journal: What it holds, once it has begun.
        died_at: When it died, on Trio's clock.
        ended: Set when it has ended by itself, or is dead.
        error: What it ended with, if that was no orderly end.
    """

    settings: Settings
    folder: Path
    doors: Doors
    handler: HandlerFunction
    clock: Callable[[], float]
    look_around_every: float = LOOK_AROUND
    front: Front = attrs.field(factory=Front)
    stop: Stop = attrs.field(init=False)
    left: Contents = attrs.field(factory=Contents)
    journal: Journal | None = None
    died_at: float = math.inf
    ended: trio.Event = attrs.field(factory=trio.Event)
    error: BaseException | None = None
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    def __attrs_post_init__(self) -> None:
        self.stop = Stop(grace=self.settings.shutdown_grace, reserve=self.settings.shutdown_reserve)

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return not self.ended.is_set()

    async def live(self) -> None:
        """Run until the end or the death. What a dead one still does is done here, and reaches nobody."""
        clock.source.set(self.clock)
        trio.lowlevel.add_instrument(self.doors)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.doors.work)
                nursery.start_soon(self._see_its_death)
                await self._run()
                nursery.cancel_scope.cancel()
        finally:
            trio.lowlevel.remove_instrument(self.doors)
            if self.doors.own is not None:
                self.doors.own.file.close()

    async def _see_its_death(self) -> None:
        await self.doors.died.wait()
        self.died_at = trio.current_time()
        self.left = self.doors.bury()
        self.ended.set()
        self._scope.cancel()

    async def _run(self) -> None:
        self.doors.adopt()
        try:
            with self._scope:
                await self._serve()
        except Exception as error:  # noqa: BLE001 - whatever it is, the invariants want to know
            if not self.doors.dead:
                self.error = error
        self.ended.set()

    async def _serve(self) -> None:
        settings = self.settings
        folder = StateFolder(self.folder, Address(settings.webbuddy_url, settings.username))
        async with (
            open_journal(folder, sync=settings.journal_sync, runner=self.doors.runner) as self.journal,
            open_webbuddy(
                url=settings.webbuddy_url,
                credentials=settings.credentials(),
                request_timeout=settings.request_timeout,
                transport=self.doors.network,
            ) as client,
        ):
            given = Given(
                settings=settings,
                handler=handler_of(self.handler, settings.handler),
                webbuddy=client,
                journal=self.journal,
                front=self.front,
                stop=self.stop,
                consumers=settings.num_workers,
                call_plain=_in_place,
                rates=Rates(
                    look_around=self.look_around_every,
                    look_for_orders=self.look_around_every,  # there are none
                    longest_knock=LONGEST_PAUSE,  # one is like the other, and each has steps at which to die
                ),
            )
            await run_service(given, abandon=self.doors.die)


async def _in_place(call: Callable[[], tuple[object]]) -> tuple[object]:
    await trio.lowlevel.checkpoint()
    return call()


class PushesTo(httpx.AsyncBaseTransport):
    """Carries pushes to a process that lives at the moment, past its web server.

    Attributes:
        processes: Those that may be told, the newest last.
    """

    def __init__(self) -> None:
        self.processes: list[Process] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Deliver one push."""
        await trio.lowlevel.checkpoint()
        self.processes = [process for process in self.processes if process.is_alive]
        if not self.processes:
            raise httpx.ConnectError("nobody listens", request=request)
        self.processes[-1].front.pushed(json.loads(await request.aread())["query_id"])
        return httpx.Response(200)
