"""Time for the embedded WebBuddy that passes as fast as a test wants."""

from __future__ import annotations

from collections.abc import Callable

import trio

__all__ = ["trio_time"]


def trio_time(epoch: float = 1_795_000_000.0) -> Callable[[], float]:
    """Make a clock for `WebBuddy` that follows Trio's, so that tokens expire in virtual time.

    Only for runs under `trio.testing.MockClock`, whose time begins at 0; Trio's own clock begins
    anywhere.

    Args:
        epoch: The seconds since 1970 at which Trio's clock stands at 0.
    """
    return lambda: epoch + trio.current_time()
