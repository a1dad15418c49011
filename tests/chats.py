"""What the tests of the language model share: the worker over a model server, in virtual time or not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs

from trio_worker.chat_settings import ChatSettings
from trio_worker.context import Context
from trio_worker.handlers.chat.opening import find_way, open_agent
from trio_worker.handlers.chat.tools import make_tool
from trio_worker.query import Query
from trio_worker.testing import (
    ModelServer,
    RunningWorker,
    StoredQuery,
    WebBuddy,
    open_worker,
    serve_model,
    time_of_the_test,
)

__all__ = ["KEY", "Chat", "open_chat", "settings"]

KEY = "sk-very-secret-0123456789"


def settings(base_url: str = "http://model.test/v1", **values: Any) -> ChatSettings:
    """Settings as an operator might have them."""
    return ChatSettings(**({"base_url": base_url, "model": "test-model", "api_key": KEY} | values))


@attrs.frozen
class Chat:
    """A worker that answers by a model.

    Attributes:
        server: The model's.
        worker: The worker.
    """

    server: ModelServer
    worker: RunningWorker

    @property
    def webbuddy(self) -> WebBuddy:
        """The worker's."""
        return self.worker.webbuddy

    async def ask(self, text: str = "Is the login page up?") -> StoredQuery:
        """Have a query answered."""
        return await self.worker.ask(text)

    def said(self, request: int = -1) -> list[dict[str, Any]]:
        """The messages of a request to the model."""
        messages: list[dict[str, Any]] = self.server.requests[request]["messages"]
        return messages


@asynccontextmanager
async def open_chat(
    server: ModelServer,
    *,
    tools: Sequence[Callable[..., Any]] = (),
    language: str = "en",
    sockets: bool = False,
    chat: dict[str, Any] | None = None,
    **worker: Any,
) -> AsyncIterator[Chat]:
    """Run a worker with this model.

    Args:
        server: It.
        tools: Functions that it may call.
        language: Of the sentences.
        sockets: Whether the model is reached over a real one; not in virtual time.
        chat: Settings of the handler.
        **worker: Settings of the worker.
    """

    @asynccontextmanager
    async def handler() -> AsyncIterator[Callable[[Query, Context], Awaitable[str]]]:
        made = [make_tool(tool) for tool in tools]
        chosen = settings(**({"base_url": url} if sockets else {}), **(chat or {}))
        way = await find_way(chosen) if sockets else server.transport()
        async with open_agent(chosen, made, way=way, language=language) as handle:
            yield handle

    webbuddy = WebBuddy(now=time_of_the_test())
    async with (
        server.running(),
        serve_model(server) as url,
        open_worker(handler, webbuddy=webbuddy, language=language, **worker) as running,
    ):
        yield Chat(server, running)
