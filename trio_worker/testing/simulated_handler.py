"""A handler that does what its query asks for, and a ledger of all that it has said."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum

import attrs
import trio

from trio_worker.context import Context
from trio_worker.errors import QueryFailed, RetryLater
from trio_worker.query import Query
from trio_worker.testing.simulated_crash import Doors
from trio_worker.testing.simulated_network import REFUSED

__all__ = ["Kind", "Ledger", "Plan", "Start", "claim_of", "make_handler", "make_plain_handler"]
HandlerFunction = Callable[[Query, Context], Awaitable[object]] | Callable[[Query, Context], object]


class Kind(StrEnum):
    """How a query is to end."""

    ANSWER = "answer"
    FAIL = "fail"
    RAISE = "raise"
    LATER = "later"
    TIMEOUT = "timeout"
    SWALLOW = "swallow"
    EMPTY = "empty"
    REFUSED = "refused"


@attrs.frozen
class Plan:
    """What the handler does with one query.

    Attributes:
        text: The query's text: unlike any other's.
        kind: How it ends.
        lines: How many lines it logs.
        seconds: How long it takes.
    """

    text: str
    kind: Kind = Kind.ANSWER
    lines: int = 2
    seconds: float = 1.0


@attrs.define
class Start:
    """One run of the handler.

    Attributes:
        life: Of which process, counted over all.
        number: Which run for this query.
        claim: When WebBuddy has handed it out for this run, in epoch seconds; None: it is not known.
        said: The status and the answer that follow from it, or None while it runs, or if it was stopped.
        postponed: Whether it asked to be called again later.
        running: Whether it has not ended yet, however that may be.
        lines: What it has logged, and when, on Trio's clock.
    """

    life: int
    number: int
    claim: float | None = None
    said: tuple[str, str] | None = None
    postponed: bool = False
    running: bool = True
    lines: list[tuple[float, str]] = attrs.field(factory=list)

    def has_said(self, status: str, answer: str) -> bool:
        """Whether a query's status and answer are what it has said. Some answers go on with a reason."""
        if self.said is None or self.said[0] != status:
            return False
        text = self.said[1]
        return answer == text or (answer.startswith(text) and not text[-1].isdigit())

    def log(self, ctx: Context, number: int) -> None:
        """Log a line that is unlike any other of the query."""
        text = f"<{self.number}.{number}>"
        self.lines.append((trio.current_time(), text))
        ctx.log(text)


@attrs.define
class Ledger:
    """All that handlers have done, kept outside of all processes.

    Attributes:
        plans: What they are to do, by the query's text.
        starts: What they did, by the query's text.
    """

    plans: dict[str, Plan] = attrs.field(factory=dict)
    starts: dict[str, list[Start]] = attrs.field(factory=dict)

    def add(self, plan: Plan) -> Plan:
        """Plan a query."""
        self.plans[plan.text] = plan
        self.starts[plan.text] = []
        return plan

    def start(self, query: Query, life: int) -> Start:
        """Note that a handler was started."""
        starts = self.starts[query.query_text]
        start = Start(life, len(starts) + 1, claim_of(query))
        starts.append(start)
        return start


def claim_of(query: Query) -> float:
    """Name the claim by which a query came: by its time, in epoch seconds."""
    assert query.query_started is not None, "the embedded WebBuddy says it"
    return query.query_started.timestamp()


def make_plain_handler(ledger: Ledger, life: int) -> HandlerFunction:
    """Make the handler of a process whose handler is a plain function. It takes no time.

    Args:
        ledger: Where it notes what it does.
        life: The number of its process.
    """

    def handle(query: Query, ctx: Context) -> str:
        plan = ledger.plans[query.query_text]
        start = ledger.start(query, life)
        for number in range(1, plan.lines + 1):
            start.log(ctx, number)
        start.said = ("done", f"answer of run {start.number}")
        start.running = False
        return start.said[1]

    return handle


def make_handler(ledger: Ledger, doors: Doors, life: int) -> HandlerFunction:
    """Make the handler of one process.

    Args:
        ledger: Where it notes what it does.
        doors: Of its process: what is done after its death is not done.
        life: The number of its process.
    """

    async def handle(query: Query, ctx: Context) -> object:
        if doors.dead:
            await trio.sleep_forever()
        plan = ledger.plans[query.query_text]
        start = ledger.start(query, life)
        try:
            for number in range(1, plan.lines + 1):
                start.log(ctx, number)
                await trio.sleep(plan.seconds / plan.lines)
                if doors.dead:
                    await trio.sleep_forever()
            return await _end(plan, start)
        finally:
            start.running = start.running and doors.dead  # as it was when its process died

    return handle


async def _end(plan: Plan, start: Start) -> object:
    match plan.kind:
        case Kind.FAIL:
            start.said = ("failed", f"no answer in run {start.number}")
            raise QueryFailed(start.said[1])
        case Kind.RAISE:
            start.said = ("failed", "The agent ended with an error (ZeroDivisionError).")
            raise ZeroDivisionError
        case Kind.LATER if start.number == 1:
            start.postponed = True
            raise RetryLater(5, "not now")
        case Kind.EMPTY:
            start.said = ("failed", "The agent returned an empty answer.")
            return "  "
        case Kind.TIMEOUT:
            start.said = ("failed", "The agent ran past its time limit")
            await trio.sleep_forever()
        case Kind.SWALLOW:
            start.said = ("failed", "The agent ran past its time limit")
            start.running = False  # left behind: nobody counts on it any more
            with trio.CancelScope(shield=True):
                await trio.sleep(3600)
            return "too late"
        case Kind.REFUSED:
            start.said = ("failed", "WebBuddy did not accept the answer:")
            return f"{REFUSED} in run {start.number}"
    start.said = ("done", f"answer of run {start.number}")
    return start.said[1]
