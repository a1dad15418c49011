"""What the simulation calls wrong, and what it lets pass."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from trio_worker.phrases import ENGLISH
from trio_worker.testing.invariants import problems_of
from trio_worker.testing.simulated_evidence import Act, Evidence, Life
from trio_worker.testing.simulated_handler import Ledger, Plan, Start
from trio_worker.testing.state import Change, LogEntry, StoredQuery

LIVES = {1: Life(interval=60), 2: Life(account="worker2", interval=60)}
BLIND = LIVES[1].blind
ENTRIES = ["Claimed by worker (poll)", "<1.1>", "<1.2>", "Done after 1.0 s"]
LATER_ENTRIES = ["Claimed by worker (poll)", "<2.1>", "<2.2>", "Done after 1.0 s"]


class Case:
    """A query, and what is known of it; time by time, and by whom."""

    def __init__(self) -> None:
        self.query = StoredQuery(id=1, project=1, user=2, query_text="a", created=0)
        self.ledger = Ledger()
        self.ledger.add(Plan("a", lines=2))
        self.evidence = Evidence()
        self.change(0, "queued", "member")

    def change(self, at: float, status: str, by: str, answer: str = "") -> None:
        """Give it a status."""
        life = {"worker": 1, "worker2": 2}.get(by)
        if life is not None:
            self.evidence.acts[len(self.query.history)] = Act(life, f"{life}/{at:g}", answer)
        self.query.history.append(Change(status, by, at))
        self.query.status, self.query.answer_text = status, answer

    def run(self, at: float, by: str = "worker") -> None:
        """Have it claimed and run."""
        self.change(at, "in_progress", by)
        number = len(self.ledger.starts["a"]) + 1
        life = 1 if by == "worker" else 2
        self.look(at, life)
        lines = [(at, f"<{number}.1>"), (at, f"<{number}.2>")]
        said = ("done", f"answer of run {number}")
        self.ledger.starts["a"].append(Start(life, number, at, said, running=False, lines=lines))

    def look(self, at: float, life: int = 1) -> None:
        """Show it to a process."""
        self.evidence.looks.append((at, life))

    def log(self, at: float, entries: Sequence[str], life: int = 1) -> None:
        """Add log entries."""
        for entry in entries:
            number = len(self.query.entries) + 1
            self.query.entries.append(LogEntry(number, 1, 1, entry, at))
            self.evidence.authors[number] = f"{life}/{number}"

    def problems(self) -> str:
        """Say what is wrong."""
        return "; ".join(problems_of(self.query, self.ledger, self.evidence, LIVES))


@pytest.fixture
def case() -> Case:
    """One that was claimed at 10, and run."""
    case = Case()
    case.run(10)
    return case


def test_nothing_is_wrong(case: Case) -> None:
    """Claimed, logged, done."""
    case.log(11, ENTRIES)
    case.change(12, "done", "worker", "answer of run 1")
    assert case.problems() == ""


@pytest.mark.parametrize(("late", "is_wrong"), [(BLIND - 1, False), (BLIND + 1, True)])
def test_a_result_over_somebody_else_s(case: Case, late: float, is_wrong: bool) -> None:
    """It can't be helped as long as the process may go by its last look; no longer."""
    case.log(11, ENTRIES)
    case.change(100, "done", "member", "by a person")
    case.look(99)
    case.change(100 + late, "done", "worker", "answer of run 1")
    assert ("after it was no longer ours" in case.problems()) is is_wrong


def test_one_that_is_excused_excuses_no_other(case: Case) -> None:
    """Each change is judged by itself."""
    case.change(100, "done", "member", "by a person")
    case.look(99)
    case.change(101, "done", "worker", "answer of run 1")
    case.look(999)
    case.change(1000, "done", "worker", "answer of run 1")
    assert "we made it done 900 s after it was no longer ours" in case.problems()


def test_without_a_look(case: Case) -> None:
    """Nobody else has touched it; but the process could not know that."""
    case.log(11, ENTRIES)
    case.change(1000, "done", "worker", "answer of run 1")
    assert case.problems() == "wrong: we made it done without a look, the last was 990 s before"
    case.evidence.failed_looks += [(900.0 + number, 1) for number in range(8)]  # it could not be asked
    assert case.problems() == ""


