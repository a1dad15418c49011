"""What a process that has died has left on disk, written as it would have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trio_worker.journal_file import Entry, HeldLine
from trio_worker.journal_rows import fact
from trio_worker.query import Query
from trio_worker.state_folder import Address, StateFolder
from trio_worker.takeover import OwnJournal
from trio_worker.testing import StoredQuery, WebBuddy

__all__ = ["claimed_by_the_dead", "leave_behind", "lines"]


def claimed_by_the_dead(webbuddy: WebBuddy, text: str = "held", **known: Any) -> tuple[StoredQuery, Entry]:
    """A query that a process had claimed before it died, and what it had written down of it."""
    stored = webbuddy.add_query(text, push=False)
    webbuddy.claim(stored, webbuddy.accounts[1])
    assert stored.started is not None
    query = Query.from_json(
        {
            "id": stored.id,
            "project": stored.project,
            "query_text": text,
            "status": "in_progress",
            "query_created": webbuddy.timestamp(stored.created),
            "query_started": webbuddy.timestamp(stored.started),
        }
    )
    entry = Entry(id=f"entry-{stored.id}", query=query, source="push", claimed_at=stored.started)
    for name, value in ({"attempts": 1, "running": True} | known).items():
        setattr(entry, name, value)
    return stored, entry


def lines(*texts: str) -> list[HeldLine]:
    """Lines of a log that were not sent."""
    return [HeldLine(number, f"+{number}.0s", text) for number, text in enumerate(texts, start=1)]


def leave_behind(
    state_dir: Path, webbuddy: WebBuddy, entries: Sequence[Entry], *, account: str = "worker", **facts: object
) -> Path:
    """Write a journal and die.

    Args:
        state_dir: ``WORKER_STATE_DIR``.
        webbuddy: Whose queries they are.
        entries: What was held.
        account: The account of the worker.
        **facts: Of the dead process, such as ``stopping=1``.

    Returns:
        The journal's path.
    """
    folder = StateFolder(state_dir, Address(webbuddy.url, account))
    own = OwnJournal.open(folder, "normal")
    statements = [statement for entry in entries for statement in entry.insertion()]
    own.file.apply([*statements, *(fact(name, value) for name, value in facts.items())])
    own.file.close()
    assert own.lock is not None
    own.lock.release()
    return own.lock.path
