"""From the settings to the handler, and what ``trio-worker check`` says of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from trio_worker.chat_settings import ChatSettings
from trio_worker.context import Context
from trio_worker.environment import read_environment
from trio_worker.handlers.chat.agent import Agent
from trio_worker.handlers.chat.inspection import look_at
from trio_worker.handlers.chat.model import Model, open_client
from trio_worker.handlers.chat.patience import Patience
from trio_worker.handlers.chat.sentences import sentences
from trio_worker.handlers.chat.toolbox import Toolbox
from trio_worker.handlers.chat.tools import Tool, load_tools
from trio_worker.handlers.checking import Say
from trio_worker.masks import masks
from trio_worker.query import Query
from trio_worker.settings import read_fields

__all__ = ["check_model", "open_agent", "read_chat"]


def read_chat(directory: Path) -> tuple[ChatSettings, list[Tool], str]:
    """Read the settings and import the tools. From here on the key is masked.

    Blocks, for as long as the import of the tools takes.

    Args:
        directory: Where ``.env`` is.

    Returns:
        The settings, the tools, and the language of what the query's author reads.

    Raises:
        SettingsError: With everything that is wrong.
    """
    environ = read_environment(directory)
    settings = ChatSettings.from_environ(environ)
    masks.know("CHAT_API_KEY", settings.api_key)
    tools = [] if settings.tools is None else load_tools(settings.tools, directory)
    return settings, tools, read_fields(environ, "language")["language"]


@asynccontextmanager
async def open_agent(
    settings: ChatSettings,
    tools: Sequence[Tool] = (),
    *,
    language: str = "en",
    transport: httpx.AsyncBaseTransport | None = None,
) -> AsyncIterator[Callable[[Query, Context], Awaitable[str]]]:
    """Open a handler for settings that are given.

    Args:
        settings: They.
        tools: What the model may call; see `make_tool`.
        language: ``"en"`` or ``"ru"``.
        transport: Another way to the model than sockets, for tests.
    """
    words = sentences(language)
    async with open_client(settings, transport) as client:
        agent = Agent(
            settings=settings,
            model=Model(client, settings),
            tools=Toolbox(tools),
            patience=Patience(model=settings.model, sentences=words),
            sentences=words,
        )
        yield agent.handle


async def check_model(say: Say) -> None:
    """Look whether the settings are right, and whether the model answers with them.

    Raises:
        SettingsError: A setting is wrong.
    """
    settings, tools, _ = read_chat(Path.cwd())
    if tools:
        say("fine", "tools", ", ".join(tool.name for tool in tools))
    async with open_client(settings) as client:
        await look_at(Model(client, settings), Toolbox(tools).schemas, say)
