"""A worker goes through everything that befalls it in its life: what whoever asks is told at each moment.

Every probe, figure and sentence, and every line of the log, in virtual time and through the app that listens.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import httpx
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from tests.scrapes import Watched
from tests.test_ill_disk import Disk
from trio_worker import Context, Query
from trio_worker.orders import pause, resume
from trio_worker.state_folder import Address, StateFolder
from trio_worker.testing import RunningWorker, WebBuddy, open_worker, trio_time
from trio_worker.testing.state import StoredQuery

JSON = {"Content-Type": "application/json"}
MANY = 10**6


class _Some:
    """Equal to any number above 0: how often is tried again is left to chance."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int | float) and other > 0

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "SOME"


SOME: Any = _Some()

GROWING = {
    "calls": "webbuddy_calls_total",
    "claims": "claims_total",
    "retries": "retries_total",
    "queries": "queries_total",
    "renewals": "token_renewals_total",
}
STANDING = (
    "consumers_busy",
    "held_queries",
    "dead_letters",
    "lost_claims",
    "pushes_broken",
    "left_behind",
    "late_loops",
)
AT_WORK = {"consumers_busy": 1, "held_queries running": 1}

DOWN, UP = "no query can be claimed; trying again", "WebBuddy hands out queries again"
ILL, WELL = "nothing new is claimed: the journal can't be written", "the journal can be written to again"
CLAIMED, DONE = "query claimed", "query done"
DEAD = (
    "WebBuddy refuses every result: the query stays as it is there, and the result here as a dead"
    " letter (trio-worker outbox)"
)
LOST_PUSHES = (
    "pushes have stopped coming: polls find queries that none has named. Look at FASTAPI_URL in WebBuddy's"
    " settings, at firewalls and proxies between it and here, and at WORKER_BIND; meanwhile polls come more"
    " often"
)

WAITING = "good Waiting: all 3 consumers are free; WebBuddy answers."
WORKING = "good Working: 1 query is at work, 2 consumers are free; WebBuddy answers."


async def handle(query: Query, ctx: Context) -> str:
    await trio.sleep(float(query.query_text))
    return "ok"


@attrs.define
class Witness:
    """Somebody who asks for all there is."""

    worker: RunningWorker
    events: list[EventDict]
    figures: Watched

    async def get(self, path: str) -> httpx.Response:
        transport = self.worker.webbuddy.push_transport
        assert transport is not None
        async with httpx.AsyncClient(transport=transport, base_url="http://worker.test") as client:
            return await client.get(path)

    async def _grown(self) -> dict[str, dict[str, float]]:
        changes = await self.figures.changes(*GROWING.values())
        grown = {name: changes[full] for name, full in GROWING.items()}
        # What comes by clocks of its own: looks at queries, and polls.
        calls = {call: times for call, times in grown["calls"].items() if not call.startswith("quer")}
        calls["claim 4xx"] = calls.get("claim 4xx", 0) - grown["claims"].get("empty", 0)
        return {**grown, "calls": {call: times for call, times in calls.items() if times}}

    async def sees(
        self,
        state: str,
        *,
        polls: bool = False,
        reasons: dict[str, str] | None = None,
        lines: dict[str, int] | None = None,
        standing: dict[str, float] | None = None,
        **growth: dict[str, float],
    ) -> None:
        """Compare one moment with what it ought to look like.

        Args:
            state: How the status page's level, word and sentence begin.
            polls: Whether a claim has found the queue empty since the last moment; False: it may have.
            reasons: How those of ``/readyz`` begin, by name; None: it is ready.
            lines: How often each line came since the last moment, but for those about single queries.
            standing: Those that may rise and fall, as far as they are not 0.
            **growth: By how much those that only grow have grown since the last moment.
        """
        alive, ready = await self.get("/livez"), await self.get("/readyz")
        told = ready.json()["reasons"]
        assert (alive.status_code, alive.json()) == (200, {"live": True, "reasons": {}})
        assert ready.status_code == (503 if reasons else 200), told
        assert told.keys() == (reasons or {}).keys(), told
        for name, reason in (reasons or {}).items():
            assert told[name].startswith(reason)

        shown = self.worker.front.status_page.snapshots.newest()["state"]
        sentence = f"{shown['level']} {shown['word']}: {shown['text']}"
        assert sentence.startswith(state), sentence

        grown = await self._grown()
        assert (grown["claims"].pop("empty", 0) > 0) >= polls
        assert {name: change for name, change in grown.items() if change} == growth
        assert await self.figures.values("ready") == {"": float(not told)}
        not_ready = await self.figures.values("not_ready")
        assert {name for name, value in not_ready.items() if value} == told.keys()
        found = {
            f"{name} {label}".strip(): value
            for name in STANDING
            for label, value in (await self.figures.values(name)).items()
        }
        assert {name: value for name, value in found.items() if value} == (standing or {})

        said = Counter(event["event"] for event in self.events if event["log_level"] != "debug")
        assert said == (lines or {})
        self.events.clear()


