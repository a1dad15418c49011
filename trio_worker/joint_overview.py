"""What the status page shows of several processes behind one address: their overviews, made one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from trio_worker.history import KEPT, SECONDS

__all__ = ["MOST_NAMED", "MOST_PLACES", "WEBBUDDY_ANSWERS", "at_work", "count_queries", "join"]

MOST_PLACES = 200
"""Consumers that are shown one by one; of more only how many are busy."""

MOST_NAMED = 20
"""Dead letters whose ids are shown."""

WEBBUDDY_ANSWERS = "WebBuddy answers"
"""What else is said when all is well."""

LEVELS = ("good", "fair", "bad")

Snapshot = Mapping[str, Any]


def at_work(busy: int, consumers: int) -> str:
    """Say how many of so many consumers are busy."""
    if not busy:
        return f"all {_consumers(consumers)} free"
    return f"{count_queries(busy)} at work, {_consumers(consumers - busy)} free"


def count_queries(count: int) -> str:
    """Begin a sentence about so many queries."""
    return "1 query is" if count == 1 else f"{count or 'no'} queries are"


def _consumers(count: int) -> str:
    return "1 consumer is" if count == 1 else f"{count or 'no'} consumers are"


def join(snapshots: Mapping[int, dict[str, Any]], silent: Collection[int] = ()) -> dict[str, Any]:
    """Make one overview of those of all processes.

    Args:
        snapshots: By the number of each, what `Overview.snapshot` has given; before its service has begun a
            process has its state alone. At least one.
        silent: The numbers of those that live and do not answer.

    Returns:
        The same of all. That of a single process is not changed. Of several it has ``processes``, their
        numbers, each place and each query ends in that of its process, and no two queries have one key.
    """
    if len(snapshots) == 1 and not silent:
        return next(iter(snapshots.values()))
    begun = {number: snapshot for number, snapshot in sorted(snapshots.items()) if "places" in snapshot}
    of = list(begun.values())
    consumers = _sums(snapshot["consumers"] for snapshot in of)
    states = {number: snapshot["state"] for number, snapshot in sorted(snapshots.items())}
    trouble = _trouble(states, silent)
    if not of:
        return {"state": trouble or next(iter(states.values()))}
    state = trouble or _all_well(consumers)
    first = of[0]
    return {
        "process": " ".join(f"{number}: {snapshot['process']}" for number, snapshot in begun.items()),
        "processes": list(begun),
        **{key: first[key] for key in ("worker", "handler", "webbuddy")},
        "started": min(snapshot["started"] for snapshot in of),
        "consumers": {**consumers, "all": first["consumers"]["all"]},  # each has that of the worker
        "state": state,
        "pushes": _pushes([snapshot["pushes"] for snapshot in of]),
        "places": _places(begun),
        "queries": _queries(begun),
        "totals": _sums(snapshot["totals"] for snapshot in of),
        "hour": _hour([snapshot["hour"] for snapshot in of]),
        "held": _held([snapshot["held"] for snapshot in of]),
        "lost": _sums(snapshot["lost"] for snapshot in of),
        "left_behind": sum(snapshot["left_behind"] for snapshot in of),
    }


def _rank(said: Snapshot) -> int:
    return LEVELS.index(said["level"])


def _all_well(consumers: Mapping[str, int]) -> dict[str, str]:
    busy, here = consumers["busy"], consumers["here"]
    text = f"{at_work(busy, here)}; {WEBBUDDY_ANSWERS}."
    return {"level": "good", "word": "Working" if busy else "Waiting", "text": text}


def _trouble(states: Mapping[int, Snapshot], silent: Collection[int]) -> dict[str, str] | None:
    """The worst that is to be said: of each process, or with the number of each of whom it is said."""
    rank = max(map(_rank, states.values()))
    if rank == 0 and not silent:
        return None
    worst = {number: state for number, state in states.items() if _rank(state) == rank}
    texts = {number: state["text"].rstrip(".") for number, state in worst.items()}
    if len(states) == 1:
        said = list(texts.values())
    elif len(worst) == len(states) and len(set(texts.values())) == 1:
        said = [f"each process: {next(iter(texts.values()))}"]
    else:
        said = [f"process {number}: {text}" for number, text in texts.items()]
    said += [f"process {number} does not answer" for number in sorted(silent)]
    # One that works says more of all than one that waits.
    word = next((state["word"] for state in worst.values() if state["word"] != "Waiting"), "Waiting")
    return {"level": LEVELS[max(rank, 1 if silent else 0)], "word": word, "text": f"{'. '.join(said)}."}


def _pushes(pushes: list[Snapshot]) -> dict[str, Any]:
    """One process hears of each push, so the best is true of all."""
    best = min(pushes, key=lambda one: (_rank(one), -(one["last"] or 0)))
    return {**best, "last": max((one["last"] for one in pushes if one["last"] is not None), default=None)}


def _places(snapshots: Mapping[int, Snapshot]) -> list[list[Any]]:
    places = [
        [*place, *[None] * (3 - len(place)), number]
        for number, snapshot in snapshots.items()
        for place in snapshot["places"]
    ]
    return places[:MOST_PLACES]


def _queries(snapshots: Mapping[int, Snapshot]) -> list[list[Any]]:
    queries = [
        [f"{number}-{key}", *query, number]
        for number, snapshot in snapshots.items()
        for key, *query in snapshot["queries"]
    ]
    return sorted(queries, key=lambda query: query[-2], reverse=True)[:KEPT]


def _held(held: list[Snapshot]) -> dict[str, Any]:
    dead = sorted({number for one in held for number in one["dead_ids"]})
    counts = _sums({state: count for state, count in one.items() if state != "dead_ids"} for one in held)
    return {**counts, "dead_ids": dead[:MOST_NAMED]}


def _sums(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for each in counts:
        sums.update(each)
    return dict(sums)


def _hour(hours: list[Snapshot]) -> dict[str, Any]:
    """Their minutes begin at different seconds: each is put to that which it is nearest to."""
    minutes, ended = hours[0]["minutes"], max(hour["ended"] for hour in hours)
    of: dict[int, list[Any]] = {}
    for hour in hours:
        behind = int((ended - hour["ended"]) / SECONDS + 0.5)
        for ago, *rest in hour["of"]:
            at = ago + behind
            if at < minutes:
                of[at] = _minute(of[at], rest) if at in of else rest
    return {"minutes": minutes, "ended": ended, "of": [[at, *of[at]] for at in sorted(of, reverse=True)]}


def _minute(one: list[Any], other: list[Any]) -> list[Any]:
    counts = [mine + theirs for mine, theirs in zip(one[:3], other[:3], strict=True)]
    return [*counts, *_spread(one[3:6], other[3:6]), *_spread(one[6:], other[6:])]


def _spread(one: list[Any], other: list[Any]) -> list[Any]:
    count = one[0] + other[0]
    mean = (one[0] * one[1] + other[0] * other[1]) / count if count else 0.0
    return [count, round(mean, 4), max(one[2], other[2])]
