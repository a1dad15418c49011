"""What came to the push endpoint, in numbers."""

from __future__ import annotations

import attrs

__all__ = ["PushCounts"]


@attrs.define
class PushCounts:
    """What arrived since the start. Three numbers, however much arrives.

    Attributes:
        accepted: Pushes that were answered with 200.
        refused: Requests to the push endpoint that were no push (400, 408, 413), or had no token (401).
        other_url: Accepted pushes that named another WebBuddy than ours.
    """

    accepted: int = 0
    refused: int = 0
    other_url: int = 0
