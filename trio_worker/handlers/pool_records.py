"""What is logged by `logging` in a process of the pool, on its way to the worker's log."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from trio_worker.handlers.frames import MOST_LOGGED, MOST_TEXT
from trio_worker.handlers.pool_desk import Line

__all__ = ["Records"]

_run: ContextVar[int | None] = ContextVar("trio_worker: number of the run", default=None)


class Records(logging.Handler):
    """Sends the worker what comes as far as the root logger; only there is it masked.

    What is logged with nothing to do, when the worker may have closed the line, and what a fork logs, goes
    where it would go without us.

    Args:
        line: The way to the worker.
        level: The least important level.
    """

    def __init__(self, line: Line, level: str) -> None:
        super().__init__(logging.getLevelNamesMapping()[level.upper()])
        self._line = line

    def listen(self) -> None:
        """Begin. A second call makes good what a module has done that has set logging up anew."""
        root = logging.getLogger()
        root.addHandler(self)
        root.setLevel(min(root.level, self.level))

    @contextmanager
    def of(self, run: int) -> Iterator[None]:
        """Have what comes in this context taken for that of a query, as the capture has it."""
        token = _run.set(run)
        try:
            yield
        finally:
            _run.reset(token)

    def handle(self, record: logging.LogRecord) -> bool:
        # Without a handler's lock, as the capture: a `__del__` may log in the middle of a message.
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        if not self._line.is_at_work or self._line.is_cut:
            if logging.lastResort is not None and record.levelno >= logging.lastResort.level:
                logging.lastResort.handle(record)
            return
        try:
            self._line.send({"record": _described(record), "run": _run.get()})
        except Exception:  # noqa: BLE001 - the way of every handler of logging's: it never raises
            self.handleError(record)


def _described(record: logging.LogRecord) -> dict[str, object]:
    lines = ""
    if record.exc_info and record.exc_info[1] is not None:
        lines = "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n")
    return {
        "logger": record.name,
        "level": record.levelno,
        "text": record.getMessage()[:MOST_LOGGED],
        "traceback": lines[-MOST_TEXT:],
    }
