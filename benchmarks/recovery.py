"""What it costs to take up what a dead worker held: ``python -m benchmarks.recovery``.

A WebBuddy in a process of its own has 1 000 queries ``in_progress``, and a journal holds them all, as a
worker would have left it after ``kill -9`` in the middle of them. Measured is the CPU time of the new
worker's process until each was looked at and offered to a consumer (20 pages of 50), and until a handler
that does nothing has answered them all (1 000 log entries and 1 000 reports).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import structlog
import trio

from trio_worker import Context, Query
from trio_worker.front import Front
from trio_worker.handlers.loading import handler_of
from trio_worker.journal import open_journal
from trio_worker.journal_file import Entry
from trio_worker.parts import Given
from trio_worker.runners import open_thread
from trio_worker.service import run_service
from trio_worker.settings import Settings
from trio_worker.state_folder import Address, StateFolder
from trio_worker.stop import Stop
from trio_worker.takeover import OwnJournal
from trio_worker.testing import WebBuddy, serve_webbuddy
from trio_worker.webbuddy import open_webbuddy

TAKEN_UP = "what was held before is taken up"


async def serve(number: int) -> None:
    """Be the WebBuddy, until killed."""
    webbuddy = WebBuddy()
    for n in range(number):
        webbuddy.claim(webbuddy.add_query(f"query {n}", push=False), webbuddy.accounts[1])
    async with serve_webbuddy(webbuddy) as url:
        print(url, flush=True)
        await webbuddy.until(webbuddy.all_ended)
        await trio.sleep_forever()


async def leave_behind(settings: Settings, folder: StateFolder, number: int) -> None:
    """Write the journal of a worker that has died."""
    async with open_webbuddy(
        url=settings.webbuddy_url, credentials=settings.credentials(), request_timeout=30
    ) as webbuddy:
        queries = await webbuddy.in_progress()
    assert len(queries) == number, len(queries)
    own = OwnJournal.open(folder, "full")
    entries = [
        Entry(id=str(query.id), query=query, source="push", claimed_at=time.time(), attempts=1, running=True)
        for query in queries
    ]
    own.file.apply([statement for entry in entries for statement in entry.insertion()])
    own.file.close()
    assert own.lock is not None
    own.lock.release()


class Marks:
    """CPU and wall time at certain events."""

    def __init__(self) -> None:
        self.began = self._now()
        self.taken_up: tuple[float, float] | None = None

    def _now(self) -> tuple[float, float]:
        return time.process_time(), time.perf_counter()

    def since_begin(self) -> tuple[float, float]:
        cpu, wall = self._now()
        return cpu - self.began[0], wall - self.began[1]

    def see(self, _logger: object, _method: str, event: dict[str, object]) -> str:
        if event["event"] == TAKEN_UP:
            self.taken_up = self.since_begin()
        raise structlog.DropEvent


async def work(settings: Settings, folder: StateFolder, number: int) -> dict[str, float]:
    """Be the worker that takes it up."""
    answered = 0

    async def nothing(query: Query, ctx: Context) -> str:
        nonlocal answered
        answered += 1
        return "ok"

    marks = Marks()
    structlog.configure(processors=[marks.see])
    stop = Stop(grace=30, reserve=5)
    async with (
        open_thread("journal") as runner,
        open_journal(folder, sync="full", runner=runner) as journal,
        open_webbuddy(
            url=settings.webbuddy_url, credentials=settings.credentials(), request_timeout=30
        ) as webbuddy,
        trio.open_nursery() as nursery,
    ):

        async def stop_when_done() -> None:
            while journal.entries:
                await trio.sleep(0.01)
            stop.ask()

        nursery.start_soon(stop_when_done)
        given = Given(
            settings=settings,
            handler=handler_of(nothing, "nothing"),
            webbuddy=webbuddy,
            journal=journal,
            front=Front(),
            stop=stop,
            consumers=settings.num_workers,
        )
        await run_service(given, abandon=lambda: None)
    assert answered == number, answered
    assert marks.taken_up is not None
    cpu, wall = marks.since_begin()
    return {
        "taken up, CPU s": marks.taken_up[0],
        "taken up, wall s": marks.taken_up[1],
        "all answered, CPU s": cpu,
        "all answered, wall s": wall,
    }


async def measure(number: int, consumers: int) -> dict[str, float]:
    """One run, with a server and a folder of its own."""
    command = [sys.executable, "-m", "benchmarks.recovery", "--serve", "--queries", str(number)]
    with (
        tempfile.TemporaryDirectory() as directory,
        subprocess.Popen(command, stdout=subprocess.PIPE) as server,
    ):
        try:
            assert server.stdout is not None
            url = server.stdout.readline().decode().strip()
            settings = Settings(
                webbuddy_url=url, username="worker", password="secret", handler="x:y", num_workers=consumers
            )
            folder = StateFolder(Path(directory), Address(url, "worker"))
            await leave_behind(settings, folder, number)
            return await work(settings, folder, number)
        finally:
            server.kill()


def main() -> None:
    """Measure, and print the median of each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--consumers", type=int, default=50)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        trio.run(serve, arguments.queries)
        return
    runs = [trio.run(measure, arguments.queries, arguments.consumers) for _ in range(arguments.runs)]
    medians = {name: sorted(run[name] for run in runs)[len(runs) // 2] for name in runs[0]}
    print(json.dumps({"queries": arguments.queries, **{name: round(s, 3) for name, s in medians.items()}}))


if __name__ == "__main__":
    main()
