"""Handlers that have to be opened: with a client, a pool or a model that is there as long as the process."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
import trio

from trio_worker.errors import HandlerError
from trio_worker.handlers.loading import Handler, closed_error, handler_of, opening_error
from trio_worker.stop import Stop, only_cancelled

__all__ = ["open_handler"]

log = structlog.get_logger(__name__)

STILL_OPENING = 30.0  # seconds between two lines that say so


@asynccontextmanager
async def open_handler(handler: Handler, *, directory: Path, stop: Stop) -> AsyncIterator[Handler | None]:
    """Open what a handler needs, once a process, and give what is to be called for each query.

    The user's context manager is entered and left in a task of its own. So what is raised in the body is
    neither raised into it nor swallowed by it, and it can be given up when it takes too long to close. It
    is closed after the body, however that ends. What swallows that it is given up, or blocks the loop, is
    waited for: `trio_worker.stop.last_resort` and `trio_worker.watchdog` belong around this.

    Args:
        handler: As it was loaded. One that needs nothing is given as it is.
        directory: The working directory, to name the place of an error.
        stop: When it is asked for first, the opening is given up. It says until when the closing may take;
            where nobody has asked, the end of the body begins it.

    Yields:
        The handler; None when it was given up.

    Raises:
        ExceptionGroup: With `HandlerError` in it when it can't be opened, or what it gives is no handler;
            with anything else that its own tasks raise later.
    """
    if not handler.opens:
        yield handler
        return
    opened = _Opened(handler, directory, stop)
    async with trio.open_nursery() as nursery:
        try:
            with trio.CancelScope() as opening:
                async with _cancelled_when(stop.asked, opening), _told(handler.path):
                    await nursery.start(opened.hold)
            yield opened.handler
        finally:
            opened.close()


@asynccontextmanager
async def _cancelled_when(event: trio.Event, scope: trio.CancelScope) -> AsyncIterator[None]:
    async def cancel() -> None:
        await event.wait()
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _told(path: str) -> AsyncIterator[None]:
    """Say what the worker waits for: a model may take minutes, and nothing is claimed meanwhile."""
    began = trio.current_time()

    async def remind() -> None:
        while True:
            await trio.sleep(STILL_OPENING)
            seconds = round(trio.current_time() - began)
            log.warning("the handler is still being opened", handler=path, seconds=seconds)

    log.info("opening the handler", handler=path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(remind)
        yield
        nursery.cancel_scope.cancel()
    log.info("the handler is open", handler=path, seconds=round(trio.current_time() - began, 1))


class _Opened:
    """A user's context manager, from its opening to its end.

    Attributes:
        handler: What is called for each query; None while it is not open.
    """

    def __init__(self, handler: Handler, directory: Path, stop: Stop) -> None:
        self.handler: Handler | None = None
        self._source = handler
        self._directory = directory
        self._stop = stop
        self._over = trio.Event()
        self._patience = trio.CancelScope(deadline=math.inf)
        self._is_closing = False

    def close(self) -> None:
        """Have it closed, as far as that goes within the stop."""
        self._is_closing = True
        self._over.set()
        if not self._stop.limited.is_set():
            self._stop.hurry()  # cancelled from outside, or after a crash
        self._patience.deadline = self._stop.closed

    async def hold(self, task_status: trio.TaskStatus[None]) -> None:
        """Open it, and close it when that is asked for."""
        with self._patience:
            try:
                async with self._source.function() as given:
                    handler = handler_of(given, self._source.path)
                    # It may have been given up in something that can't be cancelled, such as a thread.
                    await trio.lowlevel.checkpoint_if_cancelled()
                    self.handler = handler
                    # Closing it is to go well also when everything around is being cancelled. Not without
                    # end: `close` is called however the body is left, and sets the deadline.
                    self._patience.shield = True
                    task_status.started()
                    await self._over.wait()
            except BaseException as error:  # noqa: ASYNC103 - whatever the user's code raises, SystemExit too
                if only_cancelled(error):
                    raise
                self._explain(error)
        if self._patience.cancelled_caught:
            log.error("what the handler has opened was not closed in time", handler=self._source.path)
        elif not self._is_closing:
            # A scope of its own has ended it, or it has swallowed the crash of a task.
            raise closed_error(self._source.path)

    def _explain(self, error: BaseException) -> None:
        if self.handler is None:
            if isinstance(error, HandlerError):
                raise error
            raise opening_error(self._source.path, error, self._directory) from error
        if not self._is_closing:
            raise error
        log.error("what the handler has opened can't be closed", handler=self._source.path, exc_info=error)
