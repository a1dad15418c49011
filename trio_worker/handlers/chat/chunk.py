"""A chunk of a model's reply, as far as we read it.

OpenAI's API reference ("The chat completion chunk object"): each chunk has ``choices[0].delta`` with some
more ``content``, ``refusal`` or ``tool_calls``; the last with a choice has its ``finish_reason``; one more,
with no choices, has the ``usage``. What other servers leave out may be missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = ["CallPiece", "Choice", "Chunk", "ChunkError", "read_chunk"]


class ChunkError(Exception):
    """What has come is no chunk; the text says why."""


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class CallPiece(msgspec.Struct):
    """Of a tool call. What belongs together has one index; the first has the id and the function's name."""

    index: int | None = None
    id: str | None = None
    function: _Function | None = None

    @property
    def name(self) -> str:
        """The tool's, or an empty text."""
        return (self.function and self.function.name) or ""

    @property
    def arguments(self) -> str:
        """Some more of their JSON."""
        found = (self.function and self.function.arguments) or ""
        # Some servers send what should be JSON as the object itself.
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


class _Delta(msgspec.Struct):
    content: str | list[Any] | None = None
    refusal: str | None = None
    tool_calls: list[CallPiece] | None = None
    reasoning_content: Any = None
    reasoning: Any = None


class Choice(msgspec.Struct):
    """What has come."""

    delta: _Delta | None = None
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        """Some more of the answer."""
        content = (self.delta and self.delta.content) or ""
        if isinstance(content, str):
            return content
        # Mistral's thinking models send parts, as they stand in a message; the other kind is what they think.
        found = (
            part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"
        )
        return "".join(text for text in found if isinstance(text, str))

    @property
    def thought(self) -> int:
        """How many characters the model has thought, about: what they are is not for the answer.

        As ``reasoning_content`` (DeepSeek, vLLM, llama.cpp) or ``reasoning`` (OpenRouter, Ollama), or as a
        part of the content (Mistral).
        """
        if self.delta is None:
            return 0
        thoughts = [self.delta.reasoning_content or self.delta.reasoning]
        if isinstance(self.delta.content, list):
            thoughts += [part.get("thinking") for part in self.delta.content if isinstance(part, dict)]
        return sum(len(str(thought)) for thought in thoughts if thought)

    @property
    def refusal(self) -> str:
        """Some more of why there is none."""
        return (self.delta and self.delta.refusal) or ""

    @property
    def calls(self) -> list[CallPiece]:
        """Pieces of tool calls."""
        return (self.delta and self.delta.tool_calls) or []


class Chunk(msgspec.Struct):
    """One event of the stream."""

    choices: list[Choice] | None = None
    usage: Any = None
    model: str | None = None
    error: Any = None
    object: Any = None

    @property
    def is_error(self) -> bool:
        """Whether it says what has gone wrong: as OpenAI does, or as vLLM does without an ``error``."""
        return bool(self.error) or self.object == "error"

    def counts(self) -> dict[str, int]:
        """The tokens that the reply took, as the server counts them; what is no number is left out."""
        usage = self.usage if isinstance(self.usage, Mapping) else {}
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
        found = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
        found["cached_tokens"] = cached
        return {name: value for name, value in found.items() if type(value) is int}


def read_chunk(data: str) -> Chunk:
    """Read one.

    Raises:
        ChunkError: It is none.
    """
    try:
        # Not by msgspec at once, which refuses half a surrogate pair: see `encodable`.
        return msgspec.convert(json.loads(data), Chunk)
    except (ValueError, msgspec.ValidationError) as error:
        raise ChunkError(str(error)) from error
    except RecursionError as error:
        raise ChunkError("it is nested too deeply") from error
