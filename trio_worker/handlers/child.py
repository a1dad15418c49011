"""A program in a session of its own: fed, read, and ended together with all that it has started."""

from __future__ import annotations

import math
import os
import select
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import attrs
import structlog
import trio

from trio_worker.context import Context
from trio_worker.errors import HandlerCrashed
from trio_worker.handlers.control import CONTROL, Control, open_control
from trio_worker.handlers.lifeline import end_with, open_lifeline
from trio_worker.handlers.session import signal_session

__all__ = [
    "LAST",
    "LINGER",
    "NotStarted",
    "crash_of",
    "kill_children",
    "run_child",
    "signal_name",
    "until_exit",
]

log = structlog.get_logger(__name__)

LINGER = 1.0  # seconds; see `run_child`
LAST = 1.0

_sessions: dict[int, None] = {}
"""Of programs that run: by the numbers of their leaders, none of which is reaped yet."""

Sink = Callable[[bytes | bytearray], None]

_CHUNK = 65_536  # bytes, a whole pipe
# Short lines are some thousand to a pipe, and each costs the event loop a few microseconds.
_CHUNK_OF_LINES = 8_192


class NotStarted(Exception):
    """A program can't be started.

    Attributes:
        reason: What the system says.
    """

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


async def run_child(
    words: Sequence[str],
    *,
    directory: Path,
    environ: Mapping[str, str],
    stdin: bytes,
    stdout: Sink,
    stderr: Sink,
    ctx: Context,
    grace: float,
    patience: trio.CancelScope,
    linger: float = LINGER,
    last: float = LAST,
) -> int:
    """Run a program to its end, and end whatever is left of its session then.

    It need not read its input, nor write anything, nor keep its pipes open: what counts is its exit.
    Others that hold its pipes have ``linger`` seconds more, and are killed. Who has left the session (setsid)
    is not; it loses the other end of its pipes.

    Cancelled, it sends SIGTERM to the session and goes on reading for ``grace`` seconds, or until the program
    has exited and nobody holds its pipes; then SIGKILL. Nothing of the session is left when the cancellation
    goes on, ``grace`` + ``last`` seconds later at most. When this process is killed, the program's process
    group ends with it, but on macOS.

    Args:
        words: The program and its arguments.
        directory: Where it works.
        environ: All of its environment.
        stdin: What it may read; then comes the end of the file.
        stdout: Given what it writes there, as it comes. Must not raise.
        stderr: The same.
        ctx: Fulfils what it writes into the pipe that its environment names.
        grace: Seconds from SIGTERM to SIGKILL.
        patience: A scope that nobody is in; cancelled, it ends the grace.
        linger: Seconds after its exit in which others may still write to what was its stdout or stderr.
        last: Seconds after SIGKILL for what is in the pipes, and for the system to give the process back.

    Returns:
        Its exit status; the number of a signal that killed it, negative.

    Raises:
        NotStarted: It can't be started.
    """
    with ExitStack() as pipes:
        try:
            control, held = pipes.enter_context(open_control(ctx)), pipes.enter_context(open_lifeline())
            process = await _start(words, directory, environ, control, held)
        except OSError as error:
            raise NotStarted(error) from error
        child = _Child(process, stdout, stderr, control)
        _sessions[process.pid] = None
        try:
            end_with(held, process.pid)
            await child.attend(linger, partial(child.feed, stdin))
        except BaseException:
            signal_session(process.pid, signal.SIGTERM)
            patience.shield = True
            patience.deadline = min(patience.deadline, trio.current_time() + grace)
            with patience:
                await child.attend(math.inf)  # noqa: ASYNC102 - patience is a shield, and has a deadline
            raise
        finally:
            with trio.move_on_after(last, shield=True):
                await child.end(last / 2)
            child.is_reaped()
            with trio.move_on_after(last, shield=True):
                await child.close()
            if (status := process.returncode) is None:
                # The kernel holds it, for a disk or a driver. Once it lets go, the next start reaps it.
                log.error("a program is still there after SIGKILL", program=words[0], pid=process.pid)
    return -signal.SIGKILL if status is None else status


