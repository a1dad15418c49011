"""How many calls may be under way at once: many, until they harm each other."""

from __future__ import annotations

import math
from collections import deque
from types import TracebackType

import trio

__all__ = ["Turns"]

MOST = 64
PATIENCE = 64
MOST_PATIENCE = 4096
STALL = 2.0
"""Seconds after which a call that is still under way no longer holds the others up."""


class Turns:
    """Holds calls back while they get into each other's way, and only then.

    ::

                  overlapped                    `patience` good calls
        most ───────────────────▶  1  ─────────────────────────────────▶  2, 4, 8, …, most
          │                        ▲                                          │      ▲
          │ overloaded             └──── overlapped: 4 times the patience ────┘      │
          └────────▶ half as many  ─────────────── `patience` good calls ────────────┘

    SQLite, WebBuddy's default database, answers writes that overlap a claim with 500 "database is
    locked", at once: of five parallel claimers' calls a third failed, of the same calls one after
    the other none, at the same throughput. PostgreSQL has no such trouble, and which of the two it
    is can't be seen from outside: so it is tried out. Retrying alone would not do: the
    retries of N consumers overlap as well.

    The patience grows with each probe that went wrong (at most to 4096 calls), which on SQLite
    makes the probes rare: a few failed calls in thousands. It starts afresh once ``most`` was
    reached.

    A WebBuddy, or a proxy before it, that has too much to do says so by 429, 502, 503 or 504: then half as
    many calls go at once, again and again until it has not. Of calls that were sent together, all may be
    answered like that: they count once.

    A call that hangs is not counted after 2 s, so that it does not hold up all the others until its own
    end; there are never more than ``most``.

    A task may hold one turn at a time (as with `trio.CapacityLimiter`; taking a second is a
    `RuntimeError`, not a deadlock). Waiters come in the order of their arrival, and one that is
    cancelled leaves nothing behind.

    Args:
        most: How many calls at once when nothing is wrong.
        patience: After how many good calls a probe is dared.
    """

    def __init__(self, *, most: int = MOST, patience: int = PATIENCE) -> None:
        self._most = most
        self._first_patience = patience
        self._patience = patience
        self._good = 0
        self._target = most
        self._was_raised = False  # by a probe
        # Not `trio.CapacityLimiter`: waiters have to look up every 2 s, and it would put them last each time.
        self._waiting: deque[tuple[trio.lowlevel.Task, trio.Event]] = deque()
        self._began: dict[trio.lowlevel.Task, float] = {}  # of those whose turn it is
        self._halved_at = -math.inf

    def __repr__(self) -> str:
        return f"<Turns: {self.under_way} of {self.at_once} under way, at most {self._most}>"

    @property
    def at_once(self) -> int:
        """How many calls may be under way at once, now."""
        return self._target

    @property
    def under_way(self) -> int:
        """How many calls are under way. May exceed `at_once` for a moment after it was lowered."""
        return len(self._began)

    @property
    def oldest(self) -> float:
        """When the call began that is under way for longest, on Trio's clock; infinite: there is none."""
        return min(self._began.values(), default=math.inf)

    async def __aenter__(self) -> None:
        """Wait for a turn. Cancelled while waiting, none was taken; where one is free, there is no wait."""
        task = trio.lowlevel.current_task()
        if task in self._began:
            raise RuntimeError("this task has a turn already")
        if self._waiting or len(self._began) >= self._most_now():
            await self._wait(task)
        else:  # without the scope and the checkpoint that waiting needs
            self._began[task] = trio.current_time()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the turn to whoever waited longest. Never waits, whatever was cancelled."""
        del self._began[trio.lowlevel.current_task()]
        self._let_pass()

    def went_well(self) -> None:
        """A call was answered properly: after enough of them, dare more at once."""
        if self.at_once == self._most:
            return
        self._good += 1
        if self._good >= self._patience:
            self._good = 0
            self._aim(min(self._most, self.at_once * 2), probes=True)
            if self.at_once == self._most:
                self._patience = self._first_patience

    def overlapped(self) -> None:
        """A call failed as overlapping calls do: from now on, one at a time.

        The losers of one overlap all come here, also after the first has lowered the number to
        one; they change nothing more. Neither does a failure while calls already go one at a time:
        it can't have been our own overlap (another process, or a mistake of the server), and to
        count it would hold back for ever the calls to a server on which one call always fails.
        """
        if self.at_once == 1:
            return
        if self._was_raised:
            self._patience = min(MOST_PATIENCE, self._patience * 4)
        self._good = 0
        self._aim(1)

    def overloaded(self) -> None:
        """The call of this task was refused for now: half as many at once."""
        if self._began.get(trio.lowlevel.current_task(), math.inf) <= self._halved_at:
            return  # it was under way already when the last one was
        self._halved_at = trio.current_time()
        self._good = 0
        self._aim(max(1, self.at_once // 2))

    async def _wait(self, task: trio.lowlevel.Task) -> None:
        place = (task, trio.Event())
        self._waiting.append(place)
        try:
            while not place[1].is_set():
                with trio.move_on_after(STALL):
                    await place[1].wait()
                self._let_pass()
        except BaseException:
            if place[1].is_set():  # the turn has come in the moment of the cancellation
                del self._began[task]
            else:
                self._waiting.remove(place)
            self._let_pass()
            raise

    def _aim(self, at_once: int, *, probes: bool = False) -> None:
        self._target = at_once
        self._was_raised = probes and at_once < self._most
        self._let_pass()

    def _let_pass(self) -> None:
        while self._waiting and len(self._began) < self._most_now():
            task, turn = self._waiting.popleft()
            self._began[task] = trio.current_time()
            turn.set()

    def _most_now(self) -> int:
        """Do not count calls that hang: while one call goes at a time, one would stop all others."""
        hanging = 0
        if self._began and self._target < self._most:
            late = trio.current_time() - STALL
            hanging = sum(began <= late for began in self._began.values())
        return min(self._most, self._target + hanging)
