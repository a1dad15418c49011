"""The bus of many machines: a list in Redis or Valkey.

::

    trio-worker:wakeups:http://localhost:8000    "4711 81985529216486895", "0 1311768467463790320", …

Whoever has a consumer free waits for its end (``BRPOP``): Redis gives each hint to one, to whoever has waited
longest. Not published: of fifty idle workers each would hear of it, and nobody would keep what is said while
all are busy. By its key two WebBuddys share one Redis.
"""

from __future__ import annotations

import re
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Never

import structlog
import trio

from trio_worker.backoff import Backoff
from trio_worker.bus import MOST_HINTS, Bus, Hint
from trio_worker.bus_address import BusAddress
from trio_worker.redis_line import ANSWER_SECONDS, Command, Line, Lost
from trio_worker.route import trusted_context
from trio_worker.setting_kinds import bare_url
from trio_worker.trouble import Trouble

__all__ = ["ask_redis", "open_redis_bus"]

log = structlog.get_logger(__name__)

BATCH_SECONDS = 0.05
"""Between two batches of hints: under full load a worker offers hundreds a second, in twenty calls then."""

WAIT_SECONDS = 2
"""For which Redis waits for a hint at a time. If it says nothing then, for `ANSWER_SECONDS`, it is gone.

Who becomes busy is still given one in this time, and hands it back, which takes a call. To end the wait
instead would end the connection, whenever a consumer claims."""

KEPT_SECONDS = 60
"""For which Redis keeps what nobody takes: every worker has looked by itself since."""

LAST_SECONDS = 0.5
"""At the end, for what a worker that stops has put back and others are to know of."""

_HINT = re.compile(rb"([0-9]{1,19}) ([0-9]{1,19})")


@asynccontextmanager
async def open_redis_bus(
    address: BusAddress, webbuddy_url: str, *, ca_file: Path | None = None
) -> AsyncIterator[Bus]:
    """Share wake-ups over Redis, as long as it is there; without it nothing is shared, and that is said.

    Connects in the background, and again whenever the connection is lost.

    Args:
        address: Where Redis is.
        webbuddy_url: Of whose queries this is: the key's name.
        ca_file: For TLS, the certificates of who is trusted; None: those who usually are.

    Raises:
        SettingsError: The certificates can't be read.
    """
    context = await _context(address, ca_file)
    async with trio.open_nursery() as nursery:
        bus = _RedisBus(address, webbuddy_url, partial(Line, address, context, nursery))
        nursery.start_soon(bus.send)
        try:
            yield bus
        finally:
            with trio.move_on_after(LAST_SECONDS, shield=True):
                await bus.send_the_rest()
            nursery.cancel_scope.cancel()


async def ask_redis(address: BusAddress, webbuddy_url: str, *, ca_file: Path | None = None) -> str | None:
    """Ask whether wake-ups could be shared now, by a write that changes nothing.

    Args:
        address: As of `open_redis_bus`.
        webbuddy_url: As there.
        ca_file: As there.

    Returns:
        Why not, as a sentence; None: they could.

    Raises:
        SettingsError: As there.
    """
    context = await _context(address, ca_file)
    trouble = None
    async with trio.open_nursery() as nursery:
        bus = _RedisBus(address, webbuddy_url, partial(Line, address, context, nursery))
        try:
            await bus.send_batch()
        except Lost as lost:
            trouble = f"{address}: {lost}"
        nursery.cancel_scope.cancel()
    return trouble


async def _context(address: BusAddress, ca_file: Path | None) -> ssl.SSLContext | None:
    return await trio.to_thread.run_sync(trusted_context, ca_file) if address.tls else None


