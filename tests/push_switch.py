"""Where WebBuddy pushes to, while workers come and go on ports of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import attrs
import trio

__all__ = ["PushSwitch", "open_push_switch"]


@attrs.define(eq=False)
class PushSwitch:
    """Hands each connection on to a worker that is there, each in its turn, or closes it.

    Attributes:
        url: Where it listens.
    """

    url: str = ""
    _workers: list[str] = attrs.field(factory=list)

    @contextmanager
    def to(self, url: str) -> Iterator[None]:
        """Hand pushes to this worker, too, as long as the block lasts."""
        self._workers.append(url)
        try:
            yield
        finally:
            self._workers.remove(url)

    async def carry(self, pusher: trio.SocketStream) -> None:
        """Carry one connection."""
        if not self._workers:
            return
        self._workers.append(url := self._workers.pop(0))
        host, _, port = url.removeprefix("http://").partition(":")
        try:
            async with await trio.open_tcp_stream(host, int(port)) as worker, trio.open_nursery() as nursery:
                nursery.start_soon(_pump, pusher, worker)
                await _pump(worker, pusher)
                nursery.cancel_scope.cancel()
        except OSError:
            pass  # nobody is there any more


async def _pump(source: trio.SocketStream, target: trio.SocketStream) -> None:
    try:
        async for chunk in source:
            await target.send_all(chunk)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


@asynccontextmanager
async def open_push_switch() -> AsyncIterator[PushSwitch]:
    """Listen for pushes on any free port."""
    switch = PushSwitch()
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    switch.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, switch.carry, [listener])
        yield switch
        nursery.cancel_scope.cancel()
