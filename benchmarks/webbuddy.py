"""Starts the benchmarks' WebBuddy (`benchmarks.server`), and talks to it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.cores import REFEREE, pin
from benchmarks.process import ROOT, TOO_LONG, until

__all__ = ["TEXT", "Counts", "FastWebBuddy", "open_webbuddy"]

TEXT = "Протестировать авторизацию"

Counts = dict[str, Any]


class FastWebBuddy:
    """A WebBuddy in a process of its own.

    Attributes:
        url: Where it listens.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._commands, self._answers = process.stdin, process.stdout
        self.url = self._answers.readline().decode().strip()

    def tell(self, do: str, **arguments: object) -> Any:
        """Give a command; see `benchmarks.control.Control` for which there are."""
        self._commands.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self._commands.flush()
        return json.loads(self._answers.readline())

    def counts(self) -> Counts:
        """What has happened so far."""
        counts: Counts = self.tell("counts")
        return counts

    def until(
        self, condition: Callable[[Counts], bool], what: str, *, look: float = 0.02, within: float = TOO_LONG
    ) -> Counts:
        """Wait for something to happen, and give the counts of that moment."""
        counts: Counts = {}

        def holds() -> bool:
            nonlocal counts
            counts = self.counts()
            return condition(counts)

        until(holds, what, look=look, within=within)
        return counts


@contextmanager
def open_webbuddy() -> Iterator[FastWebBuddy]:
    """Start one. It ends with the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.server"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        pin(process.pid, REFEREE)
        try:
            yield FastWebBuddy(process)
        finally:
            process.kill()
