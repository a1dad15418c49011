"""What a handler logs by `logging`, and what it prints, brought to the log of its query.

Which query that is a context variable says. It is set around the handler, and goes along to its tasks, to
threads that Trio starts for it and to asyncio's loop (`trio_worker.handlers.asyncio_loop`). Whatever else
runs in the process, a thread that the handler starts by itself included, is not concerned.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import Context, ContextVar, copy_context
from functools import cache, partial
from threading import get_ident
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, TextIO

import attrs

from trio_worker.errors import unwrapped

if TYPE_CHECKING:
    # A process of the pool imports this module, and has no use for the settings.
    from trio_worker.settings import CaptureMode, LogLevel

__all__ = ["MOST_BEGUN", "OFF", "Capture", "uncaptured"]

MOST_BEGUN = 16_384
"""Characters of a printed line that are kept while it has no end; the log takes fewer of a line."""

# What they say below a warning is the operator's: each request, with its URL.
_CHATTY = {"httpx", "httpcore", "hpack", "hypercorn"}

# Of an event of structlog's: what its processors and the worker add.
_ADDED = {"event", "exc_info", "level", "logger", "query", "stack_info", "timestamp"}


@attrs.frozen(eq=False)
class Capture:
    """What is brought to the log of a query, beside what `ctx.log` writes.

    Attributes:
        what: ``off``: nothing. ``logging``: records of the standard library's `logging`. ``print``: these,
            and what is written to `sys.stdout`.
        level: The least important level of a record, whatever the operator's log shows.
    """

    what: CaptureMode = "off"
    level: LogLevel = "info"

    @contextmanager
    def begin(self) -> Iterator[None]:
        """Listen for as long as the block lasts: to the root logger, and in the place of `sys.stdout`.

        With ``off`` nothing is touched.
        """
        with ExitStack() as stack:
            if self.what != "off":
                stack.enter_context(_logged(self))
            if self.what == "print":
                stack.enter_context(_printed(self))
            yield

    @contextmanager
    def into(self, log: Callable[[object], None]) -> Iterator[None]:
        """Bring to a log what comes in this context, and in those that are copied from it.

        What comes after the block goes where it would go without us. A line that was begun ends with it.

        Args:
            log: Takes each line, from whichever thread it comes.
        """
        if self.what == "off":
            yield
            return
        destination = _Destination(self, log)
        token = _destination.set(destination)
        try:
            yield
        finally:
            _destination.reset(token)
            destination.close()


OFF = Capture()


class _Destination:
    """The log of a query, as long as its handler is at work. Callable from any thread.

    Without a lock, each step being one of the interpreter's: a `__del__` that prints may come in between.
    """

    def __init__(self, capture: Capture, log: Callable[[object], None]) -> None:
        self.capture = capture
        self.log = log
        self.is_open = True
        # By the thread: `print("a", "b")` writes four times, and another thread's would come in between.
        self._begun: dict[int, str] = {}

    def write(self, text: str) -> None:
        """Take what is printed; what has no end yet waits for it."""
        # A carriage return ends a line as well: progress bars write nothing else.
        *lines, begun = (self._begun.pop(get_ident(), "") + text).replace("\r", "\n").split("\n")
        if begun:
            self._begun[get_ident()] = begun[:MOST_BEGUN]
        for line in lines:
            self.log(line)

    def close(self) -> None:
        """End it, and the lines that were begun."""
        self.is_open = False
        for thread in list(self._begun):
            self.log(self._begun.pop(thread, ""))
        # A task or a connection that was begun for the query may live on, and its context with it: the
        # query itself need not be kept for that.
        self.log = _drop


def _drop(_line: object) -> None:
    pass


_destination: ContextVar[_Destination | None] = ContextVar("trio_worker: query's log", default=None)
# A fork has a copy of the log, which nobody reads.
os.register_at_fork(after_in_child=partial(_destination.set, None))


def uncaptured() -> Context:
    """Copy this context, for what has come to the query's log another way."""
    context = copy_context()
    context.run(_destination.set, None)
    return context


def _here(capture: Capture) -> _Destination | None:
    """Give the log of the query that this is for, if any."""
    destination = _destination.get()
    if destination is None or destination.capture is not capture or not destination.is_open:
        return None
    return destination


# --- logging ---------------------------------------------------------------------------------------


@contextmanager
def _logged(capture: Capture) -> Iterator[None]:
    ours = _Records(capture)
    _root.listen(ours)
    try:
        yield
    finally:
        _root.leave(ours)


