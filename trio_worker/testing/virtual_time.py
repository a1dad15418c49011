"""Time that passes as fast as a test wants: the embedded WebBuddy's, and the worker's wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio
import trio.testing

from trio_worker import clock

__all__ = ["same_time", "time_is_virtual", "time_of_the_test", "trio_time"]


def trio_time(epoch: float = 1_795_000_000.0) -> Callable[[], float]:
    """Make a clock for `WebBuddy` that follows Trio's, so that tokens expire in virtual time.

    Only for runs under `trio.testing.MockClock`, whose time begins at 0; Trio's own clock begins
    anywhere.

    Args:
        epoch: The seconds since 1970 at which Trio's clock stands at 0.
    """
    return lambda: epoch + trio.current_time()


def time_is_virtual() -> bool:
    """Whether Trio runs here, under `trio.testing.MockClock`."""
    return trio.lowlevel.in_trio_run() and isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)


def time_of_the_test() -> Callable[[], float]:
    """Make a clock for `WebBuddy` that is `trio_time` where time is virtual, and else the wall clock.

    Needs no Trio yet, so the WebBuddy may be made before the test begins.
    """
    # As it is here: a server does not go by its callers' clocks.
    wall_clock, virtual = clock.source.get(), trio_time()
    return lambda: virtual() if time_is_virtual() else wall_clock()


@contextmanager
def same_time() -> Iterator[None]:
    """Let the wall clock follow virtual time, unless the test has set one of its own."""
    if not time_is_virtual() or clock.source.get() is not time.time:
        yield
        return
    before = clock.source.set(trio_time())
    try:
        yield
    finally:
        clock.source.reset(before)
