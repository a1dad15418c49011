"""What models have used and WebBuddy does not know yet: how a journal keeps it, query or no query."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from trio_worker import clock

__all__ = ["USAGE_SCHEMA", "StoredUsage"]

USAGE_SCHEMA = """
CREATE TABLE IF NOT EXISTS usage (
    id TEXT PRIMARY KEY, query_id TEXT NOT NULL, created TEXT NOT NULL, noted_at REAL NOT NULL,
    body TEXT NOT NULL
)
"""
# Made where it is missing: a journal of an earlier version has none, and an earlier version does not look.


@attrs.frozen(kw_only=True)
class StoredUsage:
    """One `TokenUsage`. It belongs to no entry: its query is over, and forgotten, while it still waits.

    Attributes:
        id: Its own name.
        query_id: The number of its query.
        created: When that was created, as text; empty: not known. A number may be another query's later.
        noted_at: When it was noted, in epoch seconds of this machine's clock.
        body: What WebBuddy is sent, as JSON in ASCII.
    """

    id: str
    query_id: int
    created: str
    noted_at: float
    body: str

    @classmethod
    def of(cls, query_id: int, created: str, body: Mapping[str, object]) -> StoredUsage:
        """Note one now."""
        text = json.dumps(body, separators=(",", ":"))
        return cls(
            id=secrets.token_hex(8), query_id=query_id, created=created, noted_at=clock.now(), body=text
        )

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.body)

    def insertion(self) -> tuple[str, Sequence[object]]:
        """Write it down, unless it is there."""
        row = (self.id, str(self.query_id), self.created, self.noted_at, self.body)
        return (
            "INSERT OR IGNORE INTO usage (id, query_id, created, noted_at, body) VALUES (?, ?, ?, ?, ?)",
            row,
        )

    def removal(self) -> tuple[str, Sequence[object]]:
        """Forget it."""
        return ("DELETE FROM usage WHERE id = ?", (self.id,))

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> StoredUsage:
        """Read what `insertion` has written."""
        return cls(**{**row, "query_id": int(row["query_id"])})
