"""What can be made to go wrong with the next calls to the embedded WebBuddy."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

__all__ = ["Answer", "Cut", "Fault", "Hang"]


@attrs.frozen
class Answer:
    """Answer with this instead of what WebBuddy would say.

    Attributes:
        status: The HTTP status.
        headers: Its headers.
        body: Its body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = attrs.field(repr=lambda body: f"<{len(body)} bytes>")


@attrs.frozen
class Cut:
    """Close the connection without an answer."""


@attrs.frozen
class Hang:
    """Keep the caller waiting for ever."""


@attrs.define
class Fault:
    """Something that goes wrong with the next calls.

    Attributes:
        what: What the caller meets.
        calls: How many calls it still befalls.
        endpoint: Only calls of this endpoint; None: of any.
        after_commit: Whether the call does its work nevertheless, and only its answer is lost.
    """

    what: Answer | Cut | Hang
    calls: int
    endpoint: str | None = None
    after_commit: bool = False
