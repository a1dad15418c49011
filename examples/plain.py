"""A plain function: it runs in a thread, so that blocking calls are fine.

WORKER_HANDLER=plain:handle trio-worker run
"""

from __future__ import annotations

import platform
import subprocess
import sys

from trio_worker import Context, Query


def handle(query: Query, ctx: Context) -> str:
    """Run a program and answer with what it prints."""
    ctx.log(f"on {platform.node()}")
    program = [sys.executable, "-c", "import sys; print(sys.argv[1].upper())", query.query_text]
    # Its own time limit: a thread can't be stopped at the worker's.
    result = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True)  # noqa: S603
    return result.stdout
