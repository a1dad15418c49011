"""A model's reply, put together from the pieces in which it comes.

As OpenAI's API reference has it ("The chat completion chunk object"): each chunk has ``choices[0].delta``
with some more ``content``, ``refusal`` or ``tool_calls``; a tool call comes in pieces that belong together by
their ``index``, of which the first has ``id`` and ``function.name``; the last chunk with a choice has its
``finish_reason``; one more, with no choices, has the ``usage``. What other servers leave out may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import msgspec

__all__ = ["Chunk", "Reply", "ToolCall", "without_thoughts"]

_THOUGHT, _THOUGHT_END = "<think>", "</think>"


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Piece(msgspec.Struct):
    """Of a tool call."""

    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_Piece] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct):
    """One event of the stream, as far as we read it."""

    choices: list[_Choice] | None = None
    usage: dict[str, Any] | None = None
    model: str | None = None
    error: Any = None


@attrs.define
class ToolCall:
    """A call that the model asks for.

    Attributes:
        id: By which its result is told from others.
        name: Of the tool.
        arguments: JSON, as far as the model is right.
    """

    id: str = ""
    name: str = ""
    arguments: str = ""

    def to_message(self) -> dict[str, Any]:
        """Make the part of a message that says that it was asked for."""
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }


@attrs.define
class Reply:
    """What has come so far.

    Attributes:
        text: The answer.
        refusal: Why there is none.
        finish: Why it ended; None: it has not.
        model: Which model has answered, as the server names it.
        usage: How many tokens that took, as the server counts them.
    """

    text: str = ""
    refusal: str = ""
    finish: str | None = None
    model: str = ""
    usage: Mapping[str, Any] = attrs.field(factory=dict)
    _calls: dict[int, ToolCall] = attrs.field(factory=dict, init=False)

    @property
    def calls(self) -> list[ToolCall]:
        """The calls that it asks for, in their order."""
        return [self._calls[index] for index in sorted(self._calls)]

    @property
    def has_begun(self) -> bool:
        """Whether anything of an answer has come."""
        return bool(self.text or self.refusal or self._calls or self.finish)

    def add(self, chunk: Chunk) -> None:
        """Take one chunk."""
        self.usage = chunk.usage or self.usage
        self.model = chunk.model or self.model
        for choice in chunk.choices or ():
            delta = choice.delta or _Delta()
            self.text += delta.content or ""
            self.refusal += delta.refusal or ""
            for piece in delta.tool_calls or ():
                self._add_call(piece)
            self.finish = choice.finish_reason or self.finish

    def _add_call(self, piece: _Piece) -> None:
        # A server that leaves the index out sends each call whole.
        index = len(self._calls) if piece.index is None else piece.index
        call = self._calls.setdefault(index, ToolCall())
        call.id = call.id or piece.id or ""
        function = piece.function or _Function()
        call.name = call.name or function.name or ""
        call.arguments += function.arguments or ""

    def name_calls(self, step: int) -> None:
        """Give the calls that came without an id one of their own: their results need it."""
        for index, call in self._calls.items():
            call.id = call.id or f"call_{step}_{index}"

    def to_message(self) -> dict[str, Any]:
        """Make the message that tells the model what it has said."""
        message: dict[str, Any] = {"role": "assistant", "content": without_thoughts(self.text) or None}
        if self._calls:
            message["tool_calls"] = [call.to_message() for call in self.calls]
        return message


def without_thoughts(text: str) -> str:
    """Leave out what a model has thought aloud before it answers: a ``<think>…</think>`` at the very
    beginning.

    One that is not closed is all thought. Anywhere else it is the model's answer about such a thing.
    """
    stripped = text.strip()
    if not stripped.startswith(_THOUGHT):
        return stripped
    return stripped.partition(_THOUGHT_END)[2].strip()
