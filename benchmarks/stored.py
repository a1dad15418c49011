"""What the benchmarks' WebBuddy remembers, and its answers, ready to be sent."""

from __future__ import annotations

import heapq
import json
import time
from collections import Counter
from datetime import datetime, timedelta, timezone

import jwt

__all__ = ["EMPTY", "Store", "StoredQuery"]

EMPTY = b'{"detail":"No queued queries available"}'

MOSCOW = timezone(timedelta(hours=3))
PAGE = 50

# The keys, their order and their types are those of Django REST framework's answers.
QUERY = (
    b'{"id":%d,"project":1,"project_name":"Portal","user":2,"user_name":"member","query_text":%s,'
    b'"answer_text":%s,"status":"%s","query_created":"%s","query_started":%s,"query_finished":null,'
    b'"logs_count":%d}'
)
ENTRY = b'{"id":%d,"project":1,"query":%d,"log_data":%s,"log_created":"%s"}'


class StoredQuery:
    """One query. Times are `time.monotonic`, which is one clock for all processes of a machine.

    Attributes:
        number: Its number.
        text: What its author wrote, as JSON.
        status: As WebBuddy has it.
        answer: As JSON.
        entries: Its log entries, as JSON.
        created: When it was created.
        claimed: When it was last claimed, or None.
        ended: When it was last reported ``done`` or ``failed``, or None.
        pushed: When its push began, or None.
        push_seconds: How long its push took, to the answer's status; None: not yet, or it failed.
    """

    __slots__ = (
        "answer",
        "claimed",
        "created",
        "created_text",
        "ended",
        "entries",
        "number",
        "push_seconds",
        "pushed",
        "started_text",
        "status",
        "text",
    )

    def __init__(self, number: int, text: bytes) -> None:
        self.number = number
        self.text = text
        self.status = b"queued"
        self.answer = b'""'
        self.entries: list[bytes] = []
        self.created = time.monotonic()
        self.created_text = _timestamp()
        self.started_text = b"null"
        self.claimed: float | None = None
        self.ended: float | None = None
        self.pushed: float | None = None
        self.push_seconds: float | None = None

    def shown(self) -> bytes:
        """Show it, as all calls that give a query do."""
        return QUERY % (
            self.number,
            self.text,
            self.answer,
            self.status,
            self.created_text,
            self.started_text,
            len(self.entries),
        )


class Store:
    """All queries, and what became of them.

    Attributes:
        queries: By number.
        endless: The text, as JSON, of a query that is made whenever a claim finds none; None: none is.
        statuses: How many queries have each status.
        claims: How many claims brought a query.
    """

    def __init__(self) -> None:
        self.queries: dict[int, StoredQuery] = {}
        self.endless: bytes | None = None
        self.statuses: Counter[str] = Counter()
        self.claims = 0
        self._queued: list[int] = []  # a heap: the oldest first, also when one was put back
        self._last_entry = 0
        self.tokens = _tokens()

    def create(self, text: bytes) -> StoredQuery:
        """Create a query.

        Args:
            text: What its author wrote, as JSON.
        """
        query = StoredQuery(len(self.queries) + 1, text)
        self.queries[query.number] = query
        self.statuses["queued"] += 1
        heapq.heappush(self._queued, query.number)
        return query

    def claim(self) -> bytes | None:
        """Hand out the oldest query; None when there is none."""
        query = self._next()
        if query is None:
            return None
        self._set_status(query, b"in_progress")
        query.claimed = time.monotonic()
        query.started_text = b'"%s"' % _timestamp()
        self.claims += 1
        return query.shown()

    def change(self, number: int, body: bytes) -> bytes | None:
        """Set what a PATCH says; None when there is no such query."""
        query = self.queries.get(number)
        if query is None:
            return None
        values = json.loads(body)
        if values.get("answer_text") is not None:
            query.answer = _json(values["answer_text"].strip())
        status = values.get("status")
        if status is not None:
            self._set_status(query, status.encode())
            if status == "queued":
                heapq.heappush(self._queued, number)
            else:
                query.ended = time.monotonic()
        return query.shown()

    def add_entry(self, body: bytes) -> bytes | None:
        """Add a log entry; None when there is no such query."""
        values = json.loads(body)
        query = self.queries.get(values["query"])
        if query is None:
            return None
        self._last_entry += 1
        text = _json(values["log_data"].strip())
        entry = ENTRY % (self._last_entry, query.number, text, _timestamp())
        query.entries.append(entry)
        return entry

    def page(self, status: str, number: int, url: bytes) -> bytes:
        """Show a page of the queries of a status, the newest first.

        Args:
            status: Which.
            number: Of the page, from 1.
            url: Where the list is, for the next page.
        """
        wanted = status.encode()
        found = [query for query in reversed(self.queries.values()) if query.status == wanted]
        first = (number - 1) * PAGE
        following = b"null"
        if len(found) > first + PAGE:
            following = b'"%s?page=%d&status=%s"' % (url, number + 1, wanted)
        shown = b",".join(query.shown() for query in found[first : first + PAGE])
        return b'{"count":%d,"next":%s,"previous":null,"results":[%s]}' % (len(found), following, shown)

    def _next(self) -> StoredQuery | None:
        while self._queued:
            query = self.queries[heapq.heappop(self._queued)]
            if query.status == b"queued":
                return query
        if self.endless is None:
            return None
        query = self.create(self.endless)
        self._queued.clear()
        return query

    def _set_status(self, query: StoredQuery, status: bytes) -> None:
        self.statuses[query.status.decode()] -= 1
        self.statuses[status.decode()] += 1
        query.status = status


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _timestamp() -> bytes:
    return datetime.now(MOSCOW).isoformat().encode()


def _tokens() -> dict[str, str]:
    """An access and a refresh token as SimpleJWT makes them, for a day and a week. Nobody checks them."""
    now = int(time.time())
    lives = {"access": 24 * 3600, "refresh": 7 * 24 * 3600}
    return {
        kind: jwt.encode(
            {"token_type": kind, "exp": now + life, "iat": now, "jti": f"{life:032x}", "user_id": "1"},
            "the benchmarks sign their tokens with this; it protects nothing",
            "HS256",
        )
        for kind, life in lives.items()
    }
