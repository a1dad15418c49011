"""Who is compared: this worker, and what people would write instead of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from benchmarks.cores import WORKERS
from benchmarks.process import Process, start

__all__ = [
    "CONTESTANTS",
    "DOCUMENTED",
    "LIMIT",
    "OURS",
    "PLAIN",
    "folder",
    "missing",
    "start_contestant",
    "start_ours",
]

OURS, DOCUMENTED, PLAIN, LIMIT = "trio-worker", "documented example", "plain httpx", "hand-written limit"
CONTESTANTS = (DOCUMENTED, PLAIN, OURS, LIMIT)

MODULES = {DOCUMENTED: "documented", PLAIN: "plain", LIMIT: "limit"}
NEEDS = ("fastapi", "uvicorn", "requests")

PASSWORD = "secret"  # noqa: S105 - the fast WebBuddy checks none

ON_A_DISK = "/var/tmp"  # noqa: S108 - where /tmp is often memory, which would make the journal a cheap one


def missing(name: str) -> str | None:
    """Say why a contestant can't take part; None: it can."""
    absent = [module for module in NEEDS if find_spec(module) is None]
    return "not measured: pip install -e '.[bench]'" if name == DOCUMENTED and absent else None


@contextmanager
def folder() -> Iterator[Path]:
    """A folder of one process, on a disk."""
    place = ON_A_DISK if Path(ON_A_DISK).is_dir() else None
    with tempfile.TemporaryDirectory(prefix="trio-worker-benchmark-", dir=place) as directory:
        yield Path(directory)


@contextmanager
def start_contestant(name: str, url: str, consumers: int, logs: int) -> Iterator[Process]:
    """Start one against a WebBuddy.

    Args:
        name: Which.
        url: WebBuddy's.
        consumers: How many queries it works on at once.
        logs: How many log entries it writes for a query; ours decides by itself.
    """
    if name == OURS:
        with start_ours(url, consumers) as process:
            yield process
        return
    module = f"benchmarks.comparators.{MODULES[name]}"
    environ = {
        "WEBBUDDY_URL": url,
        "WORKER_USERNAME": "worker",
        "WORKER_PASSWORD": "secret",
        "NUM_WORKERS": str(consumers),
        "LOGS": str(logs),
    }
    with (
        folder() as directory,
        start(["-m", module], directory=directory, cores=WORKERS, environ=environ) as process,
    ):
        yield process


@contextmanager
def start_ours(
    url: str,
    consumers: int = 5,
    *,
    command: tuple[str, ...] = ("trio_worker", "run"),
    cores: list[int] = WORKERS,
    password: str = PASSWORD,
    **more: str,
) -> Iterator[Process]:
    """Start this worker, with everything as it is by default: the journal on disk, the log, the watchdog."""
    environ = {
        "WEBBUDDY_URL": url,
        "WORKER_USERNAME": "worker",
        "WORKER_PASSWORD": password,
        "WORKER_HANDLER": "benchmarks.handler:handle",
        "WORKER_BIND": "127.0.0.1:0",
        "NUM_WORKERS": str(consumers),
    }
    with folder() as directory:
        environ = {**environ, "WORKER_STATE_DIR": str(directory / "state"), **more}
        with start(["-m", *command], directory=directory, cores=cores, environ=environ) as process:
            yield process
