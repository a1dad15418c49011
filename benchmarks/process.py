"""A process that is measured from outside: its processor time, memory, files. Needs Linux's /proc."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from benchmarks.cores import pin

__all__ = ["ROOT", "NotReadyError", "Process", "start", "until"]

ROOT = Path(__file__).parent.parent
TOO_LONG = 120.0  # seconds
LOOK = 0.02  # seconds between two looks whether something has come
PAGE = os.sysconf("SC_PAGE_SIZE")


class NotReadyError(Exception):
    """What was waited for did not come."""


@attrs.frozen
class Process:
    """A process, with all that it has started.

    Attributes:
        pid: Its number.
        output: The file into which it prints.
    """

    pid: int
    output: Path

    def cpu(self) -> float:
        """Give the seconds of processor time that it and its living children have used."""
        # The clock of another process (clock_getcpuclockid): in nanoseconds, threads that ended included;
        # /proc counts in hundredths of a second.
        return sum(time.clock_gettime(~pid << 3 | 2) for pid in self._family())

    def memory(self) -> float:
        """Give its resident memory, its children's included, in MB."""
        pages = (Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in self._family())
        return sum(int(number) * PAGE for number in pages) / 1e6

    def files(self) -> int:
        """Count its open files."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def url(self) -> str:
        """Wait until it says where it listens."""
        until(lambda: "Running on http://" in self.printed(), f"the URL of process {self.pid}", look=0.002)
        return "http://" + self.printed().split("Running on http://")[1].split()[0]

    def printed(self) -> str:
        """Read what it has printed."""
        return self.output.read_text(encoding="utf-8", errors="replace")

    def _family(self) -> list[int]:
        found = [self.pid]
        for pid in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, children.read_text().split())
        return found


@contextmanager
def start(
    arguments: Sequence[str],
    *,
    directory: Path,
    cores: list[int],
    environ: Mapping[str, str],
) -> Iterator[Process]:
    """Start Python, in a process group of its own that is killed at the end.

    Args:
        arguments: For the interpreter.
        directory: Where it runs, and prints into a file.
        cores: Where it runs.
        environ: More variables.
    """
    output = directory / "output"
    with output.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=directory,
            env=_environ() | dict(environ),
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    pin(child.pid, cores)
    process = Process(child.pid, output)
    try:
        yield process
    except (NotReadyError, ProcessLookupError, FileNotFoundError) as error:
        # It is more likely to say why than we are.
        end = "\n".join(process.printed().splitlines()[-20:])
        raise NotReadyError(f"{error}\n`python {' '.join(arguments)}` printed:\n{end}") from error
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _environ() -> dict[str, str]:
    """This program's own, without what would set up a worker otherwise."""
    ours = ("WORKER_", "WEBBUDDY_", "NUM_", "POLLING_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return inherited | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def until(condition: Callable[[], bool], what: str, *, look: float = LOOK, within: float = TOO_LONG) -> None:
    """Wait for something.

    Args:
        condition: Whether it has come.
        what: Names it, for the error.
        look: Seconds between two looks.
        within: Seconds.

    Raises:
        NotReadyError: It has not come.
    """
    end = time.monotonic() + within
    while not condition():
        if time.monotonic() > end:
            raise NotReadyError(f"{what} has not come within {within:g} s")
        time.sleep(look)