class _Root:
    """The root logger, to which those of several workers listen. They may end in any order."""

    def __init__(self) -> None:
        self._listening: list[_Records] = []
        self._level = logging.NOTSET  # before the first
        self._last_resort: logging.Handler | None = None

    def listen(self, ours: _Records) -> None:
        root = logging.getLogger()
        if not self._listening:
            self._level = root.level
            # In a test by hand. Warnings are shown on stderr only where nobody has a handler.
            self._last_resort = None if root.handlers else logging.lastResort
            if self._last_resort is not None:
                root.addHandler(self._last_resort)
        self._listening.append(ours)
        root.addHandler(ours)
        self._set_level()

    def leave(self, ours: _Records) -> None:
        root = logging.getLogger()
        self._listening.remove(ours)
        root.removeHandler(ours)
        self._set_level()
        if not self._listening and self._last_resort is not None:
            root.removeHandler(self._last_resort)

    def _set_level(self) -> None:
        # The operator's log may show less (`trio-worker once`); its handler sees to that.
        logging.getLogger().setLevel(min([self._level, *(ours.level for ours in self._listening)]))


_root = _Root()


class _Records(logging.Handler):
    """Hands records on: those that come as far as the root logger, as the operator's log does."""

    def __init__(self, capture: Capture) -> None:
        super().__init__(logging.getLevelNamesMapping()[capture.level.upper()])
        self._capture = capture

    def handle(self, record: logging.LogRecord) -> bool:
        # Without a handler's lock: a thread that is about to write to a query's log, and holds its lock,
        # may log (in a `__del__`), while another logs, has this one and wants the other.
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        destination = _here(self._capture)
        if destination is None or _is_not_the_handlers(record):
            return
        try:
            destination.log(_line(record))
        except Exception:  # noqa: BLE001 - the way of every handler of logging's: it never raises
            self.handleError(record)


def _is_not_the_handlers(record: logging.LogRecord) -> bool:
    top = record.name.partition(".")[0]
    if top == "trio_worker" or (top in _CHATTY and record.levelno < logging.WARNING):
        return True
    return record.name == "py.warnings"  # for who writes the handler: they name files of this machine


def _line(record: logging.LogRecord) -> str:
    """Write what the query's author reads: what is said, and how bad it is where it is bad.

    Neither the logger, which is a module of a program that they do not know, nor a traceback: both are in
    the operator's log, under the query's number.
    """
    if isinstance(record.msg, dict) and hasattr(record, "_logger"):  # structlog's, which we send this way
        text, given = _event(record.msg), record.msg.get("exc_info")
    else:
        text, given = _message(record), record.exc_info
    if record.levelno >= logging.WARNING:
        text = f"{record.levelname}: {text}"
    error = _error(given)
    return text if error is None else f"{text}: {_last_line(error)}"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - its arguments do not fit, or their `__str__` raises
        return str(record.msg)


def _event(event: dict[str, Any]) -> str:
    details = [f"{key}={value}" for key, value in event.items() if key not in _ADDED]
    return " ".join([str(event.get("event")), *details])


def _error(given: object) -> BaseException | None:
    match given:
        case BaseException() as error:
            return error
        case (_, BaseException() as error, _):
            return error
        case True:
            return sys.exc_info()[1]
    return None


def _last_line(error: BaseException) -> str:
    # Not that of the traceback: a note may follow there, in which are whole tracebacks at times.
    error = unwrapped(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


# --- print -----------------------------------------------------------------------------------------


@contextmanager
def _printed(capture: Capture) -> Iterator[None]:
    ours = _Stdout(capture, sys.stdout)
    sys.stdout = ours
    try:
        yield
    finally:
        ours.is_over = True
        # Another worker's may be there, and has ours as its real one; or somebody else's, who puts back ours.
        while isinstance(sys.stdout, _Stdout) and sys.stdout.is_over:
            sys.stdout = sys.stdout.before


@cache
def _nowhere() -> TextIO:
    # Never closed: a thread that was left behind may print for as long as it likes. Python would complain of
    # that at the end of the process, were the descriptor the file's own.
    return open(os.open(os.devnull, os.O_WRONLY), "w", closefd=False)


class _Stdout:
    """`sys.stdout`, but for what is printed by a handler.

    Whoever keeps it beyond the lifetime of the capture has the real one; where there is none, one that
    takes everything.
    """

    def __init__(self, capture: Capture, before: TextIO | None) -> None:
        self.before: Any = before  # None: the process was started without one
        self.is_over = False
        self._capture = capture
        self._real = before if before is not None else _nowhere()

    def write(self, text: str) -> int:
        destination = _here(self._capture)
        if destination is None or not isinstance(text, str) or _is_in_logging():
            return self._real.write(text)
        destination.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "_real":
            raise AttributeError(name)  # of a copy that is being made; it would be looked for here for ever
        return getattr(self._real, name)  # buffer, encoding, isatty, fileno, flush, …

    def __enter__(self) -> _Stdout:
        self._real.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._real.__exit__(kind, error, trace)


def _is_in_logging() -> bool:
    """Whether we are called by one of logging's handlers, which a library may have set up with our stdout.

    Its record is in the query's log by itself. And it has a lock, for which a `__del__` may wait that has
    come in the middle of what we would have to wait for.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals is not logging.__dict__:
        frame = frame.f_back
    return frame is not None
