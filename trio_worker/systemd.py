"""Telling systemd how the worker is: ``Type=notify``, and its watchdog.

A few lines of our own: the packages for it send the same datagram, and know nothing of Trio and of our
loops. See sd_notify(3).
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Mapping, MutableMapping

import attrs
import structlog
import trio

from trio_worker.stop import Stop

__all__ = ["Systemd"]

log = structlog.get_logger(__name__)

START_LOOK = 0.2  # seconds between two looks whether it has started
LOOK = 5.0  # seconds between two looks at what there is to be said
LONGEST_STATUS = 200  # characters
NOT_STARTED = {"service", "handler"}
"""The questions of readiness that hold READY back. Not WebBuddy's: one that is down at the start is waited
for, while systemd would end the worker after TimeoutStartSec."""


@attrs.define(eq=False)
class Systemd:
    """The service manager that has started this process.

    Attributes:
        address: Of its socket.
        watchdog: Seconds within which it wants to hear from us; infinite: it does not.
    """

    address: str
    watchdog: float = math.inf
    _is_silent: bool = attrs.field(default=False, init=False)

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> Systemd | None:
        """Find it; None when it has not started us, or does not want to hear from us.

        Its variables are taken out: a program that a handler starts is not meant.
        """
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        if not address.startswith(("/", "@")):
            return None
        is_meant = microseconds.isdecimal() and int(microseconds) > 0 and pid in ("", str(os.getpid()))
        return cls(address, int(microseconds) / 1e6 if is_meant else math.inf)

    async def keep_informed(
        self, *, readiness: Callable[[], Mapping[str, str]], late: Callable[[], Mapping[str, str]], stop: Stop
    ) -> None:
        """Say when the worker is ready, what it does, and that it is alive, as long as it is. Never returns.

        Args:
            readiness: Gives why it is not ready, as ``/readyz`` does.
            late: Gives which loops are late, as ``/livez`` does: then the watchdog is not fed.
            stop: Whether it was asked for. A drain is none: systemd would kill after TimeoutStopSec.
        """
        is_ready = is_stopping = False
        said = ""
        while True:
            reasons, lines = readiness(), []
            if not is_ready and not reasons.keys() & NOT_STARTED:
                is_ready = True
                lines.append("READY=1")
            if not is_stopping and stop.limited.is_set():
                is_stopping = True
                lines.append("STOPPING=1")
            if (status := _status(reasons, late())) != said:
                said = status
                lines.append(f"STATUS={status}")
            if self.watchdog < math.inf and not late():
                lines.append("WATCHDOG=1")
            self.say(*lines)
            with trio.move_on_after(min(LOOK, self.watchdog / 2) if is_ready else START_LOOK):
                if is_stopping:
                    await trio.sleep_forever()
                await stop.limited.wait()

    def say(self, *lines: str) -> None:
        """Send it. What does not go out at once is lost: the next will."""
        if not lines:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode("utf-8", "replace"), address)
        except OSError as error:
            if not self._is_silent:
                log.warning("systemd can't be told how the worker is", socket=self.address, reason=str(error))
            self._is_silent = True
        else:
            self._is_silent = False


def _status(reasons: Mapping[str, str], late: Mapping[str, str]) -> str:
    if not reasons and not late:
        return "takes queries"
    told = {**late, **reasons}
    text = "; ".join(f"{name}: {reason}" for name, reason in told.items())
    return " ".join(text.split())[:LONGEST_STATUS]
