"""From the settings to the handler, and what ``trio-worker check`` says of them."""

from __future__ import annotations

import difflib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import trio

from trio_worker.chat_settings import ChatSettings
from trio_worker.context import Context
from trio_worker.environment import read_environment
from trio_worker.handlers.chat.agent import Agent
from trio_worker.handlers.chat.failures import Misconfigured, ModelError
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

CHECK_SECONDS = 10.0
_SHOWN_MODELS = 5


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
            tools=Toolbox(tools, words),
            patience=Patience(model=settings.model, sentences=words),
            sentences=words,
        )
        yield agent.handle


async def check_model(say: Say) -> None:
    """Look whether the settings are right, and whether the server is there, takes the key and has the model.

    Raises:
        SettingsError: A setting is wrong.
    """
    settings, tools, _ = read_chat(Path.cwd())
    if tools:
        say("fine", "tools", ", ".join(tool.name for tool in tools))
    async with open_client(settings) as client:
        try:
            with trio.fail_after(CHECK_SECONDS):
                names = await Model(client, settings).names()
        except trio.TooSlowError:
            say("problem", "model server", f"{settings.base_url} does not answer within {CHECK_SECONDS:g} s")
        except Misconfigured as error:
            say("problem", "model server", f"{settings.base_url}: {error.reason}. Check {_WHAT}.")
        except ModelError as error:
            say("problem", "model server", f"{settings.base_url}: {error.reason}. Is it running?")
        else:
            key = "" if settings.api_key is None else ", and takes the key"
            say("fine", "model server", f"{settings.base_url} answers{key}")
            _check_name(settings.model, names, say)


_WHAT = "CHAT_BASE_URL and CHAT_API_KEY"


def _check_name(model: str, names: list[str] | None, say: Say) -> None:
    if names is None:
        say("note", "model", f"{model}: this server does not list its models")
    elif model in names or f"{model}:latest" in names:  # the latter is what Ollama makes of it
        say("fine", "model", model)
    else:
        near = difflib.get_close_matches(model, names, n=1)
        some = ", ".join([*near, *(name for name in sorted(names) if name not in near)][:_SHOWN_MODELS])
        more = f" and {len(names) - _SHOWN_MODELS} more" if len(names) > _SHOWN_MODELS else ""
        say("problem", "model", f"CHAT_MODEL is {model!r}, and the server has {some or 'none'}{more}")
