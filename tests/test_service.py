"""The service's promises, in virtual time and without sockets."""

from __future__ import annotations

import trio

from trio_worker import Context, Query
from trio_worker.testing import open_worker


async def answer(query: Query, ctx: Context) -> str:
    ctx.log("looking")
    await trio.sleep(3)
    return f"answer to {query.query_text}"


async def test_a_pushed_query_is_answered(autojump_clock: trio.testing.MockClock) -> None:
    """A pushed query is claimed at once, logged and answered."""
    async with open_worker(answer) as worker:
        await trio.sleep(1)
        query = await worker.ask("Протестировать авторизацию")
    assert (query.status, query.answer_text) == ("done", "answer to Протестировать авторизацию")
    assert query.statuses == ["queued", "in_progress", "done"]
    print(query.logs, worker.webbuddy.calls, trio.current_time())
