"""The ends of the pool's pipe in the process of a handler: the line to the worker, and a context's desk."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from queue import SimpleQueue
from typing import Any, NoReturn

import attrs

from trio_worker import errors
from trio_worker.handlers.frames import MOST_LOGGED, Unpacker, pack
from trio_worker.project import Project
from trio_worker.token_usage import TokenUsage

__all__ = ["Line", "PipeDesk", "end_at_once"]

CHUNK = 65_536  # bytes

LONGEST = 1e9  # seconds: more than any limit, and no larger than a float

Message = Mapping[str, Any]


def end_at_once() -> NoReturn:
    """End this process and all that it has started, whatever its threads do."""
    try:
        os.killpg(os.getpid(), signal.SIGKILL)
    finally:
        os._exit(1)  # started by hand, it leads no group


class Line:
    """The way to the worker.

    Args:
        socket: Its descriptor.

    Attributes:
        is_cut: Whether this is a fork of the process whose line it was.
        is_at_work: Whether the worker is sure to read.
    """

    def __init__(self, socket: int) -> None:
        self._socket = socket
        self._identity = _identity(socket)
        self._lock = threading.Lock()
        # Who sends, under the lock. A `__del__` that logs may come in between, in the same thread.
        self._sender: int | None = None
        self._interjected: deque[bytes] = deque()
        self.is_cut = False
        self.is_at_work = True  # until `rest` is called: the import comes first

    def send(self, message: Message) -> None:
        """Send a message. From any thread; waits while the worker does not read.

        Raises:
            FrameError: As `pack` does; so is TypeError.
            OSError: The handler has closed what is not its own.
        """
        data, thread = pack(message), threading.get_ident()
        if self._sender == thread:
            self._interjected.append(data)
            return
        with self._lock:
            self._sender = thread
            try:
                self._write(data)
                while self._interjected:
                    self._write(self._interjected.popleft())
            finally:
                self._sender = None

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and not self.is_cut:
            self._check()
            try:
                rest = rest[os.write(self._socket, rest) :]
            except ConnectionError:
                end_at_once()  # the worker is no more

    def rest(self, message: Message) -> None:
        """Send the last message of a piece of work. From here on the worker may close the line."""
        self.is_at_work = False
        self.send(message)

    def read(self, take: Callable[[dict[str, Any]], None]) -> None:
        """Read until the worker closes its end; if that comes in the middle of work, end this process.

        Args:
            take: Is given each message. One with a query in it begins a piece of work.
        """
        unpacker = Unpacker()
        try:
            while data := os.read(self._socket, CHUNK):
                for message in unpacker.feed(data):
                    self.is_at_work = self.is_at_work or "query" in message
                    take(message)
        except BaseException:
            end_at_once()  # the handler has closed the socket, or reads from it
            raise
        if self.is_at_work:
            end_at_once()

    def _check(self) -> None:
        # A handler that closes all descriptors and then opens a file may have given it our number: what is
        # meant for the worker must not be written into somebody's database.
        if _identity(self._socket) != self._identity:
            raise OSError(errno.EBADF, "the handler has closed our socket")

    def cut(self) -> None:
        """In a fork of this process: what that sent would run into what this one sends."""
        self.is_cut = True
        self._lock = threading.Lock()  # nobody is left there to release the old one
        try:
            self._check()
            os.close(self._socket)
        except OSError:
            pass


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


class PipeDesk:
    """Stands behind the context of one query; see `trio_worker.context.Desk`. Called from any thread.

    Args:
        line: The way to the worker.
        run: The number by which the worker knows the query.
        deadline: When it has to be over.

    Attributes:
        run: That number.
    """

    def __init__(self, line: Line, run: int, deadline: datetime) -> None:
        self._line = line
        self.run = run
        self._deadline = deadline
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._asked: dict[int, SimpleQueue[Message | None]] = {}
        self._is_over = False

    def log(self, text: str) -> None:
        """Take one line for the query's log."""
        self._tell(log=text[:MOST_LOGGED])

    def deadline(self) -> datetime:
        """Say when the attempt has to be over, as it was last told."""
        return self._deadline

    def extend(self, seconds: float) -> datetime:
        """Have that put off. Waits for the worker."""
        at = self._ask("extend", seconds=min(seconds, LONGEST))
        if at is not None:
            self._deadline = datetime.fromisoformat(at)
        return self._deadline

    def save(self, data: str) -> None:
        """Keep some JSON for the next attempt."""
        self._tell(save=data)

    async def project(self) -> Project | None:
        """The same as `project_in_thread`; there is no event loop here."""
        return self.project_in_thread()

    def project_in_thread(self) -> Project | None:
        """Have WebBuddy asked. Waits for it; None once the query has ended."""
        found = self._ask("project")
        return None if found is None else Project(**found)

    def note_usage(self, usage: TokenUsage) -> None:
        """Have WebBuddy told what a call of a model has used."""
        self._tell(note_usage=attrs.asdict(usage))

    async def token_usage(self, usage: TokenUsage) -> None:
        """The same as `token_usage_in_thread`; there is no event loop here."""
        self.token_usage_in_thread(usage)

    def token_usage_in_thread(self, usage: TokenUsage) -> None:
        """Do so, and wait until the worker has it in its journal, or the query has ended."""
        self._ask("token_usage", usage=attrs.asdict(usage))

    def hear(self, answer: Message) -> None:
        """Take the worker's answer to a question."""
        with self._lock:
            box = self._asked.pop(answer["answer"], None)
        if box is not None:
            box.put(answer)

    def close(self) -> None:
        """The query has ended: nothing is sent any more, and nobody waits for an answer any longer."""
        with self._lock:
            self._is_over = True
            asked = list(self._asked.values())
            self._asked.clear()
        for box in asked:
            box.put(None)

    def _tell(self, **message: object) -> None:
        if not self._is_over:
            self._line.send({"run": self.run, **message})

    def _ask(self, what: str, **details: object) -> Any:
        box: SimpleQueue[Message | None] = SimpleQueue()
        with self._lock:
            if self._is_over or self._line.is_cut:
                return None
            number = next(self._numbers)
            self._asked[number] = box
        self._line.send({"run": self.run, "ask": number, "what": what, **details})
        answer = box.get()
        if answer is None:
            return None
        if "error" in answer:
            raise _exception(*answer["error"])
        return answer["value"]


def _exception(name: str, text: str, status: int | None) -> Exception:
    """Make again what was raised in the worker, or the like of it."""
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, errors.WebBuddyError):
        return kind(text, status=status)
    return ValueError(text) if name == "ValueError" else RuntimeError(f"{name}: {text}")
