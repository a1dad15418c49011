"""What the benchmarks note of a real WebBuddy's calls, and what they read out of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import noted_calls, postgres
from benchmarks.gentle import on_postgres, on_sqlite
from benchmarks.noted_calls import Call, NotedCalls, most_at_once, read_calls


def calls(*kinds_and_statuses: tuple[str, int]) -> list[Call]:
    return [
        Call(kind, status, float(number), number + 1.0)
        for number, (kind, status) in enumerate(kinds_and_statuses)
    ]


def test_each_call_is_noted_with_its_kind_and_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By two processes into one file; a line that is not yet complete is left for the next look."""
    file = tmp_path / "calls"
    monkeypatch.setenv(noted_calls.FILE, str(file))
    statuses = iter([200, 201, 500, 404])
    one, other = (NotedCalls(lambda request: SimpleNamespace(status_code=next(statuses))) for _ in range(2))
    one(SimpleNamespace(method="POST", path="/api/queries/claim_next/"))
    other(SimpleNamespace(method="POST", path="/api/logs/"))
    one(SimpleNamespace(method="PATCH", path="/api/queries/17/"))
    other(SimpleNamespace(method="GET", path="/api/queries/17/"))
    with file.open("a") as notes:
        notes.write("claim 20")
    noted = read_calls(file)
    assert [(call.kind, call.status) for call in noted] == [
        ("claim", 200),
        ("log", 201),
        ("report", 500),
        ("other", 404),
    ]
    assert all(call.began <= call.ended for call in noted)


def test_the_most_calls_at_once_are_those_that_overlap() -> None:
    """One that begins when another ends does not."""
    times = [(0, 4), (1, 2), (2, 3), (2, 5), (4, 6)]
    assert most_at_once(Call("claim", 200, began, ended) for began, ended in times) == 3
    assert most_at_once([]) == 0


def test_on_sqlite_claims_that_end_in_500_are_counted_against_all_claims() -> None:
    """An empty queue's 404 is a claim that did no harm; what fails beside the claims is shown, too."""
    made = calls(*[("claim", 200)] * 48, ("claim", 404), ("claim", 500), ("report", 200), ("log", 500))
    by_claims, by_all = on_sqlite(5, made)
    assert (by_claims.measured, by_claims.reached) == ("2.0 %", False)
    assert by_claims.what.endswith("of 50 claims end in 500")
    assert by_all.measured == "3.8 %"
    assert on_sqlite(5, calls(*[("claim", 200)] * 50, ("claim", 500), ("report", 200)))[0].reached


def test_on_postgres_one_refused_call_of_any_kind_is_too_many() -> None:
    """It would halve the calls under way. So would fewer calls at once than there are consumers."""
    figures = on_postgres(2, calls(("claim", 200), ("log", 429), ("report", 200)))
    assert [figure.measured for figure in figures] == ["0", "1", "1"]
    assert [figure.reached for figure in figures] == [True, False, False]


def test_without_postgres_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not on the path, and not where Debian has it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres, "INSTALLED", str(tmp_path))
    assert postgres.missing() == "PostgreSQL is not installed"
