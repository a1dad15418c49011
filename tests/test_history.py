"""What is remembered of attempts, for those who look: never more than so much, and no text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
import pytest

from trio_worker.history import KEPT, MINUTES, Attempt, History
from trio_worker.query import Done, Ending, Failed, Postponed, Query, Released, Revoked

CREATED = datetime(2025, 11, 11, 12, 0, tzinfo=UTC)
SECRET = "the text of a query, an answer or a reason"


def a_query(number: int = 7, *, waited: float | None = None, **fields: object) -> Query:
    started = None if waited is None else CREATED + timedelta(seconds=waited)
    known = {"query_text": SECRET, "query_created": CREATED, "query_started": started}
    return Query(id=number, **(known | fields))  # type: ignore[arg-type]


def pass_through(history: History, query: Query, ending: Ending, *, begin: float, end: float) -> Attempt:
    attempt = history.begin(query, 1, "push", begin)
    history.end(attempt, ending, end)
    return attempt


@pytest.mark.parametrize(
    ("ending", "outcome", "kind"),
    [
        (Done(SECRET), "done", ""),
        (Failed(SECRET, "timeout"), "failed", "timeout"),
        (Released(SECRET), "put back", ""),
        (Postponed(5, SECRET), "put aside", ""),
        (Revoked(SECRET), "taken away", ""),
    ],
)
def test_each_ending_has_a_word(ending: Ending, outcome: str, kind: str) -> None:
    """It is counted by it, and none of its texts is kept."""
    history = History(2, now=100)
    attempt = pass_through(history, a_query(), ending, begin=110, end=112.5)
    assert (attempt.outcome, attempt.kind, attempt.ended_at) == (outcome, kind, 112.5)
    assert list(history.ended) == [attempt]
    assert history.totals == {**dict.fromkeys(history.totals, 0), outcome: 1}
    assert SECRET not in str(attrs.asdict(attempt))


def test_places_are_taken_and_given_back() -> None:
    """Whoever begins takes the first that is free; a free one knows since when."""
    history = History(3, now=100)
    first, second = (history.begin(a_query(n), 1, "poll", 101) for n in (1, 2))
    assert history.places == [first, second, 100]
    history.end(first, Done(""), 103)
    assert history.places == [103, second, 100]
    third = history.begin(a_query(3), 2, "push", 104)
    assert history.places == [third, second, 100]
    assert (third.number, third.query, third.attempt, third.source) == (3, 3, 2, "push")


def test_more_than_there_are_places_for() -> None:
    """That would be a bug; it costs a wrong picture and no query."""
    history = History(1, now=0)
    attempts = [history.begin(a_query(n), 1, "push", 1) for n in range(3)]
    for attempt in attempts:
        history.end(attempt, Done(""), 2)
    assert history.places == [2]
    assert history.totals["done"] == 3


def test_so_many_are_remembered() -> None:
    """The last ones, the newest last."""
    history = History(1, now=0)
    for number in range(KEPT + 20):
        pass_through(history, a_query(number), Done(""), begin=number, end=number + 0.5)
    assert [attempt.query for attempt in history.ended] == list(range(20, KEPT + 20))


def test_the_minutes_of_the_last_hour() -> None:
    """Each has what ended in it, and what those that were begun in it had waited; older ones are gone."""
    history = History(1, now=0)
    pass_through(history, a_query(waited=0.25), Done(""), begin=30, end=50)
    pass_through(history, a_query(waited=1.25), Failed("", "error"), begin=55, end=65)
    pass_through(history, a_query(), Released(""), begin=70, end=75)
    first, second = history.last_hour(100)
    assert (first.number, first.done, first.failed, first.other) == (0, 1, 0, 0)
    assert (first.pick_ups.count, first.pick_ups.total, first.pick_ups.longest) == (2, 1.5, 1.25)
    assert (second.number, second.done, second.failed, second.other) == (1, 0, 1, 1)
    assert (second.runs.count, second.runs.total, second.runs.longest) == (1, 10, 10)
    assert [minute.number for minute in history.last_hour(60 * MINUTES - 1)] == [0, 1]
    assert [minute.number for minute in history.last_hour(60 * MINUTES)] == [1]
    assert list(history.last_hour(60 * MINUTES + 60)) == []


def test_a_year_takes_no_more_room_than_an_hour() -> None:
    """Minutes are dropped though nobody looks."""
    history = History(1, now=0)
    for minute in range(10 * MINUTES):
        pass_through(history, a_query(), Done(""), begin=60 * minute, end=60 * minute + 1)
    assert len(history._minutes) == MINUTES


@pytest.mark.parametrize(
    ("query", "attempt", "pick_up"),
    [
        (a_query(waited=0.5), 1, 0.5),
        (a_query(waited=-0.5), 1, 0.0),  # two clocks behind one WebBuddy
        (a_query(waited=0.5), 2, None),
        (a_query(waited=86_400, logs_count=3), 1, None),  # put back by somebody, and claimed again
        (a_query(waited=None), 1, None),  # a WebBuddy that does not say
        (a_query(waited=0.5, query_created=None), 1, None),
    ],
)
def test_the_time_to_pick_up(query: Query, attempt: int, pick_up: float | None) -> None:
    """Only of what was never at work before, and only where WebBuddy has told both times."""
    assert History(1, now=0).begin(query, attempt, "push", 1).pick_up == pick_up
