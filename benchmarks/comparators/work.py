"""What all comparators do alike: how many they are, whom they call, and what they say."""

from __future__ import annotations

import json
import os
from typing import Any

__all__ = ["ANSWER", "CONSUMERS", "EMPTY_PAUSE", "LOGS", "URL", "encoded", "entry", "outcome"]

URL = os.environ.get("WEBBUDDY_URL", "http://localhost:8000")
CONSUMERS = int(os.environ.get("NUM_WORKERS", "5"))
LOGS = int(os.environ.get("LOGS", "2"))
"""Log entries for each query: as many as trio-worker sends, so that all make the same calls."""

EMPTY_PAUSE = 1.0  # seconds, after a claim that found nothing
ANSWER = "An answer of the usual length, in one sentence."

TEXTS = (
    "+0.0s Claimed by vm:1234 (poll) · +0.0s Started, time limit 300 s · +0.0s Done after 0.0 s",
    "Done after 0.0 s",
)


def entry(query: dict[str, Any], number: int) -> dict[str, Any]:
    """Give the body of a log entry."""
    return {"project": query["project"], "query": query["id"], "log_data": TEXTS[number % len(TEXTS)]}


def outcome() -> dict[str, Any]:
    """Give the body of a report."""
    return {"status": "done", "answer_text": ANSWER, "query_finished": "2025-11-11T12:05:00Z"}


def encoded(body: dict[str, Any]) -> bytes:
    """Give a body as bytes."""
    return json.dumps(body, ensure_ascii=False).encode()
