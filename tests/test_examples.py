"""Each example does what it says."""

from __future__ import annotations

from pathlib import Path

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
