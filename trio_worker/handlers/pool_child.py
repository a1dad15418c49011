"""A process of the pool: ``python -m trio_worker.handlers.pool_child path directory SOCKET LIFE WHAT LEVEL``.

Started by `trio_worker.handlers.pool_process`. SOCKET and LIFE are descriptors: a socket for messages, and
the end of a pipe on which nothing is ever sent, and which is closed when the worker is no more. WHAT and
LEVEL are those of a `Capture`: arguments, since our settings are kept out of this process's environment.
From LEVEL on, what is logged here goes to the worker's log as well.

The handler runs in the main thread; another one reads. Nothing is imported here that is not needed: the
time until the process is ready, and its memory, are the user's.
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import signal
import sys
import threading
import traceback
from datetime import datetime
from functools import partial
from inspect import iscoroutine
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any

from trio_worker.capture import Capture
from trio_worker.context import PlainContext
from trio_worker.errors import HandlerError, QueryFailed, RetryLater, reason_of, unwrapped
from trio_worker.handlers.frames import MOST_ANSWER, MOST_TEXT
from trio_worker.handlers.loading import Handler, load_handler
from trio_worker.handlers.pool_desk import Line, PipeDesk
from trio_worker.handlers.pool_records import Records
from trio_worker.query import Query

__all__ = ["main"]

Message = dict[str, Any]


class Child:
    """What this process does: one query after the other, until there are no more.

    Args:
        line: The way to the worker.
        capture: What is brought to the query's log.
    """

    def __init__(self, line: Line, capture: Capture) -> None:
        self._line = line
        self._capture = capture
        self._records = Records(line, capture.level)
        self._desk: PipeDesk | None = None
        self._queries: SimpleQueue[Message | None] = SimpleQueue()

    def read(self) -> None:
        """Hand on what comes from the worker. In a thread of its own."""
        self._line.read(self._take)
        self._queries.put(None)

    def work(self, path: str, directory: Path) -> None:
        """Import the handler, and call it for each query."""
        self._records.listen()
        try:
            handler = _load(path, directory)
        except HandlerError as error:
            shown = [problem.replace(repr(path), repr(f"process:{path}"), 1) for problem in error.problems]
            self._line.rest({"refused": shown})
            return
        self._line.rest({"ready": True})
        # After the import, in which a module may set logging up for itself.
        self._records.listen()
        with self._capture.begin():
            while (message := self._queries.get()) is not None:
                self._answer(handler, message)

    def _answer(self, handler: Handler, message: Message) -> None:
        run = message["run"]
        desk = self._desk = PipeDesk(self._line, run, datetime.fromisoformat(message["deadline"]))
        # The worker may try again elsewhere when this process dies before that.
        self._line.send({"run": run, "begun": True})
        query = Query.from_json(message["query"])
        saved = message["saved"]
        ctx = PlainContext(
            desk, attempt=message["attempt"], saved=None if saved is None else json.dumps(saved)
        )
        with self._records.of(run), self._capture.into(ctx.log):
            end = _end_of(handler, query, ctx)
        desk.close()
        self._line.rest({"run": run, "end": end})

    def _take(self, message: Message) -> None:
        if "query" in message:
            self._queries.put(message)
        elif self._desk is not None and message["run"] == self._desk.run:
            self._desk.hear(message)


def _load(path: str, directory: Path) -> Handler:
    handler = load_handler(path, directory)
    if handler.is_async:
        kind = "opens a handler" if handler.opens else "is async"
        raise HandlerError(
            [f"WORKER_HANDLER is {path!r}: that {kind}; process: takes plain functions (def, not async def)"]
        )
    return handler


# --- How a query ends ----------------------------------------------------------------------------


def _end_of(handler: Handler, query: Query, ctx: PlainContext) -> Message:
    """Call the handler; say what came of it, in what can be sent."""
    try:
        return _said(handler.function(query, ctx))
    except BaseException as error:  # noqa: BLE001, ASYNC103 - SystemExit, too, is only one query's; no Trio here
        return _told(error)  # noqa: ASYNC104


def _said(answer: object) -> Message:
    if isinstance(answer, str):
        return {"answer": answer[:MOST_ANSWER], "size": len(answer)}
    if iscoroutine(answer):
        answer.close()  # somebody forgot to await; no warning beside the worker's own line
    return {"wrong": None if answer is None else type(answer).__name__}


def _told(error: BaseException) -> Message:
    try:
        return _description(error)
    except Exception as problem:  # noqa: BLE001 - its __str__ is the handler's code, too
        return _raised(problem, str(problem))


def _description(error: BaseException) -> Message:
    said = unwrapped(error)
    if isinstance(said, QueryFailed):
        return {"failed": reason_of(said)[:MOST_ANSWER]}
    if isinstance(said, RetryLater):
        if isinstance(said.seconds, bool) or not isinstance(said.seconds, int | float):
            raise ValueError(f"RetryLater: seconds is {said.seconds!r}, expected 0 or more")  # noqa: TRY004
        return {"later": float(said.seconds), "reason": str(said.reason)[-MOST_TEXT:]}
    return _raised(error, str(said))


def _raised(error: BaseException, text: str) -> Message:
    lines = "".join(traceback.format_exception(error))
    return {
        "raised": type(unwrapped(error)).__name__,
        "text": text[-MOST_TEXT:],
        "traceback": lines[-MOST_TEXT:],
    }


# --- The process ---------------------------------------------------------------------------------


def _ignore(_number: int, _frame: FrameType | None) -> None:
    # Not SIG_IGN, which the programs that a handler starts would inherit.
    pass


def _forked(line: Line, life: int) -> None:
    """In a fork of this process: it is not this process."""
    line.cut()
    if signal.getsignal(signal.SIGTERM) is _ignore:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        os.close(life)
    except OSError:
        pass


def main() -> None:
    """Work until the worker closes its end of the socket."""
    path, directory, socket, life = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    for descriptor in (socket, life):
        os.set_inheritable(descriptor, False)
    line = Line(socket)
    os.register_at_fork(after_in_child=partial(_forked, line, life))
    # The worker's to obey: systemd sends it to all processes of a service, and the query may be seen through.
    signal.signal(signal.SIGTERM, _ignore)
    faulthandler.enable()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # killed, it flushes nothing
    child = Child(line, Capture(*sys.argv[5:]))  # type: ignore[arg-type]
    threading.Thread(target=child.read, name="trio-worker line", daemon=True).start()
    child.work(path, directory)


if __name__ == "__main__":
    main()
