"""The demo's worker: ``trio-worker run`` in a process of its own, as an operator would start it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from trio_worker.settings import VARIABLES

__all__ = ["NAME", "TIME_LIMIT", "DemoWorker", "start_worker"]

NAME = "demo-worker"
TIME_LIMIT = 3.0  # seconds for one query
POLLING_INTERVAL = 2.0
GRACE = 5.0  # seconds; nothing of the demo needs them
STOP_SECONDS = 10.0  # from the signal until it is killed
KILL_SECONDS = 5.0

_LISTENS = re.compile(r"Running on (http://\S+)")


@attrs.frozen
class DemoWorker:
    """The worker's process, and its log.

    Attributes:
        process: The process.
        log: The file that it logs to.
    """

    process: trio.Process
    log: Path

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return self.process.returncode

    def url(self) -> str | None:
        """Where it listens; None as long as it does not.

        Read from its log: it lets the system choose the port, since one that was found free
        beforehand may be somebody else's by now.
        """
        found = _LISTENS.search(self._text())
        return found[1] if found else None

    def last_lines(self, count: int) -> list[str]:
        """The end of its log."""
        return self._text().splitlines()[-count:]

    def _text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


@asynccontextmanager
async def start_worker(webbuddy_url: str, directory: Path, *, consumers: int) -> AsyncIterator[DemoWorker]:
    """Run a worker. At the end it is stopped, by force if need be.

    Args:
        webbuddy_url: Whom it works for.
        directory: Its working directory, where its log and its journal are written. Not the user's own,
            whose ``.env`` is about something else.
        consumers: ``NUM_WORKERS``.
    """
    log = directory / "worker.log"
    with log.open("wb") as file:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "trio_worker", "run"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=_environment(webbuddy_url, directory, consumers),
        )
    try:
        yield DemoWorker(process, log)
    finally:
        with trio.move_on_after(STOP_SECONDS, shield=True):
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)  # the second signal: now. Two of the same could be merged
            await process.wait()
        if process.returncode is None:
            process.kill()
            with trio.move_on_after(KILL_SECONDS, shield=True):
                await process.wait()


def _environment(webbuddy_url: str, directory: Path, consumers: int) -> dict[str, str]:
    """The environment of this process, with the demo's settings and nobody else's."""
    names = {variable.name for variable in VARIABLES}
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    return inherited | {
        "WEBBUDDY_URL": webbuddy_url,
        "WORKER_USERNAME": "worker",
        "WORKER_PASSWORD": "secret",
        "WORKER_HANDLER": "trio_worker.cli.demo_handler:handle",
        "WORKER_BIND": "127.0.0.1:0",
        "WORKER_LOG_FORMAT": "pretty",
        "WORKER_NAME": NAME,
        "WORKER_PROCESSING_TIMEOUT": f"{TIME_LIMIT:g}",
        "WORKER_SHUTDOWN_GRACE": f"{GRACE:g}",
        # Not the user's own, where a real worker of theirs may have its journal.
        "WORKER_STATE_DIR": str(directory / "state"),
        "POLLING_INTERVAL": f"{POLLING_INTERVAL:g}",
        "NUM_WORKERS": str(consumers),
        # Not by way of a proxy; urllib reads the lower-case name first.
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
