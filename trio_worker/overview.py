"""What the status page shows: the worker at one moment, in what JSON has. Made only when somebody looks."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs
import trio

from trio_worker import clock
from trio_worker.errors import AccessDenied
from trio_worker.history import MINUTES, SECONDS, Attempt, History, Minute, Spread
from trio_worker.intake import Intake
from trio_worker.joint_overview import MOST_NAMED, MOST_PLACES, WEBBUDDY_ANSWERS, at_work, count_queries
from trio_worker.journal import Journal
from trio_worker.journal_file import Entry
from trio_worker.left_behind import LeftBehind
from trio_worker.lost_claims import LostClaims
from trio_worker.pause import PAUSED
from trio_worker.push_health import PushHealth
from trio_worker.settings import Settings
from trio_worker.stop import Stop

__all__ = ["Overview"]

CLOCK_SLACK = 0.5  # seconds by which the wall clock may move against Trio's before times shown follow it

Level = Literal["good", "fair", "bad"]
Reasons = Callable[[], Mapping[str, str]]


@attrs.define(kw_only=True, eq=False)
class Overview:
    """The parts of the service that are shown. Everything here is synchronous.

    Nothing here holds the text of a query, of an answer or of a reason that a handler gave.

    Attributes:
        settings: What the worker runs with.
        history: What its consumers do and have done.
        stop: Whether it was asked for.
        journal: What is held.
        intake: Whether claims get through.
        lost_claims: What was found of them.
        left_behind: How many handlers run on that were given up.
        push_health: Whether pushes come.
        unready: What keeps the worker from its job, by name: as ``/readyz`` has it.
        late: Which loops are late, by name: as ``/livez`` has it.
    """

    settings: Settings
    history: History
    stop: Stop
    journal: Journal
    intake: Intake
    lost_claims: LostClaims
    left_behind: LeftBehind
    push_health: PushHealth
    unready: Reasons
    late: Reasons
    _epoch: float = attrs.field(init=False)  # of Trio's clock
    _started_at: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._epoch = clock.now() - trio.current_time()
        self._started_at = clock.now()

    def snapshot(self) -> dict[str, Any]:
        """Give all of it. As long as nothing happens, the same again: times are moments, not durations."""
        self._follow_the_clock()
        places, shown = self.history.places, self.history.places[:MOST_PLACES]
        level, word, text = self._state()
        return {
            "process": f"{os.getpid()} {self._started_at:.3f}",
            "worker": self.settings.name,
            "handler": self.settings.handler,
            "webbuddy": self.settings.webbuddy_url,
            "started": round(self._started_at, 3),
            "consumers": {"here": len(places), "all": self.settings.num_workers, "busy": self._busy},
            "state": {"level": level, "word": word, "text": f"{text}."},
            "pushes": self._pushes(),
            "places": [self._place(place) for place in shown],
            "queries": [self._query(attempt) for attempt in reversed(self.history.ended)],
            "totals": dict(self.history.totals),
            "hour": self._hour(),
            "held": self._held(),
            "lost": {"claims": len(self.journal.lost), "found": self.lost_claims.found},
            "left_behind": self.left_behind.tasks + self.left_behind.threads,
        }

    def _follow_the_clock(self) -> None:
        epoch = clock.now() - trio.current_time()
        if abs(epoch - self._epoch) > CLOCK_SLACK:
            self._epoch = epoch

    def _wall(self, moment: float) -> float | None:
        return round(self._epoch + moment, 3) if math.isfinite(moment) else None

    # --- In one sentence --------------------------------------------------------------------------------

    def _state(self) -> tuple[Level, str, str]:
        """The worst that is to be said, the word for it, and the sentence."""
        late, unready = self.late(), self.unready()
        if late:
            return "bad", "Ill", f"{_listed(late)}; only a restart helps"
        if self.stop.asked.is_set():
            word = "Stopping" if self.stop.limited.is_set() else "Draining"
            return "fair", word, f"nothing new is taken, {count_queries(self._busy)} still at work"
        if list(unready.values()) == [PAUSED]:
            return "fair", "Paused", f"nothing new is taken, {count_queries(self._busy)} still at work"
        if unready:
            return "bad", "Takes nothing new", "; ".join(unready.values())
        level, webbuddy = self._webbuddy()
        word = "Working" if self._busy else "Waiting"
        return level, word, f"{at_work(self._busy, len(self.history.places))}; {webbuddy}"

    def _webbuddy(self) -> tuple[Level, str]:
        if isinstance(self.intake.outage, AccessDenied):
            return "bad", "WebBuddy refuses the log-in"
        trouble = self.intake.trouble
        return ("good", WEBBUDDY_ANSWERS) if trouble is None else ("fair", trouble)

    def _pushes(self) -> dict[str, Any]:
        health = self.push_health
        level: Level = "good"
        if health.is_broken:
            level = "fair"
            text = (
                f"have stopped coming: the last {health.missed} queries were found by polls alone,"
                " which come more often meanwhile"
            )
        elif health.last_at == -math.inf:
            text = (
                f"have not come yet: queries are found by polls, every {self.settings.polling_interval:g} s"
            )
        else:
            text = "come"
        return {"level": level, "text": text, "last": self._wall(health.last_at)}

    # --- Figures ----------------------------------------------------------------------------------------

    @property
    def _busy(self) -> int:
        return sum(isinstance(place, Attempt) for place in self.history.places)

    def _place(self, place: Attempt | float) -> list[Any]:
        if isinstance(place, Attempt):
            return [self._wall(place.began_at), place.query, place.attempt]
        return [self._wall(place)]

    def _query(self, attempt: Attempt) -> list[Any]:
        ended_at = attempt.began_at if attempt.ended_at is None else attempt.ended_at
        return [
            attempt.number,
            attempt.query,
            attempt.attempt,
            attempt.source,
            _seconds(attempt.pick_up),
            _seconds(ended_at - attempt.began_at),
            attempt.outcome,
            attempt.kind,
            self._wall(ended_at),
        ]

    def _hour(self) -> dict[str, Any]:
        now = trio.current_time()
        last = int(now // SECONDS)
        minutes = [_minute(minute, last) for minute in self.history.last_hour(now)]
        return {"minutes": MINUTES, "ended": self._wall((last + 1) * SECONDS), "of": minutes}

    def _held(self) -> dict[str, Any]:
        entries = self.journal.entries.values()
        states = Counter(map(_state_of, entries))
        dead = [entry.query.id for entry in entries if entry.dead is not None]
        return {**{state: states[state] for state in _STATES}, "dead_ids": sorted(dead)[:MOST_NAMED]}


_STATES = ("at work", "waiting", "put aside", "to be reported", "reported", "dead")


def _state_of(entry: Entry) -> str:
    if entry.dead is not None:
        return "dead"
    if entry.reported:
        return "reported"
    if entry.outcome is not None:
        return "to be reported"
    if entry.due is not None:
        return "put aside"
    return "at work" if entry.running else "waiting"


def _minute(minute: Minute, last: int) -> list[Any]:
    """How many minutes ago, what ended how, and the durations: how many, the mean, the longest."""
    counts = [minute.done, minute.failed, minute.other]
    return [last - minute.number, *counts, *_spread(minute.runs), *_spread(minute.pick_ups)]


def _spread(spread: Spread) -> list[Any]:
    mean = spread.total / spread.count if spread.count else 0.0
    return [spread.count, _seconds(mean), _seconds(spread.longest)]


def _seconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def _listed(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
