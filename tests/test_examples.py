"""Each example does what it says."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from trio.testing import MockClock

from trio_worker import Context, Query
from trio_worker.handlers.kinds import find_handler
from trio_worker.handlers.loading import load_handler
from trio_worker.testing import WebBuddy, open_worker, serve_webbuddy

EXAMPLES = Path(__file__).parent.parent / "examples"


async def test_check_page() -> None:
    """The page checker fetches the page that a query names, and says which one it needs if none."""
    handler = load_handler("check_page:handle", EXAMPLES)
    async with serve_webbuddy(WebBuddy()) as page, open_worker(handler.function) as worker:
        found = await worker.ask(f"Проверь {page}/login.")
        assert found.answer_text.startswith(f"{page}/login answers with 200 (")
        assert "fetching" in " ".join(found.logs)
        unclear = await worker.ask("Проверь страницу")
        assert (unclear.status, unclear.answer_text.split("?")[0]) == ("failed", "Which page")
        gone = await worker.ask("Проверь http://127.0.0.1:9/")
        assert (gone.status, gone.answer_text.split(":9/")[1][:15]) == ("failed", " does not answe")


async def test_plain() -> None:
    """The plain function runs a program in a thread."""
    handler = load_handler("plain:handle", EXAMPLES)
    async with open_worker(handler.function) as worker:
        query = await worker.ask("ping")
    assert (query.status, query.answer_text) == ("done", "PING")


async def test_opened() -> None:
    """The client is opened with the worker."""
    handler = load_handler("opened:agent", EXAMPLES)
    async with serve_webbuddy(WebBuddy()) as page, open_worker(handler, webbuddy=WebBuddy()) as worker:
        query = await worker.ask(f"Look at {page}/login")
        unclear = await worker.ask("Look")
    assert query.answer_text == f"{page}/login answers with 200."
    assert unclear.answer_text.startswith("Which page?")


async def test_in_a_process() -> None:
    """It counts, says so, and is asked for a number where there is none."""
    handler = find_handler("process:in_a_process:handle", EXAMPLES, most=1)
    async with open_worker(handler, webbuddy=WebBuddy()) as worker:
        query, unclear = await worker.ask("1000"), await worker.ask("many")
    assert query.answer_text == "There are 168 primes below 1000."
    assert (unclear.status, unclear.answer_text[:19]) == ("failed", "Below which number?")


async def test_agent_sh() -> None:
    """The program reads the query, logs, and answers."""
    handler = find_handler("command:./agent.sh", EXAMPLES, most=1)
    async with open_worker(handler, webbuddy=WebBuddy()) as worker:
        query = await worker.ask("x")
    assert query.answer_text.startswith("Your query has ")
    assert f"attempt 1 at query {query.id}" in " ".join(query.logs)


async def test_with_asyncio() -> None:
    """asyncio's timeout and sleep work within a Trio handler."""
    handler = load_handler("with_asyncio:agent", EXAMPLES)
    async with open_worker(handler, webbuddy=WebBuddy()) as worker:
        query = await worker.ask("abc")
    assert query.answer_text == "cba"


async def test_wrapped() -> None:
    """The page is fetched, and the handler is still known by its own name and place."""
    handler = load_handler("wrapped:handle", EXAMPLES)
    assert (handler.is_async, handler.file) == (True, str(EXAMPLES / "wrapped.py"))
    async with serve_webbuddy(WebBuddy()) as page, open_worker(handler, webbuddy=WebBuddy()) as worker:
        query = await worker.ask(f"Look at {page}/login")
        unclear = await worker.ask("Look")
    assert query.answer_text == f"{page}/login answers with 200."
    assert "took 0." in " ".join(query.logs)
    assert unclear.answer_text.startswith("Which page?")


@pytest.mark.parametrize(
    ("failures", "ending", "seconds"), [(0, "ok", 0), (2, "ok", 6), (3, "(ConnectError)", 6)]
)
async def test_wrapped_when_the_network_fails(
    failures: int, ending: str, seconds: int, autojump_clock: MockClock
) -> None:
    """Twice more, after a second and after five; the time is that of all together."""
    load_handler("wrapped:handle", EXAMPLES)
    import wrapped

    left = failures

    async def flaky(query: Query, ctx: Context) -> str:
        nonlocal left
        left -= 1
        if left >= 0:
            raise httpx.ConnectError("no route")
        return "ok"

    async with open_worker(wrapped.timed(wrapped.retried(flaky))) as worker:
        query = await worker.ask("x")
    assert ending in query.answer_text
    log = " ".join(query.logs)
    assert [pause for pause in (1, 5) if f"no route; again in {pause} s" in log] == [1, 5][:failures]
    assert f"took {seconds}.0 s" in log
