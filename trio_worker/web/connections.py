"""How many connections are served at once, whoever opens however many.

hypercorn takes every connection at once and starts a task for it. With 10 000 of them a turn of the event
loop took half a second and a claim several, and the memory stayed. So here only some are served, and the rest
waits in the kernel's queue, where it costs us nothing. A push that is not heard within WebBuddy's 2 seconds
is a hint that is lost: claims that find queries which nobody has named go on until the queue is empty.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, NoReturn

import attrs
import trio

__all__ = ["BACKLOG", "MOST", "PATIENCE", "Connections", "serve_listeners", "socket_of"]

MOST = 64
"""Connections served at once: a turn of the loop then takes 4 ms at most, in a storm of pushes."""

PATIENCE = 1.0
"""Seconds after which a connection may be closed in favour of one that waits. A push takes milliseconds, so
the oldest connection is an idle one, or a client that dawdles."""

PARTING = 0.1
"""Seconds in which a connection has closed, once it is told to; else the next oldest has to go as well."""

BACKLOG = 1_024
"""Connections in the kernel's queue. hypercorn's default of 100 is full at once when some hundred queries are
created together, and whoever does not get in tries again a second later."""

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
SocketListener = trio.SocketListener
SSLListener = trio.SSLListener[trio.SocketStream]
Serve = Callable[[Stream], Awaitable[object]]


@attrs.define(eq=False)
class Connections:
    """Those that are served now.

    Args:
        most: How many at once; more by one for each listener beyond the first.
    """

    most: int = MOST
    _places: dict[Stream, _Place] = attrs.field(factory=dict, init=False)  # the oldest first
    _left: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)

    @property
    def number(self) -> int:
        """How many there are."""
        return len(self._places)

    @property
    def are_full(self) -> bool:
        """Whether there is no place for one more."""
        return self.number >= self.most

    async def wait_for_place(self) -> None:
        """Return when there is a place, for somebody who waits outside.

        The oldest connection is closed for it, once it is older than `PATIENCE`. Cancelled, this may have
        closed one for nobody.
        """
        while self.are_full:
            oldest = next((place for place in self._places.values() if not place.scope.cancel_called), None)
            with trio.move_on_at(math.inf if oldest is None else oldest.since + PATIENCE):
                await self._left.park()
                continue
            if oldest is not None:
                oldest.scope.cancel()
                with trio.move_on_after(PARTING):
                    await self._left.park()

    def take_place(self, stream: Stream) -> None:
        """Count one more, for which `serve` is called next."""
        self._places[stream] = _Place(trio.current_time())

    async def serve(self, handler: Serve, stream: Stream) -> None:
        """Serve one, which has taken a place, until its handler has ended or its place is needed."""
        try:
            with self._places[stream].scope:
                await handler(stream)
        finally:
            del self._places[stream]
            self._left.unpark()


@attrs.frozen
class _Place:
    since: float
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)


@attrs.frozen
class Door(trio.abc.Listener[Stream]):
    """A listener that lets in as many as there are places for.

    Args:
        listener: Whose connections it lets in.
        connections: The places, which several doors may share.
    """

    listener: SocketListener | SSLListener
    connections: Connections

    async def accept(self) -> Stream:
        """Wait for the next connection, and for a place; the latter is then taken."""
        if self.connections.are_full:
            # Nobody is sent away for a place that nobody wants.
            await trio.lowlevel.wait_readable(socket_of(self.listener))
            await self.connections.wait_for_place()
        stream = await self.listener.accept()
        self.connections.take_place(stream)
        return stream

    async def aclose(self) -> None:
        """Close the listener."""
        await self.listener.aclose()


def socket_of(listener: SocketListener | SSLListener) -> trio.socket.SocketType:
    """Give the socket at which a listener listens."""
    beneath: Any = listener.transport_listener if isinstance(listener, trio.SSLListener) else listener
    found: trio.socket.SocketType = beneath.socket
    return found


async def serve_listeners(
    handler: Serve,
    listeners: Iterable[SocketListener | SSLListener],
    *,
    handler_nursery: trio.Nursery,
    connections: Connections | None = None,
) -> NoReturn:
    """Do as `trio.serve_listeners`, with as many connections at once as there are places for."""
    connections = Connections() if connections is None else connections
    await trio.serve_listeners(
        partial(connections.serve, handler),
        [Door(listener, connections) for listener in listeners],
        handler_nursery=handler_nursery,
    )
