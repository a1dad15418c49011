"""Server-sent events: the overview, whenever it has changed, to those who look."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable
from typing import Any

import trio
from quart.wrappers.response import ResponseBody

from trio_worker import clock
from trio_worker.joint_overview import join
from trio_worker.neighbours import Heard, Neighbours

__all__ = ["BEAT", "EVERY", "MOST_LOOKERS", "Snapshots", "StatusStream"]

EVERY = 1.0
"""Seconds between two snapshots."""

BEAT = 3.0
"""Seconds of silence after which something is sent: the page takes a longer silence for a lost connection."""

MOST_LOOKERS = 8
"""Who else comes is told to try again later: looking must not cost what queries need."""

SOON, LATER = 1_000, 10_000  # milliseconds after which a browser tries again

Source = Callable[[], dict[str, Any]]


class Snapshots:
    """Makes a snapshot at most once in `EVERY` seconds, however many look, and none while nobody does.

    Args:
        source: What is shown until `show` is called.
        neighbours: The other processes behind our address, which are asked for theirs.

    Attributes:
        lookers: How many look.
        over: Set when there is nothing to be shown any more.
    """

    def __init__(self, source: Source, neighbours: Neighbours | None = None) -> None:
        self._source = source
        self._neighbours = Neighbours() if neighbours is None else neighbours
        self._heard = Heard()
        self._heard_until = -math.inf
        self._asking = trio.Lock()
        self._text = b""
        self._good_until = -math.inf
        self.lookers = 0
        self.over = trio.Event()

    def show(self, source: Source) -> None:
        """Show this from now on.

        Args:
            source: Makes what becomes JSON. Synchronous.
        """
        self._source, self._good_until = source, -math.inf

    def newest(self) -> dict[str, Any]:
        """Make a snapshot of this process."""
        return self._source()

    async def of_all(self) -> dict[str, Any]:
        """Make a snapshot of all processes. The others are asked at most once in `EVERY` seconds."""
        async with self._asking:
            if trio.current_time() >= self._heard_until:
                self._heard = await self._neighbours.hear("overview")
                self._heard_until = trio.current_time() + EVERY
        return join({**self._heard.answers, self._neighbours.number: self._source()}, self._heard.silent)

    async def text(self) -> bytes:
        """Give the newest of all processes as JSON, without a line break."""
        if trio.current_time() >= self._good_until:
            self._text = json.dumps(await self.of_all(), separators=(",", ":")).encode()
            self._good_until = trio.current_time() + EVERY / 2  # those who look do not do so in step
        return self._text


class StatusStream(ResponseBody):
    """The body of one answer. It has no end of its own but that of the service.

    The server cuts off who does not read (`FixedHTTPConnection`) or hangs up; the place is free again then.

    Args:
        snapshots: What is sent.
        packed: Whether as gzip: one snapshot is much like the last, and 10 kB a second are a lot for a phone.
    """

    def __init__(self, snapshots: Snapshots, *, packed: bool = False) -> None:
        self._snapshots = snapshots
        self._packer = zlib.compressobj(wbits=16 + zlib.MAX_WBITS) if packed else None
        self._has_place = False
        self._sent: bytes | None = None
        self._sent_at = -math.inf
        self._is_over = False

    async def __aenter__(self) -> StatusStream:
        self._has_place = self._snapshots.lookers < MOST_LOOKERS
        self._snapshots.lookers += self._has_place
        return self

    async def __aexit__(self, *_: object) -> None:
        self._snapshots.lookers -= self._has_place

    def __aiter__(self) -> StatusStream:
        return self

    async def __anext__(self) -> bytes:
        if self._is_over:
            raise StopAsyncIteration
        if not self._has_place:
            self._is_over = True
            return self._packed(_event("full", str(MOST_LOOKERS).encode(), retry=LATER))
        if self._sent is None:
            return self._take(await self._snapshots.text(), retry=SOON)
        while True:
            with trio.move_on_after(EVERY):
                await self._snapshots.over.wait()
                self._is_over = True
                return self._packed(b": over\n\n")
            text = await self._snapshots.text()
            if text != self._sent:
                return self._take(text)
            if trio.current_time() - self._sent_at >= BEAT:
                self._sent_at = trio.current_time()
                return self._packed(_event("beat", b"%.3f" % clock.now()))

    def _take(self, text: bytes, retry: int | None = None) -> bytes:
        self._sent, self._sent_at = text, trio.current_time()
        # Beside the snapshot, which is sent only when it has changed.
        return self._packed(_event("snapshot", b'{"now":%.3f,"is":%b}' % (clock.now(), text), retry=retry))

    def _packed(self, event: bytes) -> bytes:
        if self._packer is None:
            return event
        # So much that the browser has all of the event at once.
        rest = zlib.Z_FINISH if self._is_over else zlib.Z_SYNC_FLUSH
        return self._packer.compress(event) + self._packer.flush(rest)


def _event(name: str, data: bytes, retry: int | None = None) -> bytes:
    head = b"" if retry is None else b"retry: %d\n" % retry
    return b"%bevent: %b\ndata: %b\n\n" % (head, name.encode(), data)
