"""What ``trio-worker check`` says of the model: it is asked, as for a query, up to its first word."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import trio

from trio_worker.handlers.chat.draft import Draft
from trio_worker.handlers.chat.failures import Misconfigured, ModelError, NotNow
from trio_worker.handlers.chat.model import Model
from trio_worker.handlers.checking import Say

__all__ = ["CHECK_SECONDS", "look_at"]

CHECK_SECONDS = 25.0
"""For all of it: a little less than any handler's check may take, so that it ends with a sentence of ours."""

_SHOWN_MODELS = 5
_QUESTION = ({"role": "user", "content": "Answer with one word: are you there?"},)


async def look_at(model: Model, tools: Sequence[Mapping[str, Any]], say: Say) -> None:
    """Look whether the server is there, takes the key and has the model, and takes what is set.

    A list of models proves none of that: many servers give it to everybody, and what is not there answers
    that it has none. So the model is asked, with the settings and tools of a query; at its first word the
    connection is closed, and it stops.

    Args:
        model: It.
        tools: What it may call, as the API has it.
        say: Prints a line.
    """
    settings = model.settings
    names: list[str] | None = None
    with trio.move_on_after(CHECK_SECONDS) as patience:
        try:
            names = await model.names()
            await _first_word(model, tools)
        except ModelError as error:
            if names is not None and not _is_in(settings.model, names):
                say("problem", "model", _which(settings.model, names))
            else:
                say(
                    "problem", "model server", f"{settings.base_url}: {error.reason}. {_advice(error, names)}"
                )
        else:
            key = "" if settings.api_key is None else ", and takes the key"
            say("fine", "model server", f"{settings.base_url} answers{key}")
            say("fine", "model", settings.model)
    if patience.cancelled_caught:
        sentence = f"{settings.base_url} does not answer within {CHECK_SECONDS:g} s. Is it loading the model?"
        say("problem", "model server", sentence)


async def _first_word(model: Model, tools: Sequence[Mapping[str, Any]]) -> None:
    with trio.CancelScope() as asking:

        def heard(draft: Draft) -> None:
            if draft.has_begun or draft.thought:
                asking.cancel()

        await model.ask(_QUESTION, tools, heard)


def _advice(error: ModelError, names: list[str] | None) -> str:
    if isinstance(error, NotNow):
        return "Is it running?"
    url = "" if names is not None else "CHAT_BASE_URL (it usually ends in /v1), "
    if isinstance(error, Misconfigured):
        return f"Check {url}CHAT_API_KEY, CHAT_MODEL and the other settings that begin with CHAT_."
    return "Is it the right model?"


def _is_in(model: str, names: list[str]) -> bool:
    return model in names or f"{model}:latest" in names  # the latter is what Ollama makes of it


def _which(model: str, names: list[str]) -> str:
    near = difflib.get_close_matches(model, names, n=1)
    some = ", ".join([*near, *(name for name in sorted(names) if name not in near)][:_SHOWN_MODELS])
    more = f" and {len(names) - _SHOWN_MODELS} more" if len(names) > _SHOWN_MODELS else ""
    return f"CHAT_MODEL is {model!r}, and the server has {some or 'none'}{more}"