async def test_a_life(autojump_clock: MockClock, tmp_path: Path, events: list[EventDict]) -> None:
    """From the start over outages of every kind to the stop."""
    webbuddy = WebBuddy(now=trio_time())
    settings: dict[str, Any] = {"num_workers": 3, "processing_timeout": 10_000, "max_processing_time": 10_000}
    async with open_worker(handle, webbuddy=webbuddy, state_dir=tmp_path, **settings) as worker:
        witness = Witness(worker, events, Watched(worker))
        await trio.sleep(10)
        await healthy(witness)
        await refused(witness)
        await overloaded(witness)
        await hanging(witness)
        await password_changed(witness)
        await full_disk(witness, Disk(worker))
        await paused(witness, StateFolder(tmp_path, Address(webbuddy.url, "worker")))
        await results_refused(witness)
        await pushes_lost(witness)
        await stopped(witness)


async def healthy(witness: Witness) -> None:
    """Idle at first; then one query has ended, and one runs for hours."""
    webbuddy = witness.worker.webbuddy
    await witness.sees(
        WAITING,
        polls=True,
        calls={"login 2xx": 1, "account 2xx": 1},
        renewals={"login": 1},
    )
    webbuddy.add_query("1")
    await trio.sleep(5)
    webbuddy.add_query("13000")
    await trio.sleep(5)
    await witness.sees(
        WORKING,
        standing=AT_WORK,
        lines={CLAIMED: 2, DONE: 1},
        calls={"claim 2xx": 2, "log 2xx": 3, "report 2xx": 1},
        claims={"found": 2},
        queries={"done": 1},
    )


async def refused(witness: Witness) -> None:
    """WebBuddy refuses connections: for a minute, for longer; then it is back."""
    webbuddy = witness.worker.webbuddy
    webbuddy.add_query("60")
    await trio.sleep(1)
    await witness.sees(
        "good Working: 2 queries are at work, 1 consumer is free; WebBuddy answers.",
        standing={"consumers_busy": 2, "held_queries running": 2},
        lines={CLAIMED: 1},
        calls={"claim 2xx": 1, "log 2xx": 1},
        claims={"found": 1},
    )
    webbuddy.down = True
    worker_polls(witness)
    await trio.sleep(50)
    await witness.sees(
        "fair Working: 2 queries are at work, 1 consumer is free; WebBuddy has been in trouble for 50 s"
        " (POST /api/queries/claim_next/: no connection to http://localhost:8000 (",
        standing={"consumers_busy": 2, "held_queries running": 2},
        lines={DOWN: 1},
        calls={"claim none": SOME},
        claims={"failed": SOME},
        retries={"claim": SOME},
    )
    await trio.sleep(50)
    await witness.sees(
        "bad Takes nothing new: for 100 s no query can be claimed (POST",
        reasons={
            "webbuddy": "for 100 s no query can be claimed (POST /api/queries/claim_next/: no connection"
        },
        standing={"consumers_busy": 1, "held_queries running": 1, "held_queries ended": 1},
        lines={DONE: 1},
        calls={"claim none": SOME},
        claims={"failed": SOME},
        retries={"claim": SOME, "log": SOME},
        queries={"done": 1},
    )
    await trio.sleep(600)
    await witness.sees(
        "bad Takes nothing new: for 700 s no query can be claimed (POST",
        reasons={"webbuddy": "for 700 s no query can be claimed ("},
        standing={"consumers_busy": 1, "held_queries running": 1, "held_queries ended": 1},
        lines={DOWN: 1},  # once more
        calls={"claim none": SOME},
        claims={"failed": SOME},
        retries={"claim": SOME, "log": SOME},
    )
    webbuddy.down = False
    await trio.sleep(70)
    await witness.sees(
        WORKING,
        standing=AT_WORK,
        lines={UP: 1},
        calls={"log 2xx": 1, "report 2xx": 1},
        polls=True,
        retries={"claim": SOME, "log": SOME},
    )


