"""Which queries the journals of this machine hold, whether their workers live or not. Blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from trio_worker.cli.outbox_table import state
from trio_worker.errors import JournalError
from trio_worker.holdings import Found, Others, look_beside, look_into
from trio_worker.query import Query
from trio_worker.state_folder import Address, StateFolder

__all__ = ["HeldHere", "Holder", "held_here"]


@attrs.frozen
class Holder:
    """Who holds a query.

    Attributes:
        found: What its journal knows.
        other: The address of that journal; None: one's own.
    """

    found: Found
    other: Others | None

    @property
    def mark(self) -> str:
        """Say how the query stands, in two or three words."""
        is_held = self.found.owned and not self.found.is_dead_letter
        return "held here" if is_held else f"{state(self.found)} here"


@attrs.frozen
class HeldHere:
    """The queries that are in journals of this machine.

    Known by number and creation, since WebBuddy may be called by another name here, or with another
    account, than in the worker's environment.
    """

    _known: Mapping[tuple[int, object], Holder] = attrs.field(factory=dict)

    def of(self, query: Query) -> Holder | None:
        """Say who holds a query; None: nobody here."""
        return self._known.get((query.id, query.query_created))


def held_here(folder: StateFolder) -> HeldHere:
    """Read all journals of ``WORKER_STATE_DIR``.

    Args:
        folder: Of one's own address.

    Raises:
        JournalError: A journal of that address, or the folder, can't be read.
    """
    own = look_into(folder)
    if own.problems:
        raise JournalError(own.problems[0])
    known: dict[tuple[int, object], Holder] = {}
    for holder in (*(Holder(found, None) for found in own.found), *_held_beside(folder)):
        query = holder.found.entry.query
        key = (query.id, query.query_created)
        # Of several, the one that lives; then one's own.
        if key not in known or (holder.found.owned and not known[key].found.owned):
            known[key] = holder
    return HeldHere(known)


def _held_beside(folder: StateFolder) -> Iterator[Holder]:
    for other in look_beside(folder):
        if isinstance(other.url, str) and isinstance(other.account, str):
            there = look_into(StateFolder(folder.root, Address(other.url, other.account)))
            yield from (Holder(found, other) for found in there.found)
