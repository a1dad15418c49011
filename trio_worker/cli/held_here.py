"""Which queries the living workers of this machine hold. Blocks."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from trio_worker.cli.outbox_journals import look_beside, look_into
from trio_worker.errors import JournalError
from trio_worker.query import Query
from trio_worker.state_folder import Address, StateFolder

__all__ = ["HeldHere", "held_here"]


@attrs.frozen
class HeldHere:
    """The queries that are in journals whose processes are alive.

    Known by number and creation, since WebBuddy may be called by another name here, or with another
    account, than in the worker's environment.
    """

    _known: frozenset[tuple[int, object]]

    def __contains__(self, query: Query) -> bool:
        """Whether it is one of them."""
        return (query.id, query.query_created) in self._known


def held_here(folder: StateFolder) -> HeldHere:
    """Read all journals of ``WORKER_STATE_DIR``.

    Args:
        folder: Of one's own address.

    Raises:
        JournalError: A journal of that address, or the folder, can't be read.
    """
    holdings = [look_into(one) for one in _folders(folder)]
    if holdings[0].problems:
        raise JournalError(holdings[0].problems[0])
    entries = [found.entry for held in holdings for found in held.found if found.owned]
    return HeldHere(frozenset((entry.query.id, entry.query.query_created) for entry in entries))


def _folders(folder: StateFolder) -> Iterator[StateFolder]:
    yield folder
    for other in look_beside(folder):
        if isinstance(other.url, str) and isinstance(other.account, str):
            yield StateFolder(folder.root, Address(other.url, other.account))
