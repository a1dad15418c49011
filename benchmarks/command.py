"""What a ``command:`` query costs beyond its program's own time: ``python -m benchmarks.command``.

In pairs, one right after the other: a program by `trio.run_process` alone, which gives it the same input and
captures the same output; and the same program as a handler. The difference is what the process group, the
environment, the lines and the orderly end cost; ``extra_ms`` is its median over the pairs.

Two programs: ``true`` does nothing at all; ``agent`` reads its query, writes ten lines and an answer.
``at_once`` is the wall time of a query when so many run at the same time, all in all divided by their number.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import trio

from trio_worker.context import Context
from trio_worker.handlers.command import Command, parse_command
from trio_worker.query import Query

QUERY = Query(id=7, project=1, user=2, query_text="Протестировать авторизацию", status="in_progress")
INPUT = json.dumps(QUERY.to_json()).encode()
AGENT = """#!/bin/sh
read query
for line in 1 2 3 4 5 6 7 8 9 10; do echo "step $line" >&2; done
echo "An answer of the usual length, in one sentence."
"""
AT_ONCE = 20


class Desk:
    """Behind the context here is nothing but a list."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)

    def deadline(self) -> datetime:
        return datetime.now(UTC)


async def alone(command: Command) -> None:
    """The program, run by Trio's own means."""
    await trio.run_process(
        command.words, stdin=INPUT, capture_stdout=True, capture_stderr=True, cwd=command.directory
    )


async def as_handler(command: Command) -> None:
    """The same as a query."""
    await command(QUERY, Context(Desk()))


async def timed(run: Callable[[Command], Awaitable[None]], command: Command, times: int = 1) -> float:
    """Milliseconds that it takes, ``times`` of it at once."""
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(times):
            nursery.start_soon(run, command)
    return 1e3 * (time.perf_counter() - began) / times


async def measure(command: Command, pairs: int) -> dict[str, float]:
    """Medians, in milliseconds."""
    for _ in range(5):
        await timed(as_handler, command)
        await timed(alone, command)
    found = [(await timed(alone, command), await timed(as_handler, command)) for _ in range(pairs)]
    extra = sorted(handler - program for program, handler in found)
    at_once = [await timed(as_handler, command, AT_ONCE) for _ in range(max(1, pairs // AT_ONCE))]
    return {
        "run_process_ms": statistics.median(program for program, _ in found),
        "handler_ms": statistics.median(handler for _, handler in found),
        "extra_ms": statistics.median(extra),
        "extra_p95_ms": extra[len(extra) * 95 // 100],
        f"at_once_{AT_ONCE}_ms": statistics.median(at_once),
    }


def main() -> None:
    """Measure, and print the median of each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=300)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        agent = Path(directory, "agent")
        agent.write_text(AGENT, encoding="utf-8")
        agent.chmod(0o755)
        for name, text in (("true", "true"), ("agent", "./agent")):
            figures = trio.run(measure, parse_command(text, Path(directory)), arguments.pairs)
            rounded = {key: round(value, 2) for key, value in figures.items()}
            print(json.dumps({"program": name, "pairs": arguments.pairs, **rounded}))


if __name__ == "__main__":
    main()
