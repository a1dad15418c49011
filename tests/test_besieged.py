"""Both ways to start the worker, as a process, with clients around it that mean no good."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import trio

from tests.processes import TOO_LONG, start_worker
from tests.test_hypercorn_fixes import HEAD, PUSH
from trio_worker.testing import WebBuddy, serve_webbuddy
from trio_worker.web.connections import MOST

PUSH_TOKEN, ADMIN_TOKEN = "push-token-0123456789", "admin-token-0123456789"
RUN = ("-m", "trio_worker", "run")
HYPERCORN = ("-m", "hypercorn", "-k", "trio", "-b", "127.0.0.1:0", "trio_worker.asgi:app")


@pytest.mark.parametrize("command", [RUN, HYPERCORN], ids=["run", "hypercorn"])
async def test_a_besieged_worker_goes_on_claiming(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Idle connections, heads that never end and a body without an end, in more than all places: queries are
    claimed and done meanwhile, found by polls and by a push with the token. Nothing of the tokens is printed.
    """
    webbuddy = WebBuddy()
    tokens = {"WORKER_PUSH_TOKEN": PUSH_TOKEN, "WORKER_ADMIN_TOKEN": ADMIN_TOKEN, "POLLING_INTERVAL": "0.2"}
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(tmp_path, webbuddy_url=url, command=command, **tokens) as worker,
        trio.open_nursery() as besiegers,
    ):
        await worker.until(lambda line: "Running on http://" in line)
        port = int(worker.url.rpartition(":")[2])
        for number in range(MOST + 20):
            besiegers.start_soon(besiege, port, number)
        queries = [webbuddy.add_query(str(number), push=False) for number in range(5)]
        with trio.fail_after(TOO_LONG):
            await webbuddy.until(webbuddy.all_ended)
        assert {query.status for query in queries} == {"done"}

        await knock(worker.url)
        assert PUSH_TOKEN not in worker.output
        assert ADMIN_TOKEN not in worker.output
        assert "Traceback" not in worker.output
        besiegers.cancel_scope.cancel()


async def knock(url: str) -> None:
    """Push without the token, and with it; ask whether it is ready, as whom it concerns and as nobody."""
    async with httpx.AsyncClient(timeout=TOO_LONG) as client:
        push, ready = f"{url}/api/process-query", f"{url}/readyz"
        assert (await client.post(push, json={"query_id": 1})).status_code == 401
        good = push.replace("http://", f"http://push:{PUSH_TOKEN}@")
        assert (await client.post(good, json={"query_id": 1})).status_code == 200
        assert (await client.get(ready)).status_code == 401
        assert (await client.get(ready, auth=("me", ADMIN_TOKEN))).status_code == 200


async def besiege(port: int, number: int) -> None:
    """Take a connection, again and again: leave it idle, half say something, or never stop."""
    body = HEAD.replace(b"Content-Length: %d" % len(PUSH), b"Transfer-Encoding: chunked") + b"\r\n"
    assert b"chunked" in body
    while True:
        try:
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                if number % 3:
                    await stream.send_all(HEAD if number % 3 == 1 else body)
                if number == 2:
                    while True:
                        await stream.send_all(b"400\r\n" + b"x" * 1024 + b"\r\n")
                await stream.receive_some()
        except (OSError, trio.BrokenResourceError):
            pass
