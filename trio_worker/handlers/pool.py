"""Plain functions that can be stopped: called in warm processes, which are killed when their time is up.

``WORKER_HANDLER=process:module:function``.
"""

# Why not multiprocessing or concurrent.futures: hypercorn's workers are daemonic processes of the former,
# which may have no children of that sort; and neither stops a call, says which one a crash belongs to, or
# outlives one. Why not trio-parallel: it is multiprocessing below.

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
import trio

from trio_worker.capture import OFF, Capture
from trio_worker.context import Context
from trio_worker.errors import HandlerCrashed, HandlerError, QueryFailed, RetryLater
from trio_worker.handlers.frames import MOST_ANSWER, MOST_TEXT
from trio_worker.handlers.loading import OwnHandler
from trio_worker.handlers.pool_process import KILL_SECONDS, WarmProcess, open_process
from trio_worker.handlers.pool_run import Message
from trio_worker.masks import masks
from trio_worker.query import Query

__all__ = ["Pool", "RemoteError", "open_pool"]

log = structlog.get_logger(__name__)

START_SECONDS = 300.0  # for the import of a handler; a large model takes its time
END_SECONDS = 2.0  # for a process that has nothing to do, to end by itself
TRIES = 3  # processes that may die one after the other before they have looked at a query
AGAIN = 5.0  # seconds until a query is tried again for which there could be no process


class RemoteError(Exception):
    """What a handler has raised in its process; raised here as a subclass that has the name of its type.

    The traceback there is its note.
    """


@asynccontextmanager
async def open_pool(
    path: str,
    *,
    directory: Path,
    most: int,
    recycle_after: int = 100,
    start_within: float = START_SECONDS,
    end_within: float = END_SECONDS,
    capture: Capture = OFF,
) -> AsyncIterator[Pool]:
    """Start a process that imports a handler, and have others started when they are needed.

    At the end all of them are ended: by themselves, or killed. So they are when the body is cancelled or
    raises.

    Args:
        path: ``module:function`` of a plain function.
        directory: The working directory, importable for the handler.
        most: How many processes there may be at once; at least 1.
        recycle_after: Queries after which a process is replaced by a new one.
        start_within: Seconds that a process may take to import the handler.
        end_within: Seconds that a process with nothing to do may take to end by itself.
        capture: What is captured there.

    Raises:
        HandlerError: The handler can't be imported there, or is none for a process. Nothing is left.
        ExceptionGroup: What the body raises.
    """
    problem: HandlerError | None = None
    async with trio.open_nursery() as nursery:
        pool = Pool(path, directory, most, recycle_after, start_within, end_within, capture, nursery)
        try:
            await pool.warm_up()
        except HandlerError as error:
            problem = error
        else:
            try:
                yield pool
            finally:
                nursery.cancel_scope.cancel()
    if problem is not None:
        raise problem


