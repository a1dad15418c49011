"""The one task that writes a journal.

What is queued while the disk is busy with one commit goes with the next, so that fifty queries that are
claimed together cost one fsync and not fifty, and the event loop never waits for the disk.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterable
from functools import partial

import structlog
import trio

from trio_worker.backoff import Backoff
from trio_worker.errors import JournalIllError
from trio_worker.gate import Gate
from trio_worker.journal_file import Statement, describe
from trio_worker.runners import Runner
from trio_worker.trouble import Trouble

__all__ = ["CLOSE_SECONDS", "LAZY", "Collector", "JournalWriter", "Receipt"]

log = structlog.get_logger(__name__)

LAZY = 0.1  # seconds that may pass before something is written for which nobody waits
SLOW = 5.0  # seconds after which a disk that does not answer is called ill
CLOSE_SECONDS = 2.0  # for the last commit

Collector = Callable[[], Iterable[Statement]]


class Receipt:
    """For what goes to the disk with one commit."""

    __slots__ = ("_settled", "_why_not")

    def __init__(self) -> None:
        self._settled = trio.Event()
        self._why_not: str | None = None

    @property
    def is_settled(self) -> bool:
        """Whether it is known if it is on disk."""
        return self._settled.is_set()

    def settle(self, why_not: str | None) -> None:
        """Say that it is on disk or, with a reason, that it is not. The first word counts."""
        if not self._settled.is_set():
            self._why_not = why_not
            self._settled.set()

    async def durable(self) -> None:
        """Wait until it is on disk. Not a checkpoint where that is known.

        Cancelled, it is still queued, and will be written.

        Raises:
            JournalIllError: The disk refuses it, or does not answer. It stays queued, and is written
                should the disk become well again.
        """
        if not self._settled.is_set():
            await self._settled.wait()
        if self._why_not is not None:
            raise JournalIllError(self._why_not)


class JournalWriter:
    """Gathers statements, and gives them to the disk.

    ::

        write, write, write ──▶ queued ──▶ one transaction ──▶ receipts
                                  ▲              │ the disk refuses, or does not answer for 5 s
             collectors ──────────┘              ▼
                                    ill: receipts fail at once, the gate is closed;
                                    the same transaction is tried again until it succeeds

    Args:
        apply: Carries out statements as one transaction; blocking.
        runner: Where that is waited for.
        name: Of the journal, for messages.

    Attributes:
        illness: Why nothing can be written, or None.
        gate: Open while it can be written to.
    """

    def __init__(self, apply: Callable[[list[Statement]], None], runner: Runner, *, name: str) -> None:
        self.illness: str | None = None
        self.gate = Gate()
        self._apply = apply
        self._runner = runner
        self._name = name
        self._trouble = Trouble(
            log,
            "nothing new is claimed: the journal can't be written",
            over="the journal can be written to again",
            level="error",
        )
        self._statements: list[Statement] = []
        self._receipts: list[Receipt] = []  # for those; more than one only while the disk is ill
        self._collectors: dict[Collector, None] = {}
        self._write_at = math.inf
        self._work = trio.Event()  # set: write now
        self._is_writing = False
        self._written_by = math.inf
        self._waiting = trio.CancelScope()
        self._closing = False
        # Shielded, since those who are cancelled still write. It gets its deadline in `close`, which the
        # owner of the task calls however the block is left.
        self._scope = trio.CancelScope(shield=True, deadline=math.inf)

    @property
    def due(self) -> float:
        """When it means to go on, on Trio's clock.

        Infinite while there is nothing to write, and while the disk does not answer: that is `illness`.
        """
        # What is queued while it writes waits for the end of that.
        return self._written_by if self._is_writing else self._write_at

    def write(self, *statements: Statement, within: float = 0.0) -> Receipt:
        """Queue statements, to be carried out together and after all that was queued before. Synchronous.

        Args:
            *statements: What to write. With none, the receipt is for what was queued before.
            within: Seconds that it may wait for a commit to go with.
        """
        self._statements += statements
        if not self._receipts or self._receipts[-1].is_settled:
            self._receipts.append(Receipt())
        receipt = self._receipts[-1]
        if self.illness is not None:
            receipt.settle(self.illness)
        if within > 0:
            self._due(trio.current_time() + within)
        else:
            self._work.set()
        return receipt

    def collect_later(self, collector: Collector, *, within: float = LAZY) -> None:
        """Ask for statements when the next commit begins, at the latest in so many seconds. Synchronous."""
        self._collectors[collector] = None
        self._due(trio.current_time() + within)

    def close(self) -> None:
        """Have `run` write what is queued, and end. After two seconds it gives up."""
        self._closing = True
        self._work.set()
        self._scope.deadline = trio.current_time() + CLOSE_SECONDS

    async def run(self) -> None:
        """Write what is queued until `close`, and then what is left. Cancelling alone does not end it.

        Raises:
            sqlite3.DatabaseError: A statement is wrong, which is a bug and not the disk's fault.
        """
        with self._scope:
            while not self._closing or self._statements or self._collectors or self._receipts:
                with trio.CancelScope(deadline=self._write_at) as self._waiting:
                    await self._work.wait()
                await self._commit()
        if self._scope.cancelled_caught:
            log.error("the journal could not be written to its end", reason=self.illness, journal=self._name)

    def _due(self, at: float) -> None:
        if at < self._write_at:
            self._write_at = self._waiting.deadline = at

    async def _commit(self) -> None:
        self._write_at, self._work = math.inf, trio.Event()
        collectors, self._collectors = self._collectors, {}
        for collector in collectors:
            self._statements += collector()
        statements, self._statements = self._statements, []
        receipts, self._receipts = self._receipts, []
        if statements:
            self._is_writing = True
            await self._persist(statements, receipts)
            self._is_writing = False
        for receipt in receipts:
            receipt.settle(None)

    async def _persist(self, statements: list[Statement], receipts: list[Receipt]) -> None:
        """Repeat a transaction until the disk has taken it."""
        pauses = Backoff(first=1.0, most=30.0)
        while True:
            self._written_by = trio.current_time() + SLOW
            job = self._runner(partial(self._apply, statements))
            try:
                with trio.move_on_after(SLOW) as patience:
                    await job
                if patience.cancelled_caught:
                    self._written_by = math.inf
                    self._fall_ill(f"the disk has not answered for {SLOW:g} s", receipts)
                    await job
                break
            except sqlite3.DatabaseError as error:
                self._fall_ill(_illness(error), receipts)
            pause = pauses.next()
            self._written_by = trio.current_time() + pause
            await trio.sleep(pause)
        self._recover()

    def _fall_ill(self, illness: str, receipts: list[Receipt]) -> None:
        self._trouble.happened(reason=illness, journal=self._name)
        self.gate.close()
        self.illness = illness
        for receipt in (*receipts, *self._receipts):
            receipt.settle(illness)

    def _recover(self) -> None:
        if self.illness is not None:
            self._trouble.is_over(journal=self._name)
            self.illness = None
            self.gate.open()


def _illness(error: sqlite3.DatabaseError) -> str:
    """Say what is wrong with the disk; a mistake of ours in a statement is not the disk's.

    Raises:
        sqlite3.DatabaseError: It is a bug.
    """
    if isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:
        return describe(error)
    raise error
