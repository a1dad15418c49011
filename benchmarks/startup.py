"""How long it takes until it is there."""

from __future__ import annotations

import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.contestants import start_ours
from benchmarks.cores import WORKERS, pin
from benchmarks.figures import Amounts, Figure, at_most, median
from benchmarks.process import until
from benchmarks.webbuddy import open_webbuddy

__all__ = ["startup"]

# Without the interpreter's own end, which takes longer the more was imported.
IMPORT = "import os, trio_worker.cli.run; os._exit(0)"
LOOK = 0.01  # seconds between two looks whether it is ready


def startup(amounts: Amounts) -> list[Figure]:
    """Time the imports, the way from nothing to ready, and the help."""
    imports, ready, help_ = [], [], []
    for _ in range(amounts.starts):
        imports.append(_seconds("-c", IMPORT))
        ready.append(_until_ready())
        help_.append(_seconds("-m", "trio_worker", "--help"))
    beyond = median(whole - part for whole, part in zip(ready, imports, strict=True))
    return [
        at_most(
            f"start: ready, beyond the imports' {median(imports):.2f} s", beyond, 0.3, unit=" s", digits=2
        ),
        at_most("trio-worker --help", median(help_), 0.3, unit=" s", digits=2),
    ]


def _seconds(*arguments: str) -> float:
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=Path(__file__).parent.parent, stdout=subprocess.DEVNULL
    ) as process:
        pin(process.pid, WORKERS)
    return time.perf_counter() - began


def _until_ready() -> float:
    with open_webbuddy() as webbuddy:
        began = time.perf_counter()
        with start_ours(webbuddy.url) as process:
            address = urlsplit(process.url()).netloc
            until(lambda: _is_ready(address), "that the worker is ready", look=LOOK)
            return time.perf_counter() - began


def _is_ready(address: str) -> bool:
    connection = HTTPConnection(address)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    finally:
        connection.close()