class Pool(OwnHandler):
    """Calls a handler in processes. Made by `open_pool`.

    Attributes:
        patience: Seconds that cancelling a call may take.
    """

    patience = KILL_SECONDS

    def __init__(
        self,
        path: str,
        directory: Path,
        most: int,
        recycle_after: int,
        start_within: float,
        end_within: float,
        capture: Capture,
        nursery: trio.Nursery,
    ) -> None:
        self._path = path
        self._directory = directory
        self._recycle_after = recycle_after
        self._start_within = start_within
        self._end_within = end_within
        self._capture = capture
        self._nursery = nursery
        # Who holds a place has a process, or starts one: so there are never more processes than places.
        # A place is held until the process that had it is gone.
        self._places = trio.Semaphore(most)
        self._idle: list[WarmProcess] = []

    async def __call__(self, query: Query, ctx: Context) -> object:
        """Call the handler in a process that has nothing else to do; wait for one.

        Cancelled, the process is killed at once, with what it has started, and is gone when this raises.

        Returns:
            What the handler has returned: a str, None, or something that has but the name of its type.

        Raises:
            QueryFailed: The handler has raised it.
            HandlerCrashed: Its process died, or can't import it any more.
            FrameError: The query is too large for the way there.
            RetryLater: The handler has raised it; or the system gives no process now.
            RemoteError: The handler has raised anything else.
        """
        await self._places.acquire()
        process: WarmProcess | None = None
        try:
            tries = TRIES
            while True:
                process = await self._take()
                run = await process.run(query, ctx)
                tries -= 1
                if run.begun or not tries:
                    break
                log.warning("a process of the handler died before a query", how=process.how, query=query.id)
        except HandlerError as error:
            log.error("no process for the handler can be started", error=str(error), query=query.id)
            raise HandlerCrashed("not_started") from error
        except OSError as error:
            log.error("no process for the handler can be started", error=str(error), query=query.id)
            raise RetryLater(AGAIN, f"no process for the handler can be started: {error}") from error
        finally:
            self._give_back(process)
        if run.end is None:
            log.error("the handler's process died", how=process.how, query=query.id)
            raise process.crash
        return _result(run.end, ctx)

    async def warm_up(self) -> None:
        """Start the first process.

        Raises:
            HandlerError: As `open_pool`.
        """
        try:
            self._idle.append(await self._start())
        except OSError as error:
            raise HandlerError([f"the handler's process can't be started: {error}"]) from error

    async def _take(self) -> WarmProcess:
        while self._idle:
            # The one that was here last: the others may stay where the system has swapped them out.
            process = self._idle.pop()
            if process.is_alive:
                return process
        return await self._start()

    async def _start(self) -> WarmProcess:
        process: WarmProcess = await self._nursery.start(self._keep)
        try:
            await process.until_ready(self._start_within)
        except BaseException:
            process.kill()
            raise
        log.debug("a process of the handler is ready", pid=process.pid)
        return process

    async def _keep(self, task_status: trio.TaskStatus[WarmProcess]) -> None:
        process = await open_process(self._path, self._directory, self._capture, self._end_within)
        task_status.started(process)
        await process.live()
        if process.died_idle:
            log.warning("a process of the handler died between two queries", how=process.how, pid=process.pid)
            if process in self._idle:
                self._idle.remove(process)
            if process.queries:  # else those that follow would likely do the same, one after the other
                self._nursery.start_soon(self._warm_another)

    def _give_back(self, process: WarmProcess | None) -> None:
        """Let others have the place, as soon as there is a process for it."""
        if process is not None and process.is_alive and process.queries < self._recycle_after:
            self._idle.append(process)
        elif process is not None:
            process.retire()
            self._nursery.start_soon(self._replace, process)
            return
        self._places.release()

    async def _replace(self, process: WarmProcess) -> None:
        """Holding the place of a process that ends: start the next one.

        Not before: the memory of two handlers may be more than there is. So a query that comes meanwhile
        waits here, within its time limit, where no other process is free.
        """
        try:
            await process.gone.wait()
            await self._warm()
        finally:
            self._places.release()

    async def _warm_another(self) -> None:
        async with self._places:
            await self._warm()

    async def _warm(self) -> None:
        if self._idle:
            return
        try:
            self._idle.append(await self._start())
        except (HandlerError, OSError) as error:
            # The query that needs one tries again, and says so.
            log.warning("a new process of the handler can't be started", error=str(error))


def _result(end: Message, ctx: Context) -> object:
    match end:
        case {"answer": str(text), "size": int(size)}:
            if size > MOST_ANSWER:
                ctx.log(f"the answer has {size} characters, of which the first {MOST_ANSWER} were kept")
            return _beginning(text)
        case {"wrong": None}:
            return None
        case {"wrong": str(name)}:
            return type(name, (), {})()
        case {"failed": str(reason)}:
            raise QueryFailed(_beginning(reason))
        case {"later": float(seconds), "reason": str(reason)}:
            raise RetryLater(seconds, _last(reason))
        case {"raised": str(name), "text": str(text), "traceback": str(lines)}:
            error: RemoteError = type(name, (RemoteError,), {})(_last(text))
            error.add_note(f"In the handler's process:\n{_last(lines)}")
            raise error
    raise ValueError(f"an end with {', '.join(end)}")


def _beginning(text: str) -> str:
    return text if len(text) < MOST_ANSWER else masks.hide_in_beginning(text)


def _last(text: str) -> str:
    return text if len(text) < MOST_TEXT else masks.hide_in_end(text)
