"""What must be true when all workers have been killed, restarted and stopped."""

from __future__ import annotations

import fcntl
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.broken_way import Passage
from tests.kill_agent import ending_of, lines_of
from tests.servers import DjangoServer
from trio_worker.errors import JournalError
from trio_worker.journal_file import Contents, JournalFile
from trio_worker.log_lines import SEPARATOR

__all__ = [
    "held_in",
    "log_problem",
    "problems_of_journals",
    "problems_of_passages",
    "problems_of_queries",
    "problems_of_runs",
]

CLAIM = re.compile(r"Claimed by .+ \((push|poll)\)$")
HEADER = re.compile(r"Claimed by .+ \((push|poll)\)|Attempt [0-9]+ by .+")
STARTED = "Started, time limit 300 s"
WAITS = "Taken up again, waits for its turn"
"""Also a log's first line, where the line about the claim has gone down with its process."""
BETWEEN = re.compile(rf"Put (aside for|back into the queue)|{WAITS}$")
TIME = re.compile(r"^\+[0-9]+\.[0-9]s ")


def problems_of_queries(django: DjangoServer, passages: Sequence[Passage]) -> Iterator[str]:
    """Say of each query what is wrong with its end and with its log."""
    cut = Counter(passage.call.query for passage in passages if passage.is_cut_entry)
    claims = Counter(passage.handed_out for passage in passages)
    logs: dict[object, list[str]] = {}
    for number, entry in django.execute(
        "SELECT query_id, log_data FROM webbuddy_logentry ORDER BY log_created, id"
    ):
        logs.setdefault(number, []).append(str(entry))
    found = django.execute("SELECT id, query_text, status, answer_text FROM webbuddy_query ORDER BY id")
    for number, text, status, answer in found:
        assert isinstance(number, int)
        if (status, answer) != ending_of(str(text)):
            yield f"query {number} ({text}) is {status} with {answer!r}: {logs.get(number)}"
            continue
        problem = log_problem(str(text), logs.get(number, []), cut=cut[number], claims=claims[number])
        if problem is not None:
            yield f"query {number} ({text}): {problem}: {logs.get(number)}"


def log_problem(text: str, entries: Sequence[str], *, cut: int = 0, claims: int = 1) -> str | None:
    """Say what is wrong with a query's log; None when nothing is.

    Args:
        text: The query.
        entries: Its log.
        cut: How many entries were taken by WebBuddy without the worker's knowing: so many may be there
            twice.
        claims: How often it was handed out: an entry with the whole of an attempt may be there so often.
    """
    lines: list[str] = []
    for before, entry in zip(["", *entries], entries, strict=False):
        if entry != before or (claims > 1 and CLAIM.match(_lines(entry)[0])):
            lines += _lines(entry)
        elif cut > 0:
            cut -= 1
        else:
            return f"an entry is there twice: {entry!r}"
    if sum(bool(CLAIM.match(line)) for line in lines) > claims + cut:
        return f"it was handed out {claims} times only"
    attempts = _attempts(lines)
    if not attempts or not (HEADER.fullmatch(lines[0]) or lines[0] == WAITS):
        return "it does not begin with the claim"
    whole = [STARTED, *lines_of(text)]
    for attempt in attempts[:-1]:
        if not _is_interrupted(attempt, whole):
            return f"an attempt that was interrupted is not the beginning of one: {attempt}"
    ended = "Done after" if ending_of(text)[0] == "done" else "Failed after"
    if attempts[-1][:-1] != whole or not attempts[-1][-1].startswith(ended):
        return f"its last attempt is not complete: {attempts[-1]}"
    return None


def _lines(entry: str) -> list[str]:
    parts = entry.split(SEPARATOR)
    return parts if len(parts) == 1 else [TIME.sub("", part) for part in parts]


def _attempts(lines: Sequence[str]) -> list[list[str]]:
    """Split a log at the lines with which attempts begin; without these lines."""
    attempts: list[list[str]] = []
    for line in lines:
        if HEADER.fullmatch(line):
            attempts.append([])
        elif attempts:
            attempts[-1].append(line)
    return attempts


def _is_interrupted(attempt: Sequence[str], whole: Sequence[str]) -> bool:
    """Whether it is the beginning of an attempt, and perhaps lines that say why there is no more."""
    while attempt and BETWEEN.match(attempt[-1]):
        attempt = attempt[:-1]
    # An attempt's last line may get to WebBuddy just before its outcome would be on disk.
    if len(attempt) == len(whole) + 1 and re.match("(Done|Failed) after", attempt[-1]):
        attempt = attempt[:-1]
    return list(attempt) == list(whole[: len(attempt)])


def problems_of_passages(passages: Sequence[Passage]) -> Iterator[str]:
    """Say which results were reported more than once: there is a look before each repetition."""
    results = [
        passage.call.query
        for passage in passages
        if passage.call.kind == "report" and passage.status == 200 and passage.call.body["status"] != "queued"
    ]
    for number, times in Counter(results).items():
        if times > 1:
            yield f"query {number}: its result was reported {times} times"


def problems_of_runs(runs: Path) -> Iterator[str]:
    """Say which queries were worked on twice at the same time, from what the handlers have noted."""
    last_begun: dict[str, str] = {}
    for line in runs.read_text(encoding="ascii").splitlines():
        what, number, name = line.split()
        if what == "begin":
            last_begun[number] = name
        elif last_begun[number] != name:
            yield f"query {number}: two handlers worked on it at the same time"


def problems_of_journals(folder: Path) -> Iterator[str]:
    """Say what is left of journals that should be gone, once all workers have been stopped."""
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".journal":
            yield from _problems_of_journal(path)
        elif path.suffix == ".lock":
            yield from _problems_of_lock(path)


def _problems_of_lock(path: Path) -> Iterator[str]:
    if not path.with_suffix(".journal").exists():
        yield f"{path.name}: a lock without a journal"
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield f"{path.name}: still locked"


def _problems_of_journal(path: Path) -> Iterator[str]:
    try:
        contents = _read(path)
    except JournalError as error:
        yield f"{path.name}: {error}"
        return
    for entry in contents.entries:
        yield f"{path.name}: query {entry.query.id} is still held"
    if not contents.entries and not contents.lost and not contents.tombstones:
        yield f"{path.name}: nothing is in it, but it is still there"


def held_in(folder: Path) -> list[int]:
    """List the queries in all journals below a folder, whoever has them."""
    return [entry.query.id for path in folder.rglob("*.journal") for entry in _read(path).entries]


def _read(path: Path) -> Contents:
    file = JournalFile(path, read_only=True)
    try:
        return file.load()
    finally:
        file.close()
