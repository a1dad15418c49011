"""Several processes on one status page: what is added up, what is the worst, and what is told apart."""

from __future__ import annotations

from typing import Any

from trio_worker.history import KEPT
from trio_worker.joint_overview import MOST_PLACES, join


def overview(pid: int, **changed: Any) -> dict[str, Any]:
    """What a process shows that has done one query, and has one dead letter."""
    return {
        "process": f"{pid} 1000.000",
        "worker": "w",
        "handler": "app:handle",
        "webbuddy": "http://webbuddy.test",
        "started": 1000.0 + pid,
        "consumers": {"here": 2, "all": 4, "busy": 1},
        "state": {"level": "good", "word": "Working", "text": "All is well."},
        "pushes": {"level": "good", "text": "come", "last": 1500.0 + pid},
        "places": [[1100.0, 7, 1], [1200.0]],
        "queries": [[1, pid, 1, "push", 0.1, 2.0, "done", "", 1300.0 + pid]],
        "totals": {"done": 1, "failed": 2},
        "hour": {"minutes": 60, "ended": 1560.0, "of": [[3, 1, 2, 0, 3, 2.0, 4.0, 1, 0.1, 0.1]]},
        "held": {"at work": 1, "dead": 1, "dead_ids": [pid]},
        "lost": {"claims": 1, "found": 2},
        "left_behind": 1,
        **changed,
    }


def state(level: str, word: str, text: str) -> dict[str, str]:
    return {"level": level, "word": word, "text": text}


def test_one_alone_is_as_it_was() -> None:
    alone = overview(1)
    assert join({3: alone}) is alone


def test_what_is_added_up() -> None:
    together = join({1: overview(1), 0: overview(5)})
    assert together["consumers"] == {"here": 4, "all": 4, "busy": 2}
    assert together["totals"] == {"done": 2, "failed": 4}
    assert together["held"] == {"at work": 2, "dead": 2, "dead_ids": [1, 5]}
    assert together["lost"] == {"claims": 2, "found": 4}
    assert together["left_behind"] == 2
    assert together["started"] == 1001.0
    assert together["processes"] == [0, 1]
    assert together["process"] == "0: 5 1000.000 1: 1 1000.000"


def test_places_and_queries_have_the_number_of_their_process() -> None:
    together = join({1: overview(1), 0: overview(5)})
    mine, theirs = ([1100.0, 7, 1, number] for number in (0, 1))
    assert together["places"] == [mine, [1200.0, None, None, 0], theirs, [1200.0, None, None, 1]]
    assert [(row[0], row[1], row[-1]) for row in together["queries"]] == [("0-1", 5, 0), ("1-1", 1, 1)]


def test_there_are_no_more_than_of_one() -> None:
    many = [[number, number, 1, "poll", None, 1.0, "done", "", 2000.0 - number] for number in range(KEPT)]
    crowd = overview(1, queries=many, places=[[0.0]] * MOST_PLACES)
    together = join({0: crowd, 1: crowd})
    assert len(together["places"]) == MOST_PLACES
    assert [row[0] for row in together["queries"][:4]] == ["0-0", "1-0", "0-1", "1-1"]
    assert len(together["queries"]) == KEPT


def test_the_worst_state_is_said() -> None:
    """Once where all say the same; otherwise with the number of each of whom it is true."""
    ill, paused = state("bad", "Ill", "it hangs."), state("fair", "Paused", "nothing new is taken.")
    assert join({0: overview(1, state=paused), 1: overview(2, state=paused)})["state"] == state(
        "fair", "Paused", "each process: nothing new is taken."
    )
    assert join({0: overview(1), 1: overview(2, state=ill)})["state"] == state(
        "bad", "Ill", "process 1: it hangs."
    )


def test_where_all_is_well_the_consumers_are_counted() -> None:
    idle = overview(2, consumers={"here": 2, "all": 4, "busy": 0})
    assert join({0: overview(1), 1: idle})["state"] == state(
        "good", "Working", "1 query is at work, 3 consumers are free; WebBuddy answers."
    )
    assert join({0: idle, 1: idle})["state"] == state(
        "good", "Waiting", "all 4 consumers are free; WebBuddy answers."
    )


def test_one_that_does_not_answer_is_said() -> None:
    together = join({0: overview(1)}, silent={2})
    assert together["state"] == state("fair", "Working", "All is well. process 2 does not answer.")
    assert together["totals"] == overview(1)["totals"]


def test_one_that_has_not_begun_has_its_state_alone() -> None:
    starting = {"state": state("fair", "Starting", "service: it has not started yet")}
    together = join({0: overview(1), 1: starting})
    assert together["state"] == state("fair", "Starting", "process 1: service: it has not started yet.")
    assert together["processes"] == [0]
    assert join({0: starting, 1: starting})["state"]["word"] == "Starting"


def test_pushes_come_to_one_process() -> None:
    broken = {"level": "fair", "text": "have stopped coming", "last": 1900.0}
    never = {"level": "good", "text": "have not come yet", "last": None}
    come = {"level": "good", "text": "come", "last": 1800.0}
    together = join(
        {0: overview(1, pushes=broken), 1: overview(2, pushes=never), 2: overview(3, pushes=come)}
    )
    assert together["pushes"] == {"level": "good", "text": "come", "last": 1900.0}
    assert join({0: overview(1, pushes=never), 1: overview(2, pushes=never)})["pushes"] == never


def test_minutes_are_those_of_the_wall() -> None:
    """What is 3 minutes ago for a process a minute behind is 4 minutes ago; durations are weighed."""
    behind = {
        "minutes": 60,
        "ended": 1510.0,
        "of": [[59, 9, 0, 0] + [0] * 6, [2, 1, 0, 1, 1, 6.0, 6.0, 0, 0.0, 0.0]],
    }
    together = join({0: overview(1), 1: overview(2, hour=behind)})
    assert together["hour"] == {
        "minutes": 60,
        "ended": 1560.0,
        "of": [[3, 2, 2, 1, 4, 3.0, 6.0, 1, 0.1, 0.1]],
    }
