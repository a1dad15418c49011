"""The living processes that share a state folder can ask each other: each listens on a socket there.

::

    localhost-8000-worker-1f2e3d4c/
    ├── process-0.slot   locked by the process with this number as long as it lives
    └── process-0.sock   where it answers

The number is the lowest that is free, or the one that its parent has given it: a process that takes the place
of one that has died gets that one's. A socket on which nobody answers is left over, until somebody gets its
number.

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

__all__ = ["ANSWERS_WITHIN", "Heard", "Neighbours"]

log = structlog.get_logger(__name__)

ANSWERS_WITHIN = 0.5
"""Seconds in which a neighbour has to answer: who asks is waited for, too."""

SLOW = 5.0  # seconds after which a connection of somebody who asks is given up
LONGEST_QUESTION = 256  # bytes
LONGEST_PATH = 100  # bytes of a socket's path; Linux takes 107, macOS 103

Answers = Mapping[str, Callable[[], Any]]


@attrs.frozen
class Heard:
    """What the others of the group have said.

    Attributes:
        answers: By the number of each, what it has answered.
        silent: The numbers of those that have answered before, live, and do not answer now.
    """

    answers: dict[int, Any] = attrs.field(factory=dict)
    silent: set[int] = attrs.field(factory=set)


def _group_here() -> str:
    """Name those who share an address with this process: the children of one hypercorn, or of one parent.

    Those of another one, or a `trio-worker run`, listen on addresses of their own and are scraped there:
    shown here as well, they would be counted twice.
    """
    parent = multiprocessing.parent_process()
    return _group_of(os.getpid() if parent is None else parent.pid)


def _group_of(number: int | None) -> str:
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
        number: Of this process; before it is open, the one that it takes if that is free.
    """

    group: str = attrs.field(factory=_group_here)
    number: int = 0
    _folder: StateFolder | None = attrs.field(default=None, init=False)
    _runner: Runner = attrs.field(default=inline, init=False)
    _known: set[int] = attrs.field(factory=set, init=False)  # to be of the group: they have answered
    _death: trio.Event = attrs.field(factory=trio.Event, init=False)

    @classmethod
    def of_parent(cls, number: int) -> Neighbours:
        """Those with the same parent as this process.

        Args:
            number: Of this process among them.
        """
        return cls(_group_of(os.getppid()), number)

    def note_death(self) -> None:
        """One of them has died. Never waits."""
        self._death.set()

    async def death(self) -> None:
        """Wait until one of them has died, since the last call."""
        await self._death.wait()
        self._death = trio.Event()

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
            place = await runner(partial(_Place.take, folder, self.number))
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
        return (await self.hear(question)).answers

    async def hear(self, question: str) -> Heard:
        """Ask all others of the group, and note who does not answer.

        Args:
            question: What is asked for.

        Returns:
            What has come within half a second.
        """
        heard = Heard()
        if self._folder is None:
            return heard
        with trio.move_on_after(ANSWERS_WITHIN):
            sockets = await self._runner(partial(_sockets, self._folder.path))
            async with trio.open_nursery() as nursery:
                for number, path in sockets:
                    if number != self.number:
                        nursery.start_soon(self._ask_one, number, path, question, heard)
        heard.silent.intersection_update(self._known)
        return heard

    async def _ask_one(self, number: int, path: Path, question: str, heard: Heard) -> None:
        try:
            with _short(path) as short:
                stream = await trio.open_unix_socket(short)
            heard.silent.add(number)  # it lives: somebody listens
            async with stream:
                await stream.send_all(f"{question} {self.group}\n".encode())
                text = b"".join([piece async for piece in stream])
            heard.silent.discard(number)
            if text:
                heard.answers[number] = json.loads(text)
                self._known.add(number)
        except (OSError, trio.BrokenResourceError, ValueError) as error:
            if getattr(error.__cause__, "errno", None) == errno.ENOTCONN:
                return  # too many wait for it: it stands still
            # It has died, or is just going: it is left out, as the docstring says.
            heard.silent.discard(number)
            self._known.discard(number)


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
    def take(cls, folder: StateFolder, wanted: int) -> _Place:
        number, lock = folder.take_slot(wanted)
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


def _sockets(folder: Path) -> list[tuple[int, Path]]:
    """List the processes of all groups by their numbers. Blocks."""
    numbers = {path.stem.removeprefix("process-"): path for path in folder.glob("process-*.sock")}
    return [(int(number), path) for number, path in numbers.items() if number.isdecimal()]


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
