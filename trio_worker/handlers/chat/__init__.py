"""A language model as handler: any that speaks OpenAI's chat completions.

``WORKER_HANDLER=trio_worker.handlers.chat:handler``, and the settings of `trio_worker.chat_settings`. It
needs the extra ``[chat]``, which is imported when it is opened.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from trio_worker.chat_settings import CHAT_HANDLER
from trio_worker.errors import HandlerError, SettingsError
from trio_worker.handlers.checking import Say, checked_by
from trio_worker.query import Query

if TYPE_CHECKING:
    from trio_worker.context import Context

__all__ = ["handler"]


def _package() -> ModuleType:
    try:
        from trio_worker.handlers.chat import opening
    except ModuleNotFoundError as error:
        if error.name != "msgspec":
            raise
        sentence = f"it needs {error.name}, which is not installed here: pip install 'trio-worker[chat]'"
        raise HandlerError([f"WORKER_HANDLER is {CHAT_HANDLER!r}: {sentence}"]) from None
    return opening


async def _check(say: Say) -> None:
    await _package().check_model(say)


@checked_by(_check)
@asynccontextmanager
async def handler() -> AsyncIterator[Callable[[Query, Context], Awaitable[str]]]:
    """Open the handler, with the settings of the environment and of ``.env`` in the working directory.

    Raises:
        HandlerError: With everything that is wrong with them.
    """
    opening = _package()
    try:
        # On the event loop: nothing else is at work before the handler is open, and the tools are imported in
        # the main thread, as handlers are.
        settings, tools, language = opening.read_chat(Path.cwd())
        way = await opening.find_way(settings)
    except SettingsError as error:
        raise HandlerError(error.problems) from None
    async with opening.open_agent(settings, tools, way=way, language=language) as handle:
        yield handle
