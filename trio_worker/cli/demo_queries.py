"""The demo's queries: what is asked, how it should end, and what is to be seen of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import attrs

from trio_worker.cli.demo_handler import TASKS, Task
from trio_worker.cli.demo_worker import NAME, TIME_LIMIT
from trio_worker.phrases import ENGLISH, RUSSIAN
from trio_worker.query_log import SEPARATOR
from trio_worker.testing import StoredQuery

__all__ = ["Case", "Sight", "make_cases", "sight_of", "verdict"]

_TIME = re.compile(r"^\+[0-9.]+s ")
_ORDINARY = [task for task in TASKS if task.ending == "answers"]


@attrs.frozen
class Case:
    """A query to create, and what should come of it.

    Attributes:
        text: What is asked.
        task: What the handler makes of it.
        pushed: Whether WebBuddy tells the worker; if not, polling has to find it.
    """

    text: str
    task: Task
    pushed: bool

    @property
    def status(self) -> str:
        """The status that it should end with."""
        return "done" if self.task.ending == "answers" else "failed"

    def answer(self, number: int) -> str:
        """The answer that it should end with, when it has this number."""
        if self.task.ending == "raises":
            return ENGLISH.error.format(error="JSONDecodeError", worker=NAME, query=number)
        if self.task.ending == "never ends":
            return ENGLISH.timeout.format(limit=TIME_LIMIT)
        return self.task.result


def make_cases(count: int) -> list[Case]:
    """Make so many cases: each task once, then the ordinary ones over and over.

    The last third is created while pushes are off.
    """
    pushed = count - count // 3
    tasks = [*TASKS, *(_ORDINARY[number % len(_ORDINARY)] for number in range(count - len(TASKS)))][:count]
    return [
        Case(task.text if number < len(TASKS) else f"{task.text} #{number + 1}", task, number < pushed)
        for number, task in enumerate(tasks)
    ]


@attrs.frozen
class Sight:
    """What is to be seen of a query at one moment.

    Attributes:
        number: Its number.
        text: What was asked.
        status: Its status.
        found_by: ``"push"`` or ``"poll"``, as its log says; ``""`` as long as it does not.
        waited: Seconds from its creation to its claim, or None.
        ran: Seconds from its claim to its end, or so far; None before the claim.
        last_line: The last line of its log.
        changed: When it last changed, in epoch seconds.
    """

    number: int
    text: str
    status: str
    found_by: Literal["push", "poll", ""]
    waited: float | None
    ran: float | None
    last_line: str
    changed: float

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in ("done", "failed")


def sight_of(query: StoredQuery, now: float) -> Sight:
    """Look at a query.

    Args:
        query: The query.
        now: WebBuddy's time, in epoch seconds.
    """
    last_change = query.history[-1].at
    ended = query.status in ("done", "failed")
    return Sight(
        number=query.id,
        text=query.query_text,
        status=query.status,
        found_by=_found_by(query.logs),
        waited=None if query.started is None else query.started - query.created,
        ran=None if query.started is None else (last_change if ended else now) - query.started,
        last_line=_last_line(query.logs),
        changed=max(last_change, query.entries[-1].at if query.entries else 0),
    )


def _found_by(logs: Sequence[str]) -> Literal["push", "poll", ""]:
    first = logs[0] if logs else ""
    for phrases in (ENGLISH, RUSSIAN):
        if _claimed(phrases.claimed, phrases.claimed_push).search(first):
            return "push"
        if _claimed(phrases.claimed, phrases.claimed_poll).search(first):
            return "poll"
    return ""


def _claimed(template: str, source: str) -> re.Pattern[str]:
    """The sentence of a claim, whoever it is by."""
    before, after = template.format(worker="\0", source=source).split("\0")
    return re.compile(f"{re.escape(before)}[^·]*{re.escape(after)}")


def _last_line(logs: Sequence[str]) -> str:
    """The last of the lines that travelled in the last entry, without its time."""
    return _TIME.sub("", logs[-1].split(SEPARATOR)[-1]) if logs else ""


def verdict(case: Case, query: StoredQuery) -> str | None:
    """Say what is wrong with how a query ended; None when it ended as it should."""
    expected = (case.status, case.answer(query.id))
    if (query.status, query.answer_text) != expected:
        return f"should be {_shown(*expected)}, but is {_shown(query.status, query.answer_text)}"
    if query.statuses != ["queued", "in_progress", case.status]:
        return f"was not claimed exactly once: {', '.join(query.statuses)}"
    if not case.pushed and _found_by(query.logs) != "poll":
        return "was found although WebBuddy told nobody, and not by polling"
    return None


def _shown(status: str, answer: str) -> str:
    return f"{status} with {answer!r}" if answer else status
