"""One warm process of the pool, seen from the worker: started, given queries, killed, reaped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import structlog
import trio

import trio_worker
from trio_worker.capture import Capture
from trio_worker.context import Context
from trio_worker.errors import HandlerCrashed, HandlerError
from trio_worker.handlers.child import crash_of, signal_name, until_exit
from trio_worker.handlers.child_environment import child_environment
from trio_worker.handlers.frames import Unpacker, pack
from trio_worker.handlers.lifeline import end_with
from trio_worker.handlers.pool_run import Message, Run, log_record
from trio_worker.handlers.session import signal_session
from trio_worker.query import Query

__all__ = ["KILL_SECONDS", "WarmProcess", "open_process"]

log = structlog.get_logger(__name__)

KILL_SECONDS = 2.0
"""For a process that was killed to be gone; more only where the kernel does not let go of it."""

LAST_WORDS = 2**20  # bytes that a process may have sent before its end; more than a socket takes
CHUNK = 65_536  # bytes
SEND_SECONDS = 1.0  # for an answer to its question: a process reads at any time


async def open_process(path: str, directory: Path, capture: Capture, end_within: float) -> WarmProcess:
    """Start a process, which then imports its handler. Its `WarmProcess.live` has to be run at once.

    It leads a session of its own. What it prints goes to this process's stderr; what
    it logs, to this process's `logging`.

    Raises:
        OSError: There can be none.
    """
    # -P: the user's queue.py must not stand before the standard library's while ours is imported. Where
    # this package itself is found in the working directory only, it could not be imported at all.
    safe = [] if Path(trio_worker.__file__).parents[1] == Path.cwd() else ["-P"]
    program = [sys.executable, *safe, "-m", "trio_worker.handlers.pool_child"]
    ours, theirs = socket.socketpair()
    life_read, life_write = os.pipe()
    try:
        process = await trio.lowlevel.open_process(
            [
                *program,
                path,
                str(directory),
                str(theirs.fileno()),
                str(life_read),
                capture.what,
                capture.level,
            ],
            env=child_environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=2,
            pass_fds=(theirs.fileno(), life_read),
            start_new_session=True,
        )
        # Its thread that reads sees our end, too, but can do nothing while C code holds the interpreter.
        end_with(life_read, process.pid)
    except BaseException:
        ours.close()
        os.close(life_write)
        raise
    finally:
        theirs.close()
        os.close(life_read)
    return WarmProcess(process, ours, life_write, end_within)


class WarmProcess:
    """A process that has imported the handler, or is about to.

    Attributes:
        queries: How many it was given.
        gone: Set when it has been reaped, and what it had started was killed.
        how: How it ended, once it is gone; for the operator.
        crash: The same for the author of a query that it was to answer.
        died_idle: Whether it has died with nothing to do, and unasked.
    """

    def __init__(self, process: trio.Process, line: socket.socket, life: int, end_within: float) -> None:
        self.queries = 0
        self.gone = trio.Event()
        self.how = ""
        self.crash = HandlerCrashed("process_died", how="")
        self.died_idle = False
        self._process = process
        self._line = line
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(line))
        self._unpacker = Unpacker()
        self._life = life
        self._end_within = end_within
        self._scope = trio.CancelScope()
        self._settled = trio.Event()
        self._sending = trio.Lock()
        self._is_ready = False
        self._is_ending = False
        self._is_reaped = False
        self._refused: list[str] = []
        self._why: str | None = None
        self._run: Run | None = None

    @property
    def pid(self) -> int:
        """Its number, and that of its session."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it may be given a query."""
        return self._is_ready and not self._is_ending

    # --- Its life --------------------------------------------------------------------------------

    async def live(self) -> None:
        """Look after it until it has ended, and reap it.

        Cancelled, it ends it: gently when it has nothing to do, within `end_within`. No process is left.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._listen)
                    await until_exit(self.pid)
                    self.died_idle = self.is_alive and self._run is None
                    self.kill()  # what it has started; that may hold the socket open
                    nursery.cancel_scope.cancel()
                self._hear_last_words()
        finally:
            await self._bury()  # noqa: ASYNC102 - it shields itself, with limits

    async def until_ready(self, seconds: float) -> None:
        """Wait until it has imported the handler.

        Args:
            seconds: How long it may take.

        Raises:
            HandlerError: It can't, or has not in that time. It has ended then, or is to be killed.
        """
        with trio.move_on_after(seconds):
            await self._settled.wait()
        if self._refused:
            raise HandlerError(self._refused)
        if self.gone.is_set():
            raise HandlerError([f"the handler's process died while it imported the handler: {self.how}"])
        if not self._is_ready:
            raise HandlerError([f"the handler's process has not imported the handler in {seconds:g} s"])

    def retire(self) -> None:
        """Have it end: gently, and killed when that takes too long."""
        self._is_ending = True
        self._scope.cancel()

    def kill(self, why: str | None = None) -> None:
        """Kill it, and what it has started. `gone` is set a moment later.

        Args:
            why: What it has done, if that is the reason.
        """
        self._is_ending = True
        self._why = self._why or why
        if self._is_reaped:
            return  # its number may be another's
        signal_session(self.pid, signal.SIGKILL)

    async def _bury(self) -> None:
        self._is_ending = True
        self._stream.socket.close()
        with trio.move_on_after(self._end_within, shield=True):
            await until_exit(self.pid)
        self.kill()
        with trio.move_on_after(KILL_SECONDS, shield=True):
            await self._process.wait()
            self._is_reaped = True
        os.close(self._life)
        code = self._process.returncode
        self.how = self._why or _how(code)
        if self._why is None and code is not None:
            self.crash = crash_of(code)
        else:
            self.crash = HandlerCrashed("process_died", how=self.how)
        if not self._is_reaped:
            log.error("a process of the handler can't be killed; it is left to the system", pid=self.pid)
        self.gone.set()
        self._settled.set()
        if self._run is not None:
            self._run.ended.set()

    # --- A query ---------------------------------------------------------------------------------

    async def run(self, query: Query, ctx: Context) -> Run:
        """Have it call the handler, and wait for the end.

        Cancelled, it is killed at once, and waited for until it is gone, 2 s at most.

        Raises:
            FrameError: The query is too large.
        """
        self.queries += 1
        saved = ctx.saved
        message = {"run": self.queries, "query": query.to_json(), "attempt": ctx.attempt, "saved": saved}
        data = pack(message | {"deadline": ctx.deadline.isoformat()})
        try:
            return await self._converse(data, ctx)
        except BaseException:
            self.kill()
            with trio.move_on_after(KILL_SECONDS, shield=True):
                await self.gone.wait()
            raise

    async def _converse(self, data: bytes, ctx: Context) -> Run:
        async with trio.open_nursery() as nursery:
            run = self._run = Run(self.queries, ctx, nursery, self._reply)
            try:
                await self._send(data)
                await run.ended.wait()
            finally:
                self._run = None
            nursery.cancel_scope.cancel()
        return run

    async def _send(self, data: bytes) -> None:
        try:
            async with self._sending:
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it has died, and `live` tells

    async def _reply(self, data: bytes) -> None:
        """Answer a question. Not cut short by the end of the query: the next message would begin in it."""
        with trio.move_on_after(SEND_SECONDS, shield=True) as sending:
            await self._send(data)
        if sending.cancelled_caught:
            self.kill("it does not read")

    async def _listen(self) -> None:
        try:
            async for data in self._stream:
                self._hear(data)
        except trio.BrokenResourceError:
            pass  # it has died with something unread
        with trio.move_on_after(self._end_within):
            await until_exit(self.pid)
            return
        self.kill("it has closed its connection to the worker")

    def _hear_last_words(self) -> None:
        """Take what is here of what it has sent: all of it, now that it has ended.

        Not by waiting for its end, which others may hold up: on a busy machine any time for that may be
        over before a byte is read.
        """
        try:
            for _ in range(LAST_WORDS // CHUNK):
                if not (data := self._line.recv(CHUNK)):
                    break
                self._hear(data)
        except (BlockingIOError, ConnectionError):
            pass  # that was all; or it has died with something unread

    def _hear(self, data: bytes | bytearray) -> None:
        if self._why is not None:
            return  # it was killed for what it has sent: nothing that comes later can be read
        try:
            for message in self._unpacker.feed(data):
                self._take(message)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self.kill(f"it has sent what can't be read: {error}")

    def _take(self, message: Message) -> None:
        run = self._run
        match message:
            case {"ready": True}:
                self._is_ready = True
                self._settled.set()
            case {"refused": [*problems]}:
                self._refused = [str(problem) for problem in problems]
                self._settled.set()
            case {"record": dict(record), "run": number}:
                log_record(record, run if run is not None and run.number == number else None)
            case {"run": int(number)} if run is None or run.number != number:
                pass  # of a thread that has outlived its query
            case _ if run is not None:
                run.hear(message)
                if run.ended.is_set():
                    self._run = None
            case _:
                raise ValueError("a message of no query")


def _how(code: int | None) -> str:
    """Say how a process has ended."""
    if code is None:
        return "it could not be killed"
    if code >= 0:
        return f"exit status {code}"
    name = signal_name(-code)
    return f"{name} (out of memory?)" if -code == signal.SIGKILL else name
