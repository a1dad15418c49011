"""What an embedded model server answers, as OpenAI's API reference writes it down: chunks, errors, tool
calls."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import attrs

__all__ = ["Failing", "Saying", "Streaming", "ToolRequest"]

_CREATED = 1_700_000_000
_LONGEST_PIECE = 6  # characters of a tool call's arguments in one chunk


@attrs.frozen
class ToolRequest:
    """A call that the model asks for.

    Attributes:
        name: Of the tool.
        arguments: What it is to be called with; a text is sent as it is, for JSON that is none.
    """

    name: str
    arguments: dict[str, Any] | str = attrs.field(factory=dict)

    @property
    def text(self) -> str:
        """The arguments as they are sent."""
        if isinstance(self.arguments, str):
            return self.arguments
        return json.dumps(self.arguments, ensure_ascii=False)


@attrs.frozen(kw_only=True)
class Saying:
    """One answer of the model, streamed piece by piece.

    Attributes:
        text: What it says; one word, with the blank before it, to a chunk.
        calls: The tools that it calls.
        refusal: Why it does not answer.
        finish: The ``finish_reason``; None: what fits. An empty one is left out.
        first: Seconds before the first chunk.
        pause: Seconds between two chunks.
        cut_after: After so many chunks the connection is closed; None: never. 0: before the answer's head.
        error_after: After so many chunks an error comes in the stream, and it ends; None: never.
        usage: How many tokens it took: prompt and answer.
        ends: Whether ``[DONE]`` comes.
    """

    text: str = ""
    calls: Sequence[ToolRequest] = ()
    refusal: str = ""
    finish: str | None = None
    first: float = 0.0
    pause: float = 0.0
    cut_after: int | None = None
    error_after: int | None = None
    usage: tuple[int, int] = (11, 7)
    ends: bool = True

    def chunks(self, model: str, *, with_usage: bool) -> Iterator[str]:
        """Give the data of each event, up to ``[DONE]``.

        Args:
            model: By which name it was asked for.
            with_usage: Whether the request asks for the usage (``stream_options``).
        """
        for delta in self._deltas():
            yield _chunk(model, [{"index": 0, "delta": delta, "finish_reason": None}], with_usage)
        finish = ("tool_calls" if self.calls else "stop") if self.finish is None else self.finish
        if finish:
            yield _chunk(model, [{"index": 0, "delta": {}, "finish_reason": finish}], with_usage)
        if with_usage:
            prompt, answer = self.usage
            total = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
            details = {"prompt_tokens_details": {"cached_tokens": 3}}
            yield _chunk(model, [], with_usage, usage=total | details)
        if self.ends:
            yield "[DONE]"

    def _deltas(self) -> Iterator[dict[str, Any]]:
        yield {"role": "assistant", "content": None if self.calls else "", "refusal": None}
        for word in _words(self.text):
            yield {"content": word}
        for word in _words(self.refusal):
            yield {"refusal": word}
        for index, call in enumerate(self.calls):
            function = {"name": call.name, "arguments": ""}
            first = {"index": index, "id": f"call_{index}", "type": "function", "function": function}
            yield {"tool_calls": [first]}
            for piece in _pieces(call.text):
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


@attrs.frozen(kw_only=True)
class Streaming:
    """An answer with status 200, as it is given: for servers that do not speak quite as OpenAI's.

    Attributes:
        pieces: What is sent, piece by piece.
        then: What comes of the connection: it ends as it should, is cut, or stays open without a word.
        content_type: Of what kind it says that is.
    """

    pieces: Sequence[bytes]
    then: Literal["end", "cut", "silence"] = "end"
    content_type: str = "text/event-stream"


@attrs.frozen(kw_only=True)
class Failing:
    """An answer with another status than 200, in the shape of OpenAI's errors.

    Attributes:
        status: The status.
        message: What is said.
        code: Its ``code``, such as ``context_length_exceeded``.
        retry_after: Seconds for ``Retry-After``, or None.
        location: Where else to ask, or None.
        body: Sent in place of all that, for what is no model server.
    """

    status: int
    message: str = "It went wrong."
    code: str | None = None
    retry_after: int | None = None
    location: str | None = None
    body: str | None = None

    @property
    def text(self) -> str:
        """The body."""
        return json.dumps(error(self.message, self.code)) if self.body is None else self.body


def error(message: str, code: str | None) -> dict[str, Any]:
    """Make an error, as it stands in a body or in a stream."""
    return {"error": {"message": message, "type": "some_error", "param": None, "code": code}}


def _chunk(model: str, choices: list[Any], with_usage: bool, usage: Any = None) -> str:
    chunk: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": _CREATED,
        "model": model,
        "system_fingerprint": "fp_1",
        "choices": choices,
    }
    return json.dumps(chunk | ({"usage": usage} if with_usage else {}), ensure_ascii=False)


def _words(text: str) -> Iterator[str]:
    while text:
        at = text.find(" ", 1)
        word = text if at < 0 else text[:at]
        yield word
        text = text[len(word) :]


def _pieces(text: str) -> Iterator[str]:
    for at in range(0, len(text), _LONGEST_PIECE):
        yield text[at : at + _LONGEST_PIECE]
