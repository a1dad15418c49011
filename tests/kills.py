"""Workers that are killed over and over while they work: real processes against the real Django server.

    python -m tests.kills --queries 500 --seed 1 --launch run

Connections break at the same time (`tests.broken_way`). A worker is struck when something is seen on its
way to WebBuddy: "the answer to a claim, after 23 calls that mattered"; then it is started again on the same
state folder. The seed decides about faults and strikes. It does not make two runs alike, since the machine's
own timing is in them.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random

import attrs
import httpx
import trio

from tests import kill_agent
from tests.broken_way import BrokenWay, Call, break_the_way
from tests.kill_checks import (
    held_in,
    problems_of_journals,
    problems_of_passages,
    problems_of_queries,
    problems_of_runs,
)
from tests.processes import WorkerProcess, start_worker
from tests.push_switch import PushSwitch, open_push_switch
from tests.servers import PASSWORD, DjangoServer, start_django
from tests.strikes import LAUNCHES, Launch, Trap, first_of, follow, strike

__all__ = ["Trial", "run_trial"]

QUEUE = 6  # queries that wait, at most, until all are created
MERCY = 0.9  # of the queries: once they have ended, who is started is struck no more. Lost claims take time
RATE = 0.06  # of calls that are cut

HANDLER = Path(kill_agent.__file__).read_text(encoding="utf-8")
SETTINGS = {
    "WORKER_PASSWORD": PASSWORD,
    "WORKER_MAX_ATTEMPTS": "1000",  # none of these queries is to blame
    "WORKER_WATCH_INTERVAL": "2",
    "WORKER_SHUTDOWN_GRACE": "6",
    "WORKER_REQUEST_TIMEOUT": "5",
    "POLLING_INTERVAL": "1",
    "NUM_WORKERS": "4",
}


@attrs.define(eq=False, kw_only=True)
class Trial:
    """Some queries, and the workers that are struck while they work on them.

    Attributes:
        launch: How workers are started.
        queries: How many queries.
        gap: The most calls between two strikes.
        directory: Where everything is.
        random: Decides about queries and strikes.
        django: The server.
        way: Between workers and server.
        pushes: Between server and workers.
        environ: The workers' variables.
        strikes: How often each blow was dealt.
        ended: The queries that WebBuddy shows as done or failed.
        claimed: How many claims found a query.
        over: Set when all queries have ended.
        problems: What went wrong.
    """

    launch: Launch
    queries: int
    gap: int
    directory: Path
    random: Random
    django: DjangoServer
    way: BrokenWay
    pushes: PushSwitch
    environ: dict[str, str]
    strikes: Counter[str] = attrs.field(factory=Counter)
    ended: set[int] = attrs.field(factory=set)
    claimed: int = 0
    over: trio.Event = attrs.field(factory=trio.Event)
    problems: list[str] = attrs.field(factory=list)
    _traps: list[Trap] = attrs.field(factory=list)
    _changed: trio.Event = attrs.field(factory=trio.Event)
    _blows: Iterator[str] = attrs.field(init=False)
    _is_tidy: bool = True

    def __attrs_post_init__(self) -> None:
        # Each in its turn, so that a short trial has all of them.
        blows = self.launch.blows
        self._blows = itertools.cycle(self.random.sample(blows, len(blows)))

    async def run(self) -> None:
        """Let all queries be worked on."""
        self.way.watch = self.watch
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._create_queries)
            for number in range(self.launch.beside):
                place = self.directory / f"worker-{number}"
                place.mkdir()
                nursery.start_soon(self._keep_alive, place)
        if not self._is_tidy or held_in(self.directory / "state"):
            await self._clear_up()

    def check(self) -> None:
        """Look whether everything is as it should be."""
        if not self.over.is_set():
            self.problems.append("it has taken too long")
        self.problems += problems_of_queries(self.django, self.way.passages)
        self.problems += problems_of_passages(self.way.passages)
        self.problems += problems_of_runs(self.directory / "runs")
        self.problems += problems_of_journals(self.directory / "state")

    def watch(self, call: Call, status: int | None) -> None:
        """See a call go by."""
        if status == 200 and call.kind == "claim":
            self.claimed += 1
        if status == 200 and call.kind == "report":
            (self.ended.discard if call.body["status"] == "queued" else self.ended.add)(call.query)
        if status == 404 and call.kind == "claim":
            # Of a report whose worker died before the answer came, nobody saw here that it got through.
            ended = "SELECT id FROM webbuddy_query WHERE status IN ('done', 'failed')"
            self.ended = {int(str(number)) for (number,) in self.django.execute(ended)}
        if len(self.ended) >= self.queries:
            self.over.set()
        if status is not None:
            self._changed.set()
            self._changed = trio.Event()
        for trap in list(self._traps):
            trap.see(call, status)

    @property
    def summary(self) -> str:
        """One line about what happened."""
        cut = Counter(passage.call.kind for passage in self.way.passages if passage.cut)
        return (
            f"{len(self.ended)} of {self.queries} queries ended; strikes: {_listed(self.strikes)}; "
            f"requests cut: {self.way.cut_before}; answers cut: {_listed(cut)}; "
            f"problems: {len(self.problems)}"
        )

    async def _create_queries(self) -> None:
        """Be the users: a few queries always wait."""
        async with httpx.AsyncClient(base_url=self.django.url, trust_env=False, timeout=60) as client:
            login = {"username": "member", "password": PASSWORD}
            token = (await client.post("/api/login/", json=login)).json()["access"]
            client.headers["Authorization"] = f"Bearer {token}"
            for number in range(self.queries):
                while number - self.claimed >= QUEUE:
                    await self._changed.wait()
                body = {"project": 1, "query_text": self._new_text(number)}
                while (await client.post("/api/queries/", json=body)).status_code != 201:
                    pass  # "database is locked"

    def _new_text(self, number: int) -> str:
        steps, pause = self.random.randrange(1, 6), self.random.choice((0.0, 0.02, 0.1, 0.3))
        return kill_agent.make_text(number, self.random.choice(kill_agent.KINDS), steps, pause)

    # --- Workers --------------------------------------------------------------------------------------

    async def _keep_alive(self, place: Path) -> None:
        """Start a worker again and again, until all queries have ended."""
        tidy = True
        while not self.over.is_set():
            async with self._start(place) as worker, trio.open_nursery() as nursery:
                nursery.start_soon(self._send_pushes_to, worker)
                tidy = await self._see_through(worker)
                nursery.cancel_scope.cancel()
        self._is_tidy &= tidy

    async def _clear_up(self) -> None:
        """Start a worker once more.

        Who was killed last did not come to hear that its result had arrived, and could not remove its journal
        even if nothing was in it; nor does it who is stopped before it has begun.
        """
        held = held_in(self.directory / "state")
        last_word = "what was held before is taken up" if held else '"event": "started"'
        async with self._start(self.directory / "worker-0") as worker:
            await worker.until(lambda line: last_word in line)
            worker.process.send_signal(signal.SIGTERM)
            await worker.wait()
            await worker.silent.wait()

    @asynccontextmanager
    async def _start(self, place: Path) -> AsyncIterator[WorkerProcess]:
        launched = start_worker(
            place,
            webbuddy_url=self.way.url,
            command=self.launch.command,
            handler=HANDLER,
            **self.environ,
        )
        async with launched as worker:
            try:
                yield worker
            finally:
                with (place / "output.log").open("a") as file:
                    file.write(worker.output + "\n\n")

    async def _send_pushes_to(self, worker: WorkerProcess) -> None:
        await worker.until(lambda line: "Running on" in line)
        with self.pushes.to(worker.url):
            await trio.sleep_forever()

    async def _see_through(self, worker: WorkerProcess) -> bool:
        """See one life of a worker to its end; whether it has left nothing that it need not leave."""
        blow = next(self._blows)
        mercy = len(self.ended) >= MERCY * self.queries
        trap = Trap(
            calls=sys.maxsize if mercy else self.random.randrange(self.gap),
            kind=self.random.choice(("claim", "claim", "log", "report", "look")),
            answered=self.random.random() < 1 / 2,
            strike=partial(strike, worker, blow, self.random),
        )
        self._traps.append(trap)
        await first_of(trap.sprung.wait, self.over.wait, worker.process.wait)
        self._traps.remove(trap)
        if trap.sprung.is_set():
            self.strikes[blow] += 1
            await follow(worker, blow)
        elif worker.process.returncode is None:
            worker.process.send_signal(signal.SIGTERM)
            blow = "term"
        code = await worker.wait()
        await worker.silent.wait()
        # Before it has begun to run it dies of a SIGTERM like any other program.
        good = code == 0 or not blow.endswith(("term", "twice")) or not worker.lines
        if not good or "Traceback" in worker.output:
            self.problems.append(f"exit code {code} after {blow!r}:\n{_told(worker.output)}")
        return "kill" not in blow and '"event": "stopped"' in worker.output


def _told(output: str) -> str:
    """The end of what a worker has printed; where there is a traceback, that with what came before it."""
    found = output.find("Traceback")
    return output[-5000:] if found < 0 else output[max(0, found - 2000) : found + 5000]


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{times} x {what}" for what, times in sorted(counts.items())) or "none"


async def run_trial(
    launch: str, *, queries: int, seed: int, directory: Path, gap: int, seconds: float, **environ: str
) -> Trial:
    """Run all of it, and say in ``problems`` what went wrong.

    Args:
        launch: One of `LAUNCHES`.
        queries: How many queries.
        seed: Of queries, faults and strikes.
        directory: An empty one, where everything is.
        gap: The most calls between two strikes.
        seconds: After which it is taken for stuck.
        **environ: More variables for the workers.
    """
    places = {"WORKER_STATE_DIR": str(directory / "state"), "RUNS": str(directory / "runs")}
    with ExitStack() as stack:
        async with open_push_switch() as pushes:
            # In a thread, as it takes two seconds.
            start = partial(stack.enter_context, start_django(directory, "--push-url", pushes.url))
            django = await trio.to_thread.run_sync(start)
            async with break_the_way(django.url, rate=RATE, random=_random("faults", seed)) as way:
                trial = Trial(
                    launch=LAUNCHES[launch],
                    queries=queries,
                    gap=gap,
                    directory=directory,
                    random=_random("strikes", seed),
                    django=django,
                    way=way,
                    pushes=pushes,
                    environ=SETTINGS | places | environ,
                )
                with trio.move_on_after(seconds):
                    await trial.run()
                trial.check()
    return trial


def _random(what: str, seed: int) -> Random:
    return Random(f"{what} {seed}")  # noqa: S311 - nothing is to be kept secret


def main() -> int:
    """Run from the command line.

    Returns:
        The exit code: 0 when nothing was lost, stuck or wrong.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--launch", choices=[*LAUNCHES], default="run")
    parser.add_argument("--gap", type=int, default=60, help="the most calls between two strikes")
    parser.add_argument("--seconds", type=float, default=3600, help="after which it is taken for stuck")
    parser.add_argument("--keep", type=Path, help="an empty folder in which everything is left")
    options = vars(parser.parse_args())
    keep, launch = options.pop("keep"), options.pop("launch")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills-") as directory:
        trial = trio.run(partial(run_trial, launch, directory=keep or Path(directory), **options))
        print(f"{trial.summary}; {time.monotonic() - began:.0f} s")
    for problem in trial.problems:
        print(problem)
    return 1 if trial.problems else 0


if __name__ == "__main__":
    sys.exit(main())
