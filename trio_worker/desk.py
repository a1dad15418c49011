"""What stands behind a handler's context in this process: the query's log, its journal entry, WebBuddy."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import trio

from trio_worker.deadline import Deadline
from trio_worker.loop_thread import LoopThread
from trio_worker.project import Project
from trio_worker.query import Query
from trio_worker.query_log import QueryLog

__all__ = ["HeldDesk"]


class _Held(Protocol):
    """A query at work: `trio_worker.held.Held`, or one that a test has made up."""

    @property
    def query(self) -> Query: ...

    log: QueryLog

    def save(self, data: str) -> None: ...


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
    """

    def __init__(self, held: _Held, deadline: Deadline, projects: _Projects) -> None:
        self._held = held
        self._deadline = deadline
        self._projects = projects
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
        if self._is_over:
            return None
        with trio.CancelScope() as scope:
            self._asking[scope] = None
            try:
                return await self._projects.of(self._held.query)
            finally:
                del self._asking[scope]
        return None

    def project_in_thread(self) -> Project | None:
        """The same from any other thread; blocks it."""
        return self._loop_thread.wait_for(self.project)