def test_without_a_look_before_the_second_try(case: Case) -> None:
    """The first may have got through, and somebody else may have gone on from there."""
    case.log(11, ENTRIES)
    case.evidence.lost_changes.append((12, "done", Act(1, "1/11", "answer of run 1")))
    case.change(13, "done", "worker", "answer of run 1")
    assert "without a look since a try" in case.problems()
    case.look(12.5)
    assert case.problems() == ""


def run_again(case: Case, by: str = "worker") -> None:
    """Have it requeued by a person, claimed at 1000 and run again, with all its log."""
    case.evidence.requeued = True
    case.change(900, "queued", "member")
    case.run(1000, by)
    case.log(1001, LATER_ENTRIES, 1 if by == "worker" else 2)


def test_the_run_of_the_last_claim_decides(case: Case) -> None:
    """With its answer and all its lines."""
    run_again(case)
    case.change(1002, "done", "worker", "answer of run 2")
    assert case.problems() == ""
    del case.query.entries[2]
    assert "its log lacks ['<2.2>'] of the run that decided" in case.problems()


def test_an_older_answer_over_a_newer_claim(case: Case) -> None:
    """By a process that should have looked long ago."""
    run_again(case, "worker2")
    case.change(1002, "done", "worker2", "answer of run 2")
    case.look(899)
    case.change(1003, "done", "worker", "answer of run 1")
    assert case.problems() == ""
    case.change(1300, "done", "worker", "answer of run 1")
    assert "we made it done 400 s after it was no longer ours" in case.problems()


def test_an_older_answer_over_the_newer_one_of_the_same_process(case: Case) -> None:
    """There is no excuse: it knows of its own claims without a look."""
    run_again(case)
    case.change(1002, "done", "worker", "answer of run 2")
    case.change(1003, "done", "worker", "answer of run 1")
    assert "after a later claim of ours had ended it" in case.problems()


def test_an_older_run_of_the_same_claim(case: Case) -> None:
    """After a crash it is the rerun that counts."""
    case.evidence.deaths.append(10)
    case.ledger.starts["a"].append(Start(1, 2, 10, ("done", "answer of run 2"), running=False))
    case.log(11, [*ENTRIES, "<2.1>", "<2.2>", "Done after 1.0 s"])
    case.change(12, "done", "worker", "answer of run 1")
    assert "wrong: it is done with 'answer of run 1'" in case.problems()


@pytest.mark.parametrize(("late", "is_wrong"), [(BLIND - 1, False), (BLIND + 1, True)])
def test_a_failure_after_a_crash_is_that_of_the_claim_that_died(
    case: Case, late: float, is_wrong: bool
) -> None:
    """Not of the latest, of which nobody had heard: put back by a person, and handed out in a lost answer."""
    case.evidence.deaths.append(10)
    case.change(100, "queued", "member")
    case.change(101, "in_progress", "worker")
    case.look(99)
    case.change(100 + late, "failed", "worker", ENGLISH.crashed_once)
    assert ("wrong: " in case.problems()) is is_wrong


def test_a_line_too_often(case: Case) -> None:
    """Once more only where the answer to the first was lost."""
    case.log(11, [*ENTRIES[:2], *ENTRIES[1:]])
    case.change(12, "done", "worker", "answer of run 1")
    assert case.problems() == "its log has '<1.1>' 2 times, and no answer was lost"
    case.evidence.lost_entries.add("1/2")
    assert case.problems() == ""


def test_lines_out_of_order(case: Case) -> None:
    """Within a run, whatever else there was."""
    run_again(case)
    case.log(1001, ["<1.2>", "<1.1>"])
    case.change(1002, "done", "worker", "answer of run 2")
    assert "its log is out of order" in case.problems()


def test_a_line_long_after(case: Case) -> None:
    """What a handler logs is left to the watch; a look of it that fails leaves it to the next."""
    case.change(100, "done", "member", "by a person")
    case.log(400, ["<1.1>"])
    assert "we logged '<1.1>' 300 s after" in case.problems()
    LIVES[1].failed_looks[:] = [150.0]
    try:
        assert case.problems() == ""
    finally:
        LIVES[1].failed_looks.clear()


def test_put_back_by_a_neighbour(case: Case) -> None:
    """Only what was silent may be taken for lost."""
    case.look(999, 2)
    case.change(1000, "queued", "worker2")
    assert case.problems() == "stuck: it is queued"
    case.log(20, ["Claimed by worker (poll)"])
    assert "and it was not silent" in case.problems()