class _RedisBus:
    """Hints as text, ``query sender``. One connection sends them, and another waits for those of others."""

    def __init__(self, address: BusAddress, webbuddy_url: str, line: Callable[[], Line]) -> None:
        self._address = address
        self._key = f"trio-worker:wakeups:{bare_url(webbuddy_url)}".encode()
        self._sending, self._waiting = line(), line()
        self._pending: deque[Hint] = deque(maxlen=MOST_HINTS)
        self._gathered = trio.Event()
        self._reasons: dict[str, str] = {}
        self._said = Trouble(
            log,
            "wake-ups are not shared meanwhile: queries are found by push and poll",
            over="wake-ups are shared again",
        )

    @property
    def trouble(self) -> str | None:
        for reason in self._reasons.values():
            return (
                f"wake-ups are not shared over {self._address} ({reason}): queries are found by push and poll"
            )
        return None

    def offer(self, hint: Hint) -> None:
        self._pending.append(hint)
        self._gathered.set()

    async def take(self, wanted: Callable[[], bool]) -> Hint | None:
        pauses = _pauses()
        while True:
            try:
                answer = await self._wait()
            except Lost as lost:
                self._fails("taking", str(lost))
                await trio.sleep(pauses.next())
                continue
            self._works("taking")
            pauses.reset()
            if answer is not None:
                return _hint(answer)
            # Only now: somebody has to see that trouble is over, and all may be busy.
            if not wanted():
                return None

    async def clear(self) -> bool:
        try:
            (dropped,) = await self._sending.ask((b"DEL", self._key))
        except Lost:
            return False  # who sends, or takes the next one, says why
        return bool(dropped == 1)

    async def send(self) -> Never:
        """Send what is offered. Where that fails it is tried again, and be it with nothing to be sent."""
        pauses = _pauses()
        while True:
            try:
                await self.send_batch()
            except Lost as lost:
                self._fails("sending", str(lost))
                await trio.sleep(pauses.next())
                self._pending.clear()  # whoever it was for has been found by push, or looks by itself
                continue
            self._works("sending")
            pauses.reset()
            await trio.sleep(BATCH_SECONDS)
            await self._gathered.wait()

    async def send_the_rest(self) -> None:
        """Send what has been offered and not been sent; not where that can't be done now."""
        if not self._pending or self._reasons:
            return
        try:
            await self.send_batch()
        except Lost:
            log.debug("the last wake-ups were not shared")

    async def send_batch(self) -> None:
        """Send what has gathered, in one go.

        Raises:
            Lost: It did not get through, or nobody knows. It is not sent again.
        """
        hints = [b"%d %d" % (hint.query, hint.sender) for hint in self._pending]
        self._pending.clear()
        self._gathered = trio.Event()
        commands: list[Command] = [
            (b"LTRIM", self._key, b"0", b"%d" % (MOST_HINTS - 1)),
            (b"EXPIRE", self._key, b"%d" % KEPT_SECONDS),
        ]
        # Beside nothing, nothing is inserted: but a Redis that is full refuses that as it refuses a hint.
        probe: Command = (b"LINSERT", self._key, b"BEFORE", b"", b"")
        commands.insert(0, (b"LPUSH", self._key, *hints) if hints else probe)
        await self._sending.ask(*commands)

    async def _wait(self) -> Any:
        """Ask Redis to wait for a hint. None: there was none."""
        began = trio.current_time()
        seconds = WAIT_SECONDS + ANSWER_SECONDS
        (answer,) = await self._waiting.ask((b"BRPOP", self._key, b"%d" % WAIT_SECONDS), seconds=seconds)
        # Of a server that lies the next answer would be as quick, and so on.
        if answer is None and trio.current_time() - began < WAIT_SECONDS / 2:
            raise Lost("it does not wait for wake-ups")
        return answer

    def _fails(self, what: str, reason: str) -> None:
        self._reasons[what] = reason
        self._said.happened(bus=str(self._address), reason=reason)

    def _works(self, what: str) -> None:
        if self._reasons.pop(what, None) is not None and not self._reasons:
            self._said.is_over(bus=str(self._address))


def _pauses() -> Backoff:
    return Backoff(first=0.5, most=10.0)


def _hint(answer: Any) -> Hint:
    """Read a hint; of what anybody else has put there, only that something may wait."""
    match answer:
        case [_, bytes(text)] if found := _HINT.fullmatch(text):
            return Hint(*map(int, found.groups()))
    return Hint(0, 0)
