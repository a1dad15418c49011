"""Starting a worker as its operator does: a real process, whose log is read line by line."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

TOO_LONG = 60.0  # seconds; only a broken test waits as long, whatever the machine


@attrs.define(eq=False)
class WorkerProcess:
    """A worker's process and all that it has printed.

    Attributes:
        process: The process.
        lines: What it has printed.
        silent: Set when nothing more can be printed: no process of it is left.
    """

    process: trio.Process
    lines: list[str] = attrs.field(factory=list)
    silent: trio.Event = attrs.field(factory=trio.Event)
    _changed: trio.Event = attrs.field(factory=trio.Event)
    _rest: bytes = b""

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def url(self) -> str:
        """Where it listens."""
        line = next(line for line in self.lines if "Running on http://" in line)
        return "http://" + line.split("Running on http://")[1].split()[0]

    async def until(self, condition: Callable[[str], bool]) -> str:
        """Wait for a line of its output."""
        seen = 0
        while True:
            for line in self.lines[seen:]:
                if condition(line):
                    return line
            seen = len(self.lines)
            with trio.fail_after(TOO_LONG):
                await self._changed.wait()

    async def wait(self) -> int:
        """Wait for its end, and say how it ended. All that it has printed is in `lines` then."""
        with trio.fail_after(TOO_LONG):
            code = await self.process.wait()
        self._take_what_is_there()
        return code

    async def read(self) -> None:
        """Collect what it prints. Ends with its output."""
        assert self.process.stdout is not None
        async for chunk in self.process.stdout:
            self._take(chunk)
        self.silent.set()

    def _take_what_is_there(self) -> None:
        """Not to the end of the output, which its children may hold open."""
        pipe: Any = self.process.stdout  # does not block: Trio has seen to that
        try:
            while chunk := os.read(pipe.fileno(), 65_536):
                self._take(chunk)
        except BlockingIOError:
            pass

    def _take(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self.lines += [line.decode() for line in lines]
        self._changed.set()
        self._changed = trio.Event()


@asynccontextmanager
async def start_worker(
    directory: Path,
    *,
    webbuddy_url: str,
    command: Sequence[str] = ("-m", "trio_worker", "run"),
    handler: str = "async def handle(query, ctx):\n    return 'answer to ' + query.query_text\n",
    **environ: str,
) -> AsyncIterator[WorkerProcess]:
    """Start a worker in a directory of its own and in a process group of its own.

    Whatever is left of the group at the end is killed.

    Args:
        directory: Its working directory; the handler is written there, and what it holds.
        webbuddy_url: Whom it works for.
        command: What the interpreter is given.
        handler: The text of `agent.py`, with a function `handle`.
        **environ: More variables.
    """
    (directory / "agent.py").write_text(handler, encoding="utf-8")
    variables = {
        "WEBBUDDY_URL": webbuddy_url,
        "WORKER_USERNAME": "worker",
        "WORKER_PASSWORD": "secret",
        "WORKER_HANDLER": "agent:handle",
        "WORKER_BIND": "127.0.0.1:0",
        "WORKER_LOG_FORMAT": "json",
        "WORKER_STATE_DIR": str(directory / "state"),
        "PYTHONUNBUFFERED": "1",
    }
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("WORKER_", "NUM_"))
    }
    process = await trio.lowlevel.open_process(
        [sys.executable, *command],
        cwd=directory,
        env=inherited | variables | environ,
        stdout=-1,
        stderr=-2,
        start_new_session=True,
    )
    worker = WorkerProcess(process)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.read)
        try:
            yield worker
        finally:
            _kill_group(process)
            with trio.move_on_after(TOO_LONG, shield=True):
                await worker.wait()
            nursery.cancel_scope.cancel()


def _kill_group(process: trio.Process) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # all of it has ended by itself
