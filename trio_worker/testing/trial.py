"""One attempt of a handler at a made-up query: by the worker's own execution, with no WebBuddy at all."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack

import attrs
import trio

from trio_worker import clock
from trio_worker.capture import OFF, Capture
from trio_worker.context import Context
from trio_worker.desk import HeldDesk
from trio_worker.errors import unwrapped
from trio_worker.execution import Execution
from trio_worker.handlers.kinds import find_handler
from trio_worker.handlers.loading import Handler, source_of
from trio_worker.handlers.opening import open_handler
from trio_worker.left_behind import LeftBehind
from trio_worker.masks import masks
from trio_worker.phrases import ENGLISH
from trio_worker.project import Project
from trio_worker.query import Done, Ending, Failed, Postponed, Query
from trio_worker.query_log import Fresh, QueryLog
from trio_worker.setting_kinds import COMMAND, PROCESS
from trio_worker.stop import Stop
from trio_worker.testing.blocking import LoopBlocked, watch_for_blocks
from trio_worker.testing.trial_options import TrialOptions, capture_of, check_names
from trio_worker.testing.virtual_time import same_time, time_is_virtual

__all__ = ["HandlerFunction", "HandlerResult", "look_at", "try_handler"]

HandlerFunction = Callable[[Query, Context], Awaitable[object]] | Callable[[Query, Any], object]


@attrs.frozen(kw_only=True)
class HandlerResult:
    """What came of a handler.

    Attributes:
        status: What WebBuddy shows then: ``"done"``, ``"failed"``, or ``"in_progress"`` after `RetryLater`.
        answer_text: What the query's author reads: the answer, or why there is none.
        kind: How it ended, in a word: ``"answered"``; ``"said_so"`` (by `QueryFailed`), ``"error"`` (anything
            else was raised), ``"timeout"``, ``"left_behind"`` (it went on after that), ``"bad_answer"``,
            ``"retry_later"``; of a program ``"exit_status"`` (another than 0 and 75); of a program or a
            process ``"process_died"``, ``"process_killed"`` (by SIGKILL) and ``"not_started"``.
        retry_seconds: After how many seconds it is called again, after `RetryLater`; else None.
        logs: The lines that it has written by `ctx.log`, as the query's author reads them.
        saved: What the next attempt finds in `ctx.saved`.
        token_usage: What WebBuddy would be sent for each `ctx.token_usage`, in order.
    """

    status: Literal["done", "failed", "in_progress"]
    answer_text: str
    kind: str
    retry_seconds: float | None = None
    logs: list[str]
    saved: Any = None
    token_usage: list[dict[str, object]] = attrs.field(factory=list)


def look_at(
    handler: HandlerFunction | Handler | str, *, most: int, path: str | None = None, capture: Capture = OFF
) -> Handler:
    """Look at a handler as the worker does when it starts.

    Args:
        handler: A function, or what stands in ``WORKER_HANDLER``.
        most: How many queries it is called for at once, at most.
        path: How to name a function in logs and errors; None: by its own name.
        capture: What is captured in processes.

    Raises:
        HandlerError: It is none.
    """
    if isinstance(handler, Handler):
        return handler
    if isinstance(handler, str):
        return find_handler(handler, Path.cwd(), most=most, capture=capture)
    name = getattr(handler, "__qualname__", type(handler).__qualname__)
    return source_of(handler, path or f"{handler.__module__}:{name}")


async def try_handler(
    handler: HandlerFunction | Handler | str, query_text: str, **options: Unpack[TrialOptions]
) -> HandlerResult:
    """Run a handler once, as the worker would; `trio_worker.testing.RunHandler` tells more.

    Cancelled, it cancels the handler and waits for its end.

    Raises:
        LoopBlocked: It blocks the event loop.
        HandlerError: It is no handler, or what it needs can't be opened.
        TypeError: There is no such option.
        ValueError: There is no such ``capture``. Or it needs threads or processes, and virtual time does not
            wait for those.
    """
    check_names(options)
    capture = capture_of(options)
    trial = _Trial(look_at(handler, most=1, capture=capture), query_text, capture, **options)
    try:
        with same_time(), capture.begin():
            # In a task of its own: what it starts can be told from what the test has started.
            async with trio.open_nursery() as nursery:  # noqa: ASYNC112
                nursery.start_soon(trial.run)
    except BaseExceptionGroup as group:
        raise unwrapped(group) from None
    finally:
        trial.forget_secrets()
    return trial.result()


def _made_up(text: str, project: Project | None, fields: dict[str, Any]) -> Query:
    """A query as it is claimed."""
    now = clock.utc_now()
    usual: dict[str, Any] = {
        "id": 1,
        "project": 1 if project is None else project.id,
        "project_name": "Portal",
        "user": 2,
        "user_name": "member",
        "status": "in_progress",
        "query_created": now,
        "query_started": now,
        "logs_count": 0,
    }
    return Query(query_text=text, **(usual | fields))


class _Lines:
    """Takes the lines of a log as a journal does (`trio_worker.query_log.LineSink`)."""

    def __init__(self) -> None:
        self._collect: Callable[[], Fresh] | None = None

    def lines_wait(self, collect: Callable[[], Fresh]) -> None:
        """They are collected at the end."""
        self._collect = collect

    def sent(self, entries: int, up_to: int) -> None:
        """Nothing is ever sent."""

    def all(self) -> list[str]:
        """List them."""
        return [] if self._collect is None else [line.text for line in self._collect().lines]


class _Trial:
    """What stands behind the handler's context (see `HeldDesk`): the query, its log, what is saved."""

    def __init__(
        self,
        handler: Handler,
        query_text: str,
        capture: Capture,
        /,
        *,
        attempt: int = 1,
        saved: object = None,
        project_settings: Project | None = None,
        processing_timeout: float = 300.0,
        max_processing_time: float = 3600.0,
        **fields: Any,
    ) -> None:
        self.query = _made_up(query_text, project_settings, fields)
        self._lines = _Lines()
        self.log = QueryLog(ENGLISH, began=trio.current_time(), sink=self._lines)
        self._handler = handler
        self._capture = capture
        self._attempt = attempt
        self._saved = None if saved is None else json.dumps(saved, ensure_ascii=False, allow_nan=False)
        self._usages: list[dict[str, object]] = []
        self._project = project_settings
        self._time_limit = processing_timeout
        self._most_time = max_processing_time
        self._ending: Ending | None = None

    def save(self, data: str) -> None:
        """Keep it for the result."""
        self._saved = data

    def note_usage(self, body: Mapping[str, object]) -> None:
        """Keep it for the result."""
        self._usages.append({"project": self.query.project, "query": self.query.id, **body})

    async def written(self) -> None:
        """Wait for no disk."""
        await trio.lowlevel.checkpoint()

    async def of(self, _query: Query) -> Project | None:
        """Give the project, and keep its secrets out of all that is read, as `Projects` does."""
        await trio.lowlevel.checkpoint()
        if self._project is not None:
            masks.know(self._secrets, *self._project.secrets)
        return self._project

    def forget_secrets(self) -> None:
        """Those of the next test are others."""
        masks.forget(self._secrets)

    @property
    def _secrets(self) -> str:
        return f"the project of trial {id(self)}"

    async def run(self) -> None:
        """Open the handler, run it, and close it."""
        _check_time(self._handler)
        async with open_handler(self._handler, directory=Path.cwd(), stop=_nobody_stops()) as opened:
            assert opened is not None  # nobody asks for a stop
            _check_time(opened)
            async with trio.open_nursery() as nursery:
                self._ending = await self._attempt_in(nursery, opened)

    async def _attempt_in(self, nursery: trio.Nursery, handler: Handler) -> Ending:
        execution = Execution(
            handler=handler,
            nursery=nursery,
            time_limit=self._time_limit,
            most_time=self._most_time,
            phrases=ENGLISH,
            worker="test-worker",
            left_behind=LeftBehind(),
            capture=self._capture,
        )
        deadline = execution.deadline()
        desk = HeldDesk(self, deadline, self, execution.worker)
        ctx = execution.context(desk, attempt=self._attempt, saved=self._saved)
        try:
            with watch_for_blocks(handler, trio.lowlevel.current_task()) as watch:
                ending = await execution.run(self.query, ctx, deadline)
        finally:
            desk.close()
            self.log.close("")
        if watch.found is not None:
            raise LoopBlocked(watch.found)
        return ending

    def result(self) -> HandlerResult:
        """Say what came of it."""
        said = partial(
            HandlerResult,
            logs=self._lines.all(),
            saved=None if self._saved is None else json.loads(self._saved),
            token_usage=self._usages,
        )
        match self._ending:
            case Done(answer):
                return said(status="done", kind="answered", answer_text=answer)
            case Failed(reason, kind):
                return said(status="failed", kind=kind, answer_text=reason)
            case Postponed(seconds, reason):
                return said(
                    status="in_progress", kind="retry_later", answer_text=reason, retry_seconds=seconds
                )
        raise AssertionError(f"nobody stops a trial, but it ended as {self._ending!r}")


CLOSE_SECONDS = 5.0  # for what the handler has opened: as a worker has it at its end


def _nobody_stops() -> Stop:
    return Stop(grace=CLOSE_SECONDS, reserve=CLOSE_SECONDS, closes=True)


def _check_time(handler: Handler) -> None:
    if time_is_virtual() and (not handler.is_async or handler.path.startswith((PROCESS, COMMAND))):
        raise ValueError(
            f"{handler.path} runs in a thread or a process, and virtual time does not wait for those: leave"
            " out virtual_time or autojump_clock"
        )
