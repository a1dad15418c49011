"""A session: a process that leads one, and all that it has started, in whatever process groups these are."""

# Why not the group alone: `timeout`, and a shell with job control, put what they run into a group of its own.
# Why not a cgroup: it takes rights that a worker seldom has.

from __future__ import annotations

import os
import signal
import sys

__all__ = ["signal_session"]

_LOOKS = 5  # who is started while we look is found by the next look; SIGKILL leaves nobody who starts more


def signal_session(leader: int, number: signal.Signals) -> None:
    """Send a signal to all of a session; elsewhere than on Linux, only to the group of its leader.

    Who has left the session (``setsid``) is not reached. Costs about 2 µs for each process of the system.

    Args:
        leader: The number of the process that leads it. Not to be called once that was reaped: its number
            may be another's then.
        number: The signal.
    """
    try:
        os.killpg(leader, number)
    except (ProcessLookupError, PermissionError):
        # All of it has exited: macOS says the latter then. Linux does where each of them runs as another
        # user (sudo), whom we can't do anything about.
        pass
    if sys.platform == "linux":
        _signal_other_groups(leader, number)


def _signal_other_groups(leader: int, number: signal.Signals) -> None:
    signalled = set[int]()
    for _ in range(_LOOKS):
        new = 0
        for name in _numbers():
            if name.isdecimal() and (pid := int(name)) not in signalled and _is_astray(pid, leader):
                # Numbers are given out in turn: in this microsecond it does not become another's.
                _send(pid, number)
                signalled.add(pid)
                new += 1
        if not new:
            return


def _numbers() -> list[str]:
    try:
        return os.listdir("/proc")
    except OSError:
        return []  # it is not mounted, or no more files can be open


def _is_astray(pid: int, leader: int) -> bool:
    """Whether a process belongs to a session, and not to the group of its leader."""
    try:
        return os.getsid(pid) == leader != os.getpgid(pid)
    except (ProcessLookupError, PermissionError):
        return False  # gone meanwhile; or another's, in a system that does not tell


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # as above