async def _start(
    words: Sequence[str], directory: Path, environ: Mapping[str, str], control: Control, held: int
) -> trio.Process:
    return await trio.lowlevel.open_process(
        words,
        cwd=directory,
        env={**environ, CONTROL: control.path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(control.theirs, held),
        start_new_session=True,
    )


def kill_children() -> None:
    """Kill all programs that run, with their sessions: this process is about to end by force."""
    for leader in list(_sessions):  # the watchdog's thread may be the one that calls
        signal_session(leader, signal.SIGKILL)


def crash_of(code: int, tail: str = "") -> HandlerCrashed:
    """Say of what a process has died.

    Args:
        code: Its exit status; the number of a signal that killed it, negative.
        tail: What it has said last.
    """
    if code >= 0:
        return HandlerCrashed("exit_status", tail, status=code)
    phrase = "process_killed" if code == -signal.SIGKILL else "process_died"
    return HandlerCrashed(phrase, tail, how=signal_name(-code))


def signal_name(number: int) -> str:
    """Give the name of a signal."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time signal


class _Child:
    """A process that is not reaped before its session was killed: until then nobody else has its number.

    Therefore nothing here asks for its ``returncode``, which would reap it.
    """

    def __init__(self, process: trio.Process, stdout: Sink, stderr: Sink, control: Control) -> None:
        self._process = process
        self._control = control
        self._pipes = [
            _Pipe(process.stdout, stdout, _CHUNK),
            _Pipe(process.stderr, stderr, _CHUNK_OF_LINES),
        ]

    async def attend(self, linger: float, *others: Callable[[], Awaitable[None]]) -> None:
        """Read until it has exited and nobody holds its pipes, or has held them for ``linger`` seconds."""
        async with trio.open_nursery() as beside:
            beside.start_soon(self._control.listen)
            async with trio.open_nursery() as nursery:
                for pipe in self._pipes:
                    if not pipe.at_end:
                        nursery.start_soon(pipe.read)
                for other in others:
                    nursery.start_soon(other)
                await until_exit(self._process.pid)
                nursery.cancel_scope.deadline = trio.current_time() + linger
            beside.cancel_scope.cancel()

    async def feed(self, data: bytes) -> None:
        """Give it its input, and the end of the file."""
        stdin = self._process.stdin
        if stdin is None:
            return
        async with stdin:
            try:
                await stdin.send_all(data)
            except trio.BrokenResourceError:
                pass  # it does not care to read it

    async def end(self, linger: float) -> None:
        """Kill the session, read what is left in the pipes for ``linger`` seconds, and reap the process."""
        signal_session(self._process.pid, signal.SIGKILL)
        if not all(pipe.at_end for pipe in self._pipes):
            await self.attend(linger)
        self._control.last_words()
        self.is_reaped()
        await self._process.wait()

    def is_reaped(self) -> None:
        """From here on its number may be somebody else's."""
        _sessions.pop(self._process.pid, None)

    async def close(self) -> None:
        """Close what is still open."""
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                await trio.aclose_forcefully(stream)


@attrs.define(eq=False)
class _Pipe:
    """One of the two pipes that a program writes to."""

    stream: trio.abc.ReceiveStream | None
    sink: Sink
    chunk: int
    at_end: bool = False

    async def read(self) -> None:
        """Read to the end. Cancelled, nothing is lost: it may be called again."""
        while self.stream is not None and (data := await self.stream.receive_some(self.chunk)):
            self.sink(data)
        self.at_end = True


# --- The exit, without the reaping ---------------------------------------------------------------
#
# `trio.Process.wait` reaps, and after that the numbers of the process and of its session may be others'.

if sys.platform == "darwin":

    async def until_exit(pid: int) -> None:
        """Wait until a child has exited, and leave it unreaped."""
        # As Trio does it: macOS has no waitid before Python 3.13.
        kqueue = trio.lowlevel.current_kqueue()

        def event(flags: int) -> select.kevent:
            return select.kevent(pid, select.KQ_FILTER_PROC, flags, select.KQ_NOTE_EXIT)

        def abort(_raise: object) -> trio.lowlevel.Abort:
            kqueue.control([event(select.KQ_EV_DELETE)], 0)
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            kqueue.control([event(select.KQ_EV_ADD | select.KQ_EV_ONESHOT)], 0)
        except ProcessLookupError:
            return  # it has exited already
        await trio.lowlevel.wait_kevent(pid, select.KQ_FILTER_PROC, abort)

else:
    # One thread for each program that runs, where it takes a thread: they are bounded by the consumers.
    _threads = trio.CapacityLimiter(math.inf)

    async def until_exit(pid: int) -> None:
        """Wait until a child has exited, and leave it unreaped."""
        try:
            exit_file = os.pidfd_open(pid)
        except (AttributeError, OSError):
            # An older Linux, a Python that was built on one, or a sandbox.
            wait = partial(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            await trio.to_thread.run_sync(wait, abandon_on_cancel=True, limiter=_threads)
            return
        try:
            await trio.lowlevel.wait_readable(exit_file)
        finally:
            os.close(exit_file)