async def overloaded(witness: Witness) -> None:
    """A proxy says 503: what it did with a claim nobody knows, so its query is looked for afterwards."""
    webbuddy = witness.worker.webbuddy
    webbuddy.fail_next(503, calls=MANY)
    worker_polls(witness)
    await trio.sleep(100)
    await witness.sees(
        "bad Takes nothing new: for 100 s no query can be claimed (POST",
        reasons={"webbuddy": "for 100 s no query can be claimed (POST /api/queries/claim_next/: WebBuddy"},
        standing={**AT_WORK, "lost_claims": SOME},
        lines={DOWN: 1},
        calls={"claim 5xx": SOME},
        claims={"lost": SOME},
        retries={"claim": SOME},
    )
    webbuddy.faults.clear()
    await trio.sleep(400)  # two looks for the queries of lost claims
    await witness.sees(WORKING, polls=True, standing=AT_WORK, lines={UP: 1}, retries={"claim": 1})


async def hanging(witness: Witness) -> None:
    """It takes connections and never answers."""
    webbuddy = witness.worker.webbuddy
    webbuddy.hang_next(calls=MANY)
    worker_polls(witness)
    await trio.sleep(100)
    await witness.sees(
        "bad Takes nothing new: for ",
        reasons={"webbuddy": "for "},
        standing={**AT_WORK, "lost_claims": SOME},
        lines={DOWN: 1},
        calls={"claim none": SOME},
        claims={"lost": SOME},
        retries={"claim": SOME},
    )
    earlier = claims_that_came(webbuddy)
    await webbuddy.until(lambda: claims_that_came(webbuddy) > earlier)
    webbuddy.faults.clear()  # with one claim that hangs
    await trio.sleep(400)
    await witness.sees(
        WORKING,
        polls=True,
        standing=AT_WORK,
        lines={UP: 1},
        calls={
            "claim none": SOME,
        },
        claims={"lost": SOME},
        retries={"claim": SOME},
    )


async def password_changed(witness: Witness) -> None:
    """That is the log-in's matter, and not WebBuddy's."""
    webbuddy = witness.worker.webbuddy
    webbuddy.refuse_logins = True
    webbuddy.expire_tokens()
    worker_polls(witness)
    await trio.sleep(200)
    await witness.sees(
        "bad Takes nothing new: WebBuddy refused the log-in of user 'worker' (401)",
        reasons={"login": "WebBuddy refused the log-in of user 'worker' (401)"},
        standing=AT_WORK,
        lines={DOWN: 1},
        calls={"claim 4xx": 1, "refresh 4xx": 1, "login 4xx": SOME},
        claims={"failed": SOME},
        retries={"claim": SOME},
    )
    webbuddy.refuse_logins = False
    await trio.sleep(70)
    await witness.sees(
        WORKING,
        standing=AT_WORK,
        lines={UP: 1},
        calls={"login 2xx": 1},
        polls=True,
        retries={"claim": SOME},
        renewals={"login": 1},
    )


async def full_disk(witness: Witness, disk: Disk) -> None:
    """What is new has to wait in the queue; WebBuddy is well."""
    webbuddy = witness.worker.webbuddy
    disk.fill()
    waits = webbuddy.add_query("1" + " " * 300_000)
    await trio.sleep(20)
    await witness.sees(
        "bad Takes nothing new: the disk is full",
        reasons={"journal": "the disk is full"},
        standing=AT_WORK,
        lines={
            ILL: 1,
            "a claimed query can't be written down; it is put back": 1,
            CLAIMED: 1,
            "query put back": 1,
            "reporting a result that could not be written down": 1,
        },
        calls={"claim 2xx": 1, "log 2xx": 1, "report 2xx": 1},
        claims={"found": 1},
        queries={"put_back": 1},
    )
    await trio.sleep(300)
    assert waits.status == "queued"
    await witness.sees(
        "bad Takes nothing new: the disk is full",
        reasons={"journal": "the disk is full"},
        standing=AT_WORK,
    )
    disk.free()
    await ended(webbuddy, waits)
    await witness.sees(
        WORKING,
        standing=AT_WORK,
        lines={WELL: 1, CLAIMED: 1, DONE: 1},
        calls={"claim 2xx": 1, "log 2xx": SOME, "report 2xx": 1},
        claims={"found": 1},
        queries={"done": 1},
    )


