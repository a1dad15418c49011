"""Whether pushes come, judged by what polls find."""

from __future__ import annotations

import math

import structlog
import trio

from trio_worker.query import Query

__all__ = ["MANY", "PushHealth"]

log = structlog.get_logger(__name__)

MANY = 3
"""Queries in a row that no push had named. One may have overtaken its push, and a restart loses some."""

OFTENER = 10.0
"""How many times as often is polled at most while pushes do not come."""

LEAST = 1.0  # seconds between two polls, unless more were asked for

SLACK = 5.0  # seconds beyond an interval within which a poll finds a new query


class PushHealth:
    """Says so when pushes stop coming, and lets the poll stand in for them.

    Pushes are fire-and-forget: WebBuddy does not tell that they fail, and a worker that only polls looks well
    but is up to half a minute late. What shows it is that polls find new queries that no push had named.

    ::

        a push ───────────────────────────────▶ alive ◀──────────────── a push
                                                  │                        │
        no push yet                               │ `MANY` new queries     │
           │  `MANY` new queries                  │ that none had named    │
           ▼                                      ▼                        │
        "polling only", once                   broken: a warning, shorter intervals

    A query does not count that was created before the start, or so long ago that an earlier poll should have
    found it: it was put back, or waited for a consumer.

    Attributes:
        is_broken: Whether pushes have stopped coming.
        last_at: `trio.current_time` of the last push; -inf: none has ever come.
        missed: How many queries in a row no push had named.
    """

    def __init__(self) -> None:
        self.is_broken = False
        self.last_at = -math.inf
        self.missed = 0
        self._usual = self._interval = math.inf
        self._started_at = math.inf
        self._missed_since = math.inf
        self._found = False  # since the last tick
        self._has_told = False

    def begin(self, interval: float) -> None:
        """The worker starts.

        Args:
            interval: Seconds between two polls while all is well.
        """
        self._usual = self._interval = interval
        self._started_at = trio.current_time()

    def heard(self) -> None:
        """A push has come."""
        self.last_at = trio.current_time()
        self._forget_missed()
        if self.is_broken:
            self.is_broken = False
            self._interval = self._usual
            log.info("pushes come again")

    def found(self, query: Query, *, named: bool, server_now: float) -> None:
        """A claim has brought a query.

        Args:
            query: It.
            named: Whether a push had named it.
            server_now: WebBuddy's clock, in seconds since the epoch.
        """
        if named:
            self._forget_missed()
            return
        if not self._is_new(query, server_now):
            return
        now = trio.current_time()
        self._found = True
        self.missed += 1
        self._missed_since = min(self._missed_since, now)
        # Not those of one moment alone, in which WebBuddy may have had trouble.
        if self.missed >= MANY and now - self._missed_since >= self._interval / 2:
            self._judge()

    def next_interval(self) -> float:
        """Say after how many seconds to poll again; to be called at each poll.

        While pushes are broken, half as long as the last time where that one has found something, else twice.
        """
        if self.is_broken:
            least = max(self._usual / OFTENER, min(LEAST, self._usual))
            wanted = self._interval / 2 if self._found else self._interval * 2
            self._interval = min(self._usual, max(least, wanted))
        self._found = False
        return self._interval

    def _forget_missed(self) -> None:
        self.missed = 0
        self._missed_since = math.inf

    def _is_new(self, query: Query, server_now: float) -> bool:
        if query.query_created is None:
            return False
        age = server_now - query.query_created.timestamp()
        return age < min(trio.current_time() - self._started_at, 1.1 * self._interval + SLACK)

    def _judge(self) -> None:
        if self.last_at == -math.inf:
            if not self._has_told:
                self._has_told = True
                log.info("polling only: no push has come yet (WebBuddy sends them to its FASTAPI_URL)")
        elif not self.is_broken:
            self.is_broken = True
            log.warning(
                "pushes have stopped coming: polls find queries that none has named. Look at FASTAPI_URL in"
                " WebBuddy's settings, at firewalls and proxies between it and here, and at WORKER_BIND;"
                " meanwhile polls come more often",
                in_a_row=self.missed,
                last_push_seconds_ago=round(trio.current_time() - self.last_at),
            )
