"""Waiting for what happens to the embedded WebBuddy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import trio

__all__ = ["Watched", "knob"]


DAY = 86_400.0


def knob(default: Any) -> Any:
    """Make an attribute of a `Watched` that may be set at any time: that wakes who waits in `until`."""
    return attrs.field(default=default, on_setattr=_announce)


def _announce(watched: Watched, attribute: Any, value: Any) -> Any:
    """Wake who waits. They run later, when the new value is in its place."""
    watched.announce()
    return value


@attrs.define(kw_only=True, eq=False)
class Watched:
    """Something whose changes can be waited for."""

    _changed: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)

    async def until(self, condition: Callable[[], bool], *, within: float = DAY) -> None:
        """Wait until ``condition`` holds; it is asked again after each change.

        Changes are: a call arrives or is answered, a push ends, a query changes, a knob is set.

        Args:
            condition: What is waited for.
            within: Seconds after which it is given up. In virtual time a worker that does nothing goes on
                for ever, and so would the test.

        Raises:
            TimeoutError: It does not hold after that time.
        """
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(within) as patience:
            while not condition():
                await self._changed.wait()
        if patience.cancelled_caught and not condition():
            raise TimeoutError(f"what the test waits for has not come within {within:g} s")

    def announce(self) -> None:
        """Say that something has changed."""
        self._changed.set()
        self._changed = trio.Event()
