"""Another process on the same state folder. `Neighbour` starts it, and tells it what to do, one line an act.

As a script: ``python neighbour.py WORKER_STATE_DIR``.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import structlog
import trio
from trio.testing import MockClock

TOO_LONG = 60.0  # seconds; only a broken test waits as long


@attrs.define(eq=False)
class Neighbour:
    """A process of ours, as the test sees it."""

    process: trio.Process
    _answers: bytes = b""

    async def ask(self, act: str) -> str:
        """Have it do something, and return its answer."""
        await self.tell(act)
        return await self.answer()

    async def tell(self, act: str) -> None:
        """Have it do something."""
        assert self.process.stdin is not None
        await self.process.stdin.send_all(f"{act}\n".encode())

    async def answer(self) -> str:
        """Wait for what it answers to the oldest act."""
        assert self.process.stdout is not None
        with trio.fail_after(TOO_LONG):
            while b"\n" not in self._answers:
                more = await self.process.stdout.receive_some()
                assert more, "it has died"
                self._answers += more
        line, self._answers = self._answers.split(b"\n", 1)
        return line.decode()

    async def kill(self) -> None:
        """``kill -9``; its children live on."""
        self.process.kill()
        with trio.fail_after(TOO_LONG):
            await self.process.wait()


@asynccontextmanager
async def start_neighbour(root: Path) -> AsyncIterator[Neighbour]:
    """Start one. At the end it is killed, and its children with it."""
    process = await trio.lowlevel.open_process(
        [sys.executable, __file__, str(root)], stdin=-1, stdout=-1, start_new_session=True
    )
    neighbour = Neighbour(process)
    try:
        assert await neighbour.ask("ready?") == "yes"
        yield neighbour
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # all of it has ended by itself
        with trio.move_on_after(TOO_LONG, shield=True):
            await process.wait()


# --- The script -------------------------------------------------------------------------------------


def main(root: Path) -> None:
    """Do as told until the input ends."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from tests.journals import make_entry, state_folder
    from trio_worker.takeover import OwnJournal

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    own: OwnJournal | None = None
    for line in sys.stdin:
        verb, *words = line.split()
        answer = "yes"
        if verb == "open":
            own = OwnJournal.open(state_folder(root), "full")
            answer = " ".join(entry.id for entry in own.found.entries)
        elif verb == "hold":
            assert own is not None
            own.file.apply(make_entry(int(words[0]), running="running" in words).insertion())
        elif verb == "child":
            answer = str(_CHILDREN[words[0]]())
        elif verb == "cramped":
            answer = _start_cramped(root, int(words[0]))
        elif verb == "trouble":
            answer = trio.run(_trouble, root, clock=MockClock(autojump_threshold=0))
        print(answer, flush=True)


def _start_cramped(root: Path, size: int) -> str:
    """Start and end while no file of ours may have more than so many bytes. Returns how it went."""
    from tests.journals import open_own
    from trio_worker.errors import JournalError

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        open_own(root).close()
    except JournalError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return "well"


async def _trouble(root: Path) -> str:
    """Keep a query while no file of ours may grow; then let them. Returns what the journal says of it."""
    from tests.journals import make_entry, opened
    from trio_worker.errors import JournalIllError

    async with opened(root) as journal:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        try:
            await journal.keep(make_entry(7, dead="x" * 100_000)).durable()
        except JournalIllError as error:
            told = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await journal.gate.wait()
        return told


def _fork() -> int:
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        _last_as_long_as_we_do(done)
    os.read(ready, 1)
    return child


def _multiprocessing() -> int:
    context = multiprocessing.get_context("fork")
    ready, done = os.pipe()
    process = context.Process(target=_last_as_long_as_we_do, args=(done,))
    process.start()
    os.read(ready, 1)
    assert process.pid is not None
    return process.pid


def _exec() -> int:
    return subprocess.Popen(["sleep", "1000"], close_fds=False).pid


def _short_fork() -> int:
    """One that ends as a program does, with all its objects, and not by `os._exit`."""
    child = os.fork()
    if child == 0:
        sys.exit()
    os.waitpid(child, 0)
    return child


def _last_as_long_as_we_do(done: int) -> None:
    os.write(done, b"!")
    while True:
        signal.pause()


_CHILDREN = {"fork": _fork, "multiprocessing": _multiprocessing, "exec": _exec, "short": _short_fork}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
