"""Running a command of ours to its end, as an operator does: a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import attrs
import trio

from tests.processes import TOO_LONG

__all__ = ["Ended", "environment", "run_command"]


@attrs.frozen
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str


def environment(webbuddy_url: str, **environ: str) -> dict[str, str]:
    """The environment of a command: a good one, changed by ``environ``; ``""`` takes a variable away."""
    ours = ("WORKER_", "NUM_", "WEBBUDDY_", "POLLING_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    good = {
        "WEBBUDDY_URL": webbuddy_url,
        "WORKER_USERNAME": "member",
        "WORKER_PASSWORD": "secret",
        "WORKER_HANDLER": "trio_worker.handlers:echo",
        "WORKER_BIND": "127.0.0.1:0",
        "WORKER_STATE_DIR": "state",  # below the working directory, which is the test's
    }
    return inherited | {name: value for name, value in (good | environ).items() if value}


async def run_command(directory: Path, *arguments: str, webbuddy_url: str, **environ: str) -> Ended:
    """Run ``trio-worker`` with these arguments.

    Args:
        directory: The working directory.
        *arguments: What comes after ``trio-worker``.
        webbuddy_url: ``WEBBUDDY_URL``.
        **environ: As in `environment`.
    """
    with trio.fail_after(TOO_LONG):
        ended = await trio.run_process(
            [sys.executable, "-m", "trio_worker", *arguments],
            stdin=subprocess.DEVNULL,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=directory,
            env=environment(webbuddy_url, **environ),
            deliver_cancel=_kill,
        )
    return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


async def _kill(process: trio.Process) -> None:
    process.kill()
