"""What a handler gets: every field of the claim's answer, typed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import attrs
import pytest

from trio_worker import Query

MOSCOW = timezone(timedelta(hours=3))

ANSWER: dict[str, Any] = {
    "id": 123,
    "project": 1,
    "project_name": "Portal",
    "user": 2,
    "user_name": "member",
    "query_text": "Протестировать авторизацию",
    "answer_text": "",
    "status": "in_progress",
    "query_created": "2026-11-23T18:51:34.692859+03:00",
    "query_started": "2026-11-23T15:57:01.967805Z",
    "query_finished": None,
    "logs_count": 0,
}


def test_every_field_is_read_and_typed() -> None:
    """Ids are ints, times aware datetimes, texts texts."""
    assert Query.from_json(ANSWER) == Query(
        id=123,
        project=1,
        project_name="Portal",
        user=2,
        user_name="member",
        query_text="Протестировать авторизацию",
        answer_text="",
        status="in_progress",
        query_created=datetime(2026, 11, 23, 18, 51, 34, 692859, MOSCOW),
        query_started=datetime(2026, 11, 23, 15, 57, 1, 967805, UTC),
        query_finished=None,
        logs_count=0,
        extra={},
    )


@pytest.mark.parametrize("field", [field.name for field in attrs.fields(Query) if field.name != "extra"])
def test_each_field_is_one_of_the_answers(field: str) -> None:
    """No field is forgotten on the way, and none is made up."""
    assert field in ANSWER
    if ANSWER[field] is not None:
        assert getattr(Query.from_json(ANSWER), field) is not None


@pytest.mark.parametrize("field", sorted(set(ANSWER) - {"id", "query_text"}))
@pytest.mark.parametrize("how", ["missing", "null"])
def test_what_is_missing_is_none(field: str, how: str) -> None:
    """Only the id is certain; `query_started` for one is missing in one version of WebBuddy."""
    answer = {key: value for key, value in ANSWER.items() if key != field or how == "null"}
    if how == "null":
        answer[field] = None
    query = Query.from_json(answer)
    assert getattr(query, field) is None
    assert query.extra == {}


def test_a_missing_text_is_empty() -> None:
    """So that a handler may always treat it as a text."""
    assert Query.from_json({"id": 1}) == Query(id=1, query_text="")
    assert Query.from_json({"id": 1, "query_text": None}).query_text == ""


def test_unknown_keys_are_kept() -> None:
    """What a newer WebBuddy sends is there for the handler that knows it."""
    query = Query.from_json({**ANSWER, "priority": 5, "tags": ["a"], "parent": None})
    assert query.extra == {"priority": 5, "tags": ["a"], "parent": None}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("project", {"id": 1, "name": "Portal"}),
        ("project", "1"),
        ("user", True),
        ("user", 1.5),
        ("query_text", 5),
        ("query_created", "yesterday"),
        ("query_created", 1_795_000_000),
        ("logs_count", []),
    ],
)
def test_another_shape_does_not_lose_the_query(field: str, value: object) -> None:
    """A query that is claimed and can't be read would be nobody's: the odd value goes into `extra`."""
    query = Query.from_json({**ANSWER, field: value})
    assert getattr(query, field) == ("" if field == "query_text" else None)
    assert query.extra == {field: value}


def test_a_time_without_a_zone_is_taken_for_utc() -> None:
    """A naive time would make every comparison with an aware one raise."""
    query = Query.from_json({"id": 1, "query_created": "2026-11-23T15:57:01"})
    assert query.query_created == datetime(2026, 11, 23, 15, 57, 1, tzinfo=UTC)


@pytest.mark.parametrize("data", [None, [], "x", 5, {}, {"id": None}, {"id": "1"}, {"id": True}, {"id": 1.0}])
def test_what_is_no_query_is_refused(data: object) -> None:
    """An object with an integer id, or nothing."""
    with pytest.raises(ValueError, match="integer id"):
        Query.from_json(data)


def test_a_query_can_not_be_changed_and_can_be_a_key() -> None:
    """Handlers share it with their own tasks."""
    query = Query.from_json({**ANSWER, "tags": ["a"]})
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        query.query_text = "other"  # type: ignore[misc]
    assert {query: 1}[query] == 1
