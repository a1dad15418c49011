"""What a reply has cost, told to WebBuddy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from trio_worker.context import Context
from trio_worker.handlers.chat.reply import Reply
from trio_worker.plain_text import clean
from trio_worker.token_usage import MOST_NUMBER

__all__ = ["tell_usage"]


async def tell_usage(ctx: Context, model: str, messages: Sequence[Mapping[str, Any]], reply: Reply) -> None:
    """Note one call of the model.

    Args:
        ctx: Of the query.
        model: As the operator names it, where the server does not.
        messages: What the model was asked: all of it.
        reply: What it has answered.
    """
    calls = [{"name": call.name, "arguments": call.arguments} for call in reply.calls]
    await ctx.token_usage(
        model_name=clean(reply.model) or model,
        model_role="assistant",
        request=_last(messages),
        answer=reply.text or reply.refusal or (json.dumps(calls, ensure_ascii=False) if calls else ""),
        prompt_tokens=_count(reply, "prompt_tokens"),
        completion_tokens=_count(reply, "completion_tokens"),
        total_tokens=_count(reply, "total_tokens"),
        precached_prompt_tokens=_count(reply, "cached_tokens"),
        system_prompt=_first(messages, "system"),
        user_prompt=_first(messages, "user"),
    )


def _first(messages: Sequence[Mapping[str, Any]], role: str) -> str:
    return next(str(message["content"]) for message in messages if message["role"] == role)


def _last(messages: Sequence[Mapping[str, Any]]) -> str:
    """What is new in this call: the query, or what the tools have found."""
    return str(messages[-1]["content"])


def _count(reply: Reply, name: str) -> int | None:
    """A count, if it can be one: what the server makes up must not fail the query."""
    count = reply.usage.get(name, -1)
    return count if 0 <= count <= MOST_NUMBER else None
