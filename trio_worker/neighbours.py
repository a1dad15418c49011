"""The living processes that share a state folder can ask each other: each listens on a socket there.

::

    localhost-8000-worker-1f2e3d4c/
    ├── process-0.slot   locked by the process with this number as long as it lives
    └── process-0.sock   where it answers

The number is the lowest that is free: a process that takes the place of one that has died gets that one's. A
socket on which nobody answers is left over, until somebody gets its number.

One line asks (for ``figures``, of a group), JSON answers. Who may ask is who may look into the folder: the
worker's user.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import structlog
import trio

from trio_worker.errors import JournalError
from trio_worker.runners import Runner, inline
from trio_worker.state_folder import LockedFile, StateFolder

__all__ = ["ANSWERS_WITHIN", "Neighbours"]

log = structlog.get_logger(__name__)

ANSWERS_WITHIN = 0.5
"""Seconds in which a neighbour has to answer: who asks is waited for, too."""

SLOW = 5.0  # seconds after which a connection of somebody who asks is given up
LONGEST_QUESTION = 256  # bytes
LONGEST_PATH = 100  # bytes of a socket's path; Linux takes 107, macOS 103

Answers = Mapping[str, Callable[[], Any]]


def _group_here() -> str:
    """Name those who share an address with this process: the children of one hypercorn.

    Those of another one, or a `trio-worker run`, listen on addresses of their own and are scraped there:
    shown here as well, they would be counted twice.
    """
    parent = multiprocessing.parent_process()
    number = os.getpid() if parent is None else parent.pid
    try:
        space = os.stat("/proc/self/ns/pid").st_ino  # two containers may share the folder
    except OSError:
        space = 0
    return f"{space}-{number}"


@attrs.define(eq=False)
class Neighbours:
    """Who else lives on the state folder. Nobody, unless it is open.

    Attributes:
        group: Of those who are asked.
        number: Of this process.
    """

    group: str = attrs.field(factory=_group_here)
    number: int = attrs.field(default=0, init=False)
    _folder: StateFolder | None = attrs.field(default=None, init=False)
    _runner: Runner = attrs.field(default=inline, init=False)

    @asynccontextmanager
    async def open(self, folder: StateFolder, answers: Answers, *, runner: Runner) -> AsyncIterator[None]:
        """Take a number, and answer those who ask, until the end of the block.

        Where that can't be done (a folder on a disk without sockets), this process is alone, and says so in
        its log.

        Args:
            folder: Where.
            answers: By question: gives the answer, as JSON has it. Synchronous and cheap.
            runner: Where the disk is waited for.
        """
        try:
            place = await runner(partial(_Place.take, folder))
        except (OSError, JournalError) as error:
            log.warning("/metrics shows this process alone: no socket in the state folder", reason=str(error))
            yield
            return
        self.number, self._folder, self._runner = place.number, folder, runner
        try:
            async with trio.open_nursery() as nursery:
                listener = trio.SocketListener(trio.socket.from_stdlib_socket(place.socket))
                answer = partial(_answer, answers, self.group)
                nursery.start_soon(trio.serve_listeners, answer, [listener])
                try:
                    yield
                finally:
                    nursery.cancel_scope.cancel()
        finally:
            self._folder = None
            place.leave()

    @asynccontextmanager
    async def alone_at(self, what: str) -> AsyncIterator[bool]:
        """Be the only one of the folder, of all groups, to do something, until the end of the block.

        Cancelled before the block, it may be kept from the others until this process ends.

        Args:
            what: Its name; one word.

        Yields:
            Whether that is so; False: another process is at it. Who has no neighbours is always alone.
        """
        if self._folder is None:
            yield True
            return
        try:
            lock = await self._runner(partial(self._folder.take_part, what))
        except JournalError as error:
            log.debug("no lock in the state folder", what=what, reason=str(error))
            lock = None
        try:
            yield lock is not None
        finally:
            if lock is not None:
                _leave(lock, lock.path)

    async def ask(self, question: str) -> dict[int, Any]:
        """Ask all others of the group.

        Args:
            question: What is asked for.

        Returns:
            By the number of each, what it has answered. Who does not within half a second is left out.
        """
        answers: dict[int, Any] = {}
        if self._folder is None:
            return answers
        with trio.move_on_after(ANSWERS_WITHIN):
            async with trio.open_nursery() as nursery:
                for number, path in _sockets(self._folder.path):
                    if number != self.number:
                        nursery.start_soon(self._ask_one, number, path, question, answers)
        return answers

    async def _ask_one(self, number: int, path: Path, question: str, answers: dict[int, Any]) -> None:
        try:
            with _short(path) as short:
                stream = await trio.open_unix_socket(short)
            async with stream:
                await stream.send_all(f"{question} {self.group}\n".encode())
                text = b"".join([piece async for piece in stream])
            if text:
                answers[number] = json.loads(text)
        except (OSError, trio.BrokenResourceError, ValueError):
            pass  # it has died, or is just going: it is left out, as the docstring says


async def _answer(answers: Answers, group: str, stream: trio.SocketStream) -> None:
    with trio.move_on_after(SLOW):
        try:
            question, _, of_group = (await _line(stream)).partition(" ")
            if of_group == group and question in answers:
                await stream.send_all(json.dumps(answers[question]()).encode())
        except trio.BrokenResourceError:
            pass  # nobody waits for it any more
    await trio.aclose_forcefully(stream)


async def _line(stream: trio.SocketStream) -> str:
    text = b""
    while b"\n" not in text and len(text) < LONGEST_QUESTION:
        piece = await stream.receive_some()
        if not piece:
            break
        text += piece
    return text.partition(b"\n")[0].decode("utf-8", "replace")


@attrs.define(eq=False)
class _Place:
    """A number, and the socket that belongs to it. Everything here blocks."""

    number: int
    lock: LockedFile
    path: Path
    socket: socket.socket

    @classmethod
    def take(cls, folder: StateFolder) -> _Place:
        number, lock = folder.take_slot()
        path = lock.path.with_suffix(".sock")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.unlink(missing_ok=True)  # of one that has died
            with _short(path) as short:
                listening.bind(short)
            path.chmod(0o600)
            listening.listen(16)
        except BaseException:
            listening.close()
            lock.release()
            raise
        return cls(number, lock, path, listening)

    def leave(self) -> None:
        _leave(self.lock, self.path, self.lock.path)


def _leave(lock: LockedFile, *paths: Path) -> None:
    try:
        for path in paths:
            path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("a file of the state folder can't be removed", path=str(paths[0]), reason=str(error))
    lock.release()


def _sockets(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.glob("process-*.sock"):
        number = path.stem.removeprefix("process-")
        if number.isdecimal():
            yield int(number), path


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Give a path that a socket takes: those are short, and state folders may lie deep."""
    if len(os.fsencode(path)) <= LONGEST_PATH:
        yield str(path)
        return
    if not Path("/proc/self/fd").exists():
        raise OSError(errno.ENAMETOOLONG, f"the path is too long for a socket: {path}")
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)
