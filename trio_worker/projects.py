"""Settings of projects: asked for when a handler wants them, and remembered for a minute."""

from __future__ import annotations

import attrs
import structlog
import trio

from trio_worker.errors import Refused
from trio_worker.masks import masks
from trio_worker.project import Project
from trio_worker.query import Query
from trio_worker.webbuddy import WebBuddyClient

__all__ = ["Projects"]

log = structlog.get_logger(__name__)

GOOD_FOR = 60.0  # seconds
MOST_KNOWN = 1000  # projects that are remembered


@attrs.frozen
class _Known:
    project: Project | None
    until: float


@attrs.define(eq=False)
class Projects:
    """The projects that were asked for.

    Attributes:
        webbuddy: The door to WebBuddy.
    """

    webbuddy: WebBuddyClient
    _known: dict[int, _Known] = attrs.field(factory=dict, init=False)
    _asking: dict[int, trio.Lock] = attrs.field(factory=dict, init=False)

    async def of(self, query: Query) -> Project | None:
        """Give the project of a query.

        Of several that ask at once for the same project one asks WebBuddy, and the others wait for it.

        Returns:
            It; None where WebBuddy has no such call, or does not show it to the worker's account.

        Raises:
            WebBuddyError: WebBuddy can't be reached, or refuses the log-in.
        """
        number = query.project
        if number is None:
            return None
        lock = self._asking.setdefault(number, trio.Lock())
        try:
            async with lock:
                known = self._known.get(number)
                if known is None or known.until <= trio.current_time():
                    known = self._remember(number, await self._ask(number))
                return known.project
        finally:
            if not lock.statistics().tasks_waiting:
                self._asking.pop(number, None)

    async def _ask(self, number: int) -> Project | None:
        try:
            return await self.webbuddy.project(number)
        except Refused as error:
            log.debug("this WebBuddy does not show the project", project=number, reason=str(error))
            return None

    def _remember(self, number: int, project: Project | None) -> _Known:
        now = trio.current_time()
        if len(self._known) >= MOST_KNOWN:
            self._known = {key: known for key, known in self._known.items() if known.until > now}
        if project is not None:
            masks.know_passing(*project.secrets)
        known = self._known[number] = _Known(project, now + GOOD_FOR)
        return known
