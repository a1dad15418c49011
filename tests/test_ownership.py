"""Is it still ours? As WebBuddy shows it, compared with what was claimed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
import pytest

from trio_worker.ownership import Standing, standing
from trio_worker.query import Done, Failed, Outcome, Query, Released

THEN = datetime(2026, 11, 24, 12, tzinfo=UTC)
LATER = THEN + timedelta(minutes=1)
CLAIMED = Query(id=1, status="in_progress", query_created=THEN, query_started=THEN)


@pytest.mark.parametrize(
    ("changes", "outcome", "expected"),
    [
        ({}, None, Standing.OURS),
        ({}, Done("a"), Standing.OURS),
        ({"query_started": LATER}, None, Standing.TAKEN),
        ({"status": "queued"}, None, Standing.TAKEN),
        ({"status": "done", "answer_text": "another's"}, None, Standing.TAKEN),
        ({"query_created": LATER}, None, Standing.OTHER_DATABASE),
        ({"query_created": LATER, "query_started": LATER}, Done("a"), Standing.OTHER_DATABASE),
        # One version of WebBuddy leaves a time out, in one answer or in all.
        ({"query_started": None}, None, Standing.OURS),
        ({"query_created": None}, None, Standing.OURS),
        ({"query_started": None, "status": "queued"}, None, Standing.TAKEN),
        # Our own answer, stripped as WebBuddy does.
        ({"status": "done", "answer_text": "a"}, Done(" a\n"), Standing.DELIVERED),
        ({"status": "done", "answer_text": "b"}, Done("a"), Standing.TAKEN),
        ({"status": "failed", "answer_text": "why"}, Failed("why", "error"), Standing.DELIVERED),
        ({"status": "done", "answer_text": "why"}, Failed("why", "error"), Standing.TAKEN),
        ({"status": "queued"}, Released("stop"), Standing.TAKEN),
    ],
)
def test_standing(changes: dict[str, object], outcome: Outcome | None, expected: Standing) -> None:
    """Each way in which a query may stand."""
    assert standing(CLAIMED, outcome, attrs.evolve(CLAIMED, **changes)) is expected


@pytest.mark.parametrize("missing", ["query_created", "query_started"])
def test_a_time_that_the_claim_did_not_have(missing: str) -> None:
    """The claim's answer lacks it, the read shows it: that is no difference."""
    assert standing(attrs.evolve(CLAIMED, **{missing: None}), None, CLAIMED) is Standing.OURS


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"status": "failed", "answer_text": "WebBuddy did not accept the answer"}, Standing.DELIVERED),
        ({"status": "queued"}, Standing.TAKEN),
        ({"status": "done", "answer_text": "another's", "query_started": LATER}, Standing.TAKEN),
    ],
)
def test_what_was_said_instead_of_a_refused_answer(changes: dict[str, object], expected: Standing) -> None:
    """The rest of the log still goes there, after a restart too, unless the query was put back meanwhile."""
    now = attrs.evolve(CLAIMED, **changes)
    assert standing(CLAIMED, Done("refused"), now, reported=True) is expected


def test_a_result_that_somebody_has_changed() -> None:
    """Ours was a failure, and was taken; now it is done, by a person: our log has no business there."""
    now = attrs.evolve(CLAIMED, status="done", answer_text="by a person")
    assert standing(CLAIMED, Failed("no such page", "said_so"), now, reported=True) is Standing.TAKEN
