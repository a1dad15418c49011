"""What a reply has cost, told to WebBuddy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from trio_worker.context import Context
from trio_worker.handlers.chat.reply import Reply
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
    usage = reply.usage
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    calls = [call.to_message()["function"] for call in reply.calls]
    await ctx.token_usage(
        model_name=reply.model.strip() or model,
        model_role="assistant",
        request=_last(messages),
        answer=reply.text or reply.refusal or (msgspec.json.encode(calls).decode() if calls else ""),
        prompt_tokens=_number(usage.get("prompt_tokens")),
        completion_tokens=_number(usage.get("completion_tokens")),
        total_tokens=_number(usage.get("total_tokens")),
        precached_prompt_tokens=_number(cached),
        system_prompt=_first(messages, "system"),
        user_prompt=_first(messages, "user"),
    )


def _first(messages: Sequence[Mapping[str, Any]], role: str) -> str:
    return next(str(message["content"]) for message in messages if message["role"] == role)


def _last(messages: Sequence[Mapping[str, Any]]) -> str:
    """What is new in this call: the query, or what the tools have found."""
    return str(messages[-1]["content"])


def _number(value: object) -> int | None:
    """A count, if it is one: what the server makes up must not fail the query."""
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_NUMBER
    return value if good else None  # type: ignore[return-value]
