"""What stands behind a handler's context in this process: the query's log, its journal entry, WebBuddy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Protocol, TypeVar

import structlog
import trio

from trio_worker.deadline import Deadline
from trio_worker.loop_thread import LoopThread
from trio_worker.project import Project
from trio_worker.query import Query
from trio_worker.query_log import QueryLog
from trio_worker.token_usage import TokenUsage

__all__ = ["MOST_USAGES", "HeldDesk"]

T = TypeVar("T")

log = structlog.get_logger(__name__)

MOST_USAGES = 200
"""Of one attempt; a handler that calls its model in a loop must not fill the disk."""


class _Held(Protocol):
    """A query at work: `trio_worker.held.Held`, or one that a test has made up."""

    @property
    def query(self) -> Query: ...

    log: QueryLog

    def save(self, data: str) -> None: ...

    def note_usage(self, body: Mapping[str, object], /) -> None: ...

    async def written(self) -> None: ...


class _Projects(Protocol):
    """As `trio_worker.projects.Projects`."""

    async def of(self, query: Query, /) -> Project | None: ...


class HeldDesk:
    """Serves the context of one attempt; see `trio_worker.context.Desk`.

    Made on the event loop.

    Args:
        held: The query.
        deadline: Of the attempt.
        projects: Where settings of projects come from.
        worker: The name of this worker.
    """

    def __init__(self, held: _Held, deadline: Deadline, projects: _Projects, worker: str) -> None:
        self._held = held
        self._deadline = deadline
        self._projects = projects
        self._worker = worker
        self._usages = 0
        self._loop_thread = LoopThread()
        self._is_over = False
        # A dictionary for its order, which sets do not have.
        self._asking: dict[trio.CancelScope, None] = {}

    def close(self) -> None:
        """The attempt is over: nothing is taken any more, but for the log, which ends with the query.

        Who still waits for an answer has None at once: WebBuddy is not asked for the sake of what was
        left behind, and no such call outlives the service.
        """
        self._is_over = True
        self._deadline.end()
        for scope in self._asking:
            scope.cancel()

    def log(self, text: str) -> None:
        """Take one line for the query's log."""
        self._held.log.write(text)

    def deadline(self) -> datetime:
        """Say when the attempt has to be over."""
        return self._deadline.at()

    def extend(self, seconds: float) -> datetime:
        """Put that off."""
        return self._deadline.extend(seconds)

    def save(self, data: str) -> None:
        """Have some JSON written down, with the next commit of the journal."""
        self._loop_thread.call(self._save, data)

    def _save(self, data: str) -> None:
        if not self._is_over:
            self._held.save(data)

    async def project(self) -> Project | None:
        """Ask WebBuddy for the query's project, or remember it; None once the attempt is over."""
        return await self._while_at_work(lambda: self._projects.of(self._held.query))

    def project_in_thread(self) -> Project | None:
        """The same from any other thread; blocks it."""
        return self._loop_thread.wait_for(self.project)

    def note_usage(self, usage: TokenUsage) -> None:
        """Have WebBuddy told what a call of a model has used."""
        self._loop_thread.call(self._note_usage, usage)

    def _note_usage(self, usage: TokenUsage) -> None:
        if self._is_over:
            return
        self._usages += 1
        if self._usages <= MOST_USAGES:
            self._held.note_usage(usage.to_body(self._worker))
        elif self._usages == MOST_USAGES + 1:
            query = self._held.query.id
            log.warning("token_usage: no more of this attempt is taken", query=query, most=MOST_USAGES)

    async def token_usage(self, usage: TokenUsage) -> None:
        """Do so, and wait for the disk, at most until the attempt is over."""
        self._note_usage(usage)
        await self._while_at_work(self._held.written)

    def token_usage_in_thread(self, usage: TokenUsage) -> None:
        """The same from any other thread; blocks it."""
        self._loop_thread.wait_for(partial(self.token_usage, usage))

    async def _while_at_work(self, function: Callable[[], Awaitable[T]]) -> T | None:
        """Await something; None once the attempt is over."""
        if self._is_over:
            return None
        with trio.CancelScope() as scope:
            self._asking[scope] = None
            try:
                return await function()
            finally:
                del self._asking[scope]
        return None
