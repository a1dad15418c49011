"""How many connections are served at once, whoever opens however many.

hypercorn takes every connection at once and starts a task for it. With 10 000 of them a turn of the event
loop took half a second and a claim several, and the memory stayed. So here only some are served, and the rest
waits in the kernel's queue, where it costs us nothing. A push that is not heard within WebBuddy's 2 seconds
is a hint that is lost: claims that find queries which nobody has named go on until the queue is empty.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from functools import partial
from typing import Any, NoReturn

import attrs
import trio

__all__ = ["BACKLOG", "MOST", "PATIENCE", "SILENCE", "Connections", "heard", "serve_listeners", "socket_of"]

MOST = 64
"""Connections served at once: a turn of the loop then takes 4 ms at most, in a storm of pushes."""

PATIENCE = 0.25
"""Seconds since its last byte after which a connection may be closed in favour of one that waits. A push
takes milliseconds, so that is an idle one, or a client that dawdles; a proxy's, which is in use, is none."""

SILENCE = 0.1
"""The same for one that has never said anything: a client has its request ready when it connects. So 600 that
say nothing keep the next one waiting for a second, of the two that WebBuddy has."""

TURN = 0.5
"""Seconds for which a connection that is in use may stay while others wait and none is idle. Else 64 clients
that send a byte now and then, or ask again and again, would keep everybody out, and an orchestrator whose
probe is not heard kills a worker that is well."""

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
    _places: dict[Stream, _Place] = attrs.field(factory=dict, init=False)
    _wanted_since: float = attrs.field(default=math.inf, init=False)
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

        The connection is closed for it that has said nothing for longest; if none is idle, the oldest.
        Cancelled, this may have closed one for nobody.
        """
        self._wanted_since = min(self._wanted_since, trio.current_time())
        while self.are_full:
            with trio.move_on_at(self._first_to_go()[1]):
                await self._left.park()
                continue
            # It may have said something meanwhile, and another may have left in this very moment.
            place, goes_at = self._first_to_go()
            if place is not None and goes_at <= trio.current_time() and self.are_full:
                place.scope.cancel()
                with trio.move_on_after(PARTING):
                    await self._left.park()

    def _first_to_go(self) -> tuple[_Place | None, float]:
        """Whose place is another's next, and from when on; who is idle goes before who is not."""
        staying = [place for place in self._places.values() if not place.scope.cancel_called]
        if not staying:
            return None, math.inf
        idle = min(staying, key=lambda place: place.may_go_at)
        oldest = staying[0]
        turn_over_at = max(oldest.taken_at, self._wanted_since) + TURN
        if idle.may_go_at <= max(turn_over_at, trio.current_time()):
            return idle, idle.may_go_at
        return oldest, turn_over_at

    def take_place(self, stream: Stream) -> None:
        """Count one more, for which `serve` is called next."""
        now = trio.current_time()
        self._places[stream] = _Place(now, now + SILENCE)
        if not self.are_full:
            self._wanted_since = math.inf  # nobody else waits

    async def serve(self, handler: Serve, stream: Stream) -> None:
        """Serve one, which has taken a place, until its handler has ended or its place is needed."""
        place = self._places[stream]
        _here.set(place)
        try:
            with place.scope:
                await handler(stream)
        finally:
            del self._places[stream]
            self._left.unpark()


@attrs.define
class _Place:
    taken_at: float
    may_go_at: float
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)


_here: ContextVar[_Place | None] = ContextVar("_here", default=None)


def heard() -> None:
    """The connection that this task serves, or its parent, has said something."""
    place = _here.get()
    if place is not None:
        place.may_go_at = trio.current_time() + PATIENCE


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