async def paused(witness: Witness, folder: StateFolder) -> None:
    """Somebody wants it so: it is not ready, and not ill."""
    webbuddy = witness.worker.webbuddy
    pause(folder)
    await trio.sleep(5)
    waits = webbuddy.add_query("1")
    await trio.sleep(100)
    assert waits.status == "queued"
    await witness.sees(
        "fair Paused: nothing new is taken, 1 query is still at work.",
        reasons={"pause": "it is paused: nothing new is taken"},
        standing=AT_WORK,
        lines={"paused: nothing new is taken until `trio-worker resume`": 1},
    )
    resume(folder)
    await ended(webbuddy, waits)
    await witness.sees(
        WORKING,
        standing=AT_WORK,
        lines={"resumed: queries are taken again": 1, CLAIMED: 1, DONE: 1},
        calls={"claim 2xx": 1, "log 2xx": SOME, "report 2xx": 1},
        claims={"found": 1},
        queries={"done": 1},
    )


async def results_refused(witness: Witness) -> None:
    """A result that WebBuddy refuses in every form waits for an operator; the worker goes on."""
    webbuddy = witness.worker.webbuddy
    webbuddy.fail_next(400, calls=2, endpoint="patch", headers=JSON, body=b"{}")
    webbuddy.add_query("1")
    await trio.sleep(10)
    await witness.sees(
        WORKING,
        standing={**AT_WORK, "dead_letters": 1},
        lines={
            CLAIMED: 1,
            DONE: 1,
            "WebBuddy refused the result; reporting failed instead": 1,
            DEAD: 1,
        },
        calls={"claim 2xx": 1, "log 2xx": SOME, "report 4xx": 2},
        claims={"found": 1},
        queries={"done": 1},
    )


async def pushes_lost(witness: Witness) -> None:
    """Queries come that no push has named: it polls more often, until a push comes."""
    webbuddy = witness.worker.webbuddy
    for _ in range(4):
        await ended(webbuddy, webbuddy.add_query("1", push=False))
    await witness.sees(
        WORKING,
        standing={**AT_WORK, "dead_letters": 1, "pushes_broken": 1},
        lines={CLAIMED: 4, DONE: 4, LOST_PUSHES: 1},
        calls={"claim 2xx": 4, "log 2xx": SOME, "report 2xx": 4},
        claims={"found": 4},
        queries={"done": 4},
    )
    webbuddy.add_query("1")
    await trio.sleep(10)
    await witness.sees(
        WORKING,
        standing={**AT_WORK, "dead_letters": 1},
        lines={CLAIMED: 1, DONE: 1, "pushes come again": 1},
        calls={"claim 2xx": 1, "log 2xx": SOME, "report 2xx": 1},
        claims={"found": 1},
        queries={"done": 1},
    )


async def stopped(witness: Witness) -> None:
    """Asked to stop, it lets what runs go on for a while, and puts it back."""
    worker = witness.worker
    worker.stop.ask()
    await trio.sleep(5)
    await witness.sees(
        "fair Stopping: nothing new is taken, 1 query is still at work.",
        reasons={"service": "it is stopping"},
        standing={**AT_WORK, "dead_letters": 1},
        lines={"stopping: no new query is taken": 1},
    )
    await worker.ended.wait()
    assert worker.webbuddy.queries[2].status == "queued"
    await witness.sees(
        "fair Stopping: nothing new is taken, no queries are still at work.",
        reasons={"service": "it is stopping"},
        standing={"dead_letters": 1},
        lines={"query put back": 1},
        calls={"log 2xx": 1, "report 2xx": 1},
        queries={"put_back": 1},
    )


def worker_polls(witness: Witness) -> None:
    """Have it look now: when trouble begins is then known to the second."""
    witness.worker.front.wakeups.tick()


async def ended(webbuddy: WebBuddy, query: StoredQuery) -> None:
    """Wait until a query has, and nothing of it is held any more."""
    await webbuddy.until(lambda: query.status == "done")
    await trio.sleep(5)


def claims_that_came(webbuddy: WebBuddy) -> int:
    """How many claims have come to it, answered or not."""
    return sum(call.endpoint == "claim_next" for call in webbuddy.requests)
