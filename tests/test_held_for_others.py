"""What a start says of queries that are held for another WEBBUDDY_URL or account."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.forerunner import claimed_by_the_dead, leave_behind
from tests.processes import TOO_LONG, start_worker
from trio_worker.state_folder import Address, StateFolder
from trio_worker.testing import WebBuddy, serve_webbuddy

RUN = ("-m", "trio_worker", "run")
HYPERCORN = ("-m", "hypercorn", "-k", "trio", "-b", "127.0.0.1:0", "trio_worker.asgi:app")


async def warnings(
    tmp_path: Path, webbuddy: WebBuddy, url: str, command: tuple[str, ...] = RUN
) -> list[dict[str, Any]]:
    """Start a worker, and kill it when it has done its first query: what it has warned of by then."""
    query = webbuddy.add_query("new")
    async with start_worker(tmp_path, webbuddy_url=url, command=command, POLLING_INTERVAL="0.2") as worker:
        with trio.fail_after(TOO_LONG):
            await webbuddy.until(lambda: query.status == "done")
        await worker.until(lambda line: "query done" in line)
        events = [json.loads(line) for line in worker.lines if line.startswith("{")]
    return [event for event in events if event["level"] == "warning" and "held" in event]


@pytest.mark.parametrize("command", [RUN, HYPERCORN])
@pytest.mark.parametrize("account", ["worker", "former"])
async def test_a_start_with_changed_settings(tmp_path: Path, command: tuple[str, ...], account: str) -> None:
    """One warning, with for whom and how many; what is held for these settings is none."""
    webbuddy = WebBuddy()
    async with serve_webbuddy(webbuddy) as url:
        held = [claimed_by_the_dead(webbuddy)[1] for _ in range(2)]
        leave_behind(tmp_path / "state", webbuddy, held, account=account)
        new_url = url.replace("127.0.0.1", "localhost") if account == "worker" else url
        (found,) = await warnings(tmp_path, webbuddy, new_url, command)
    assert (found["webbuddy"], found["account"], found["held"]) == (url, account, 2)
    assert "start the worker once as it was (see trio-worker outbox)" in found["event"]
    assert [query.status for query in webbuddy.queries.values()] == ["in_progress", "in_progress", "done"]


async def test_a_start_beside_one_that_lives(tmp_path: Path) -> None:
    """Workers of several accounts may share the folder: no warning."""
    webbuddy = WebBuddy()
    async with serve_webbuddy(webbuddy) as url:
        leave_behind(tmp_path / "state", webbuddy, [claimed_by_the_dead(webbuddy)[1]], account="other")
        (lock,) = StateFolder(tmp_path / "state", Address(url, "other")).take_free()
        assert await warnings(tmp_path, webbuddy, url) == []
        lock.release()
