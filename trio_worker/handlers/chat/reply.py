"""A model's reply, when it is whole."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec

__all__ = ["LONGEST_NAME", "Reply", "ToolCall"]

_THOUGHT, _THOUGHT_END = "<think>", "</think>"
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
LONGEST_NAME = 64
"""Characters of a tool's name that OpenAI takes."""


@attrs.frozen
class ToolCall:
    """A call that the model asks for.

    Attributes:
        id: By which its result is told from others.
        name: Of the tool.
        arguments: JSON, as far as the model is right.
    """

    id: str
    name: str
    arguments: str

    @property
    def is_object(self) -> bool:
        """Whether the arguments are what they should be: a JSON object."""
        try:
            msgspec.json.decode(self.arguments, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return False
        return True

    def to_message(self) -> dict[str, Any]:
        """Make the part of a message that says that it was asked for.

        As servers take it: OpenAI looks at the name; vLLM and llama.cpp read the arguments again, of each
        call that was ever made, and refuse all that follows when one of them is no object.
        """
        name = _NOT_IN_NAMES.sub("_", self.name)[:LONGEST_NAME] or "unknown"
        arguments = self.arguments if self.is_object else "{}"
        return {"id": self.id, "type": "function", "function": {"name": name, "arguments": arguments}}


@attrs.frozen(kw_only=True)
class Reply:
    """What has come.

    Attributes:
        text: What it says.
        refusal: Why there is none.
        calls: The calls that it asks for, in their order.
        finish: Why it ended; None: the server does not say.
        model: Which model has answered, as the server names it.
        usage: How many tokens that took, as the server counts them.
    """

    text: str = ""
    refusal: str = ""
    calls: Sequence[ToolCall] = ()
    finish: str | None = None
    model: str = ""
    usage: Mapping[str, int] = attrs.field(factory=dict)

    @property
    def answer(self) -> str:
        """The text, without what the model has thought aloud before it: ``<think>…</think>``.

        One that is not closed is all thought. Of one that is not opened the beginning stands in the model's
        template, as with DeepSeek's. Anywhere else it is the model's answer about such a thing.
        """
        thought, end, rest = self.text.partition(_THOUGHT_END)
        is_opened = thought.lstrip().startswith(_THOUGHT)
        return rest.strip() if is_opened or (end and _THOUGHT not in thought) else self.text.strip()

    def with_names(self, step: int) -> Reply:
        """Give the calls that came without an id one of their own: their results need it."""
        named = [
            attrs.evolve(call, id=call.id or f"call_{step}_{index}") for index, call in enumerate(self.calls)
        ]
        return attrs.evolve(self, calls=named)

    def to_message(self) -> dict[str, Any]:
        """Make the message that tells the model what it has said."""
        message: dict[str, Any] = {"role": "assistant", "content": self.answer or None}
        if self.calls:
            message["tool_calls"] = [call.to_message() for call in self.calls]
        return message
