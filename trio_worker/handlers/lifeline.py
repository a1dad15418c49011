"""Lifelines: the kernel kills what this process has started when this process dies, however it does."""

# Why not a guardian, a small process that is told of each group and kills what is left when a pipe from us
# ends: it has to be kept alive itself, and numbers of groups may be others' by then, while what the kernel
# keeps is the group and not its number. Why not PR_SET_PDEATHSIG: it has to be set in the child, between
# fork and exec, and spares what that has started.

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

__all__ = ["end_with", "open_lifeline"]

log = structlog.get_logger(__name__)

_has_warned = False


@contextmanager
def open_lifeline() -> Iterator[int]:
    """Open a pipe of which only this process has the one end; nothing is ever written there.

    Yields:
        The other end: for `end_with`, and to be inherited by those who are to end with this process.
        The signal is sent as long as anybody has that open, this process included.
    """
    held, ours = os.pipe()
    try:
        yield held
    finally:
        os.close(held)
        os.close(ours)


def end_with(held: int, group: int) -> None:
    """Have the kernel kill a process group once the other end of a lifeline is closed.

    Only Linux has this; elsewhere it does nothing. Where a sandbox refuses it, that is one warning in the
    life of this process, and all else works.

    Args:
        held: The end of the lifeline that is held by those who are to end.
        group: The number of the group, whose leader is not reaped yet.
    """
    if not hasattr(fcntl, "F_SETSIG"):
        return
    try:
        fcntl.fcntl(held, fcntl.F_SETOWN, -group)
        fcntl.fcntl(held, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(held, fcntl.F_SETFL, fcntl.fcntl(held, fcntl.F_GETFL) | os.O_ASYNC)
    except OSError as error:
        _warn_once(error)


def _warn_once(error: OSError) -> None:
    global _has_warned
    if not _has_warned:
        _has_warned = True
        log.warning(
            "what this worker starts would outlive a kill -9 of it: the system refuses to see to that",
            reason=error.strerror,
        )
