"""A model's reply on its way: what has come of it, with an end to how much that may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from trio_worker.handlers.chat.chunk import CallPiece, Chunk
from trio_worker.handlers.chat.encodable import encodable
from trio_worker.handlers.chat.failures import NoAnswer
from trio_worker.handlers.chat.reply import Reply, ToolCall

__all__ = ["MOST_CALLS", "MOST_OF_A_REPLY", "Draft"]

MOST_OF_A_REPLY = 2_000_000
"""Characters, thoughts and arguments included: the longest answers of today's models have 500 000."""

MOST_CALLS = 100
"""Tool calls in one reply."""


@attrs.define
class _Call:
    index: int
    id: str
    name: str
    arguments: list[str] = attrs.field(factory=list)


@attrs.define
class Draft:
    """What has come so far.

    Attributes:
        length: Characters of the answer.
        size: Characters of all that is kept.
        thought: Characters that the model has thought, which are not kept.
        finish: Why it ended; None: it has not.
    """

    length: int = attrs.field(default=0, init=False)
    size: int = attrs.field(default=0, init=False)
    thought: int = attrs.field(default=0, init=False)
    finish: str | None = attrs.field(default=None, init=False)
    _model: str = attrs.field(default="", init=False)
    _counts: Mapping[str, int] = attrs.field(factory=dict, init=False)
    # In pieces: put together at each of them, a long answer would be copied as often as it has tokens.
    _text: list[str] = attrs.field(factory=list, init=False)
    _refusal: list[str] = attrs.field(factory=list, init=False)
    _calls: list[_Call] = attrs.field(factory=list, init=False)

    @property
    def has_begun(self) -> bool:
        """Whether anything of an answer has come."""
        return bool(self.size)

    def add(self, chunk: Chunk) -> None:
        """Take one chunk.

        Raises:
            NoAnswer: It has become too much.
        """
        self._counts = chunk.counts() or self._counts
        self._model = chunk.model or self._model
        for choice in chunk.choices or ():
            self._keep(self._text, choice.text)
            self.length += len(choice.text)
            self.thought += choice.thought
            self._keep(self._refusal, choice.refusal)
            for piece in choice.calls:
                call = self._call_of(piece)
                call.id = call.id or piece.id or ""
                call.name = call.name or piece.name
                self._keep(call.arguments, piece.arguments)
            self.finish = choice.finish_reason or self.finish
        if self.size + self.thought > MOST_OF_A_REPLY or len(self._calls) > MOST_CALLS:
            raise NoAnswer(
                "endless", f"{self.size + self.thought} characters and {len(self._calls)} calls, and no end"
            )

    def _keep(self, pieces: list[str], piece: str) -> None:
        if piece:
            pieces.append(piece)
            self.size += len(piece)

    def _call_of(self, piece: CallPiece) -> _Call:
        """The call that a piece belongs to; a new one, if it begins that."""
        last = next((call for call in reversed(self._calls) if piece.index in (call.index, None)), None)
        # A server that leaves the index out sends each call whole; Ollama and vLLM have sent each with index
        # 0, told apart by their ids only. A name belongs to that: Poolside sends another id in later pieces.
        is_another = piece.name and (piece.index is None or (piece.id and last and piece.id != last.id))
        if last is None or is_another:
            index = len(self._calls) if piece.index is None else piece.index
            last = _Call(index, piece.id or "", piece.name)
            self._calls.append(last)
            self.size += 1 + len(last.id) + len(last.name)
        return last

    def reply(self) -> Reply:
        """Put it together."""
        return Reply(
            text=encodable("".join(self._text)),
            refusal=encodable("".join(self._refusal)),
            calls=[
                ToolCall(encodable(call.id), encodable(call.name), _arguments(call.arguments))
                for call in sorted(self._calls, key=lambda call: call.index)
            ],
            finish=self.finish,
            model=self._model,
            usage=self._counts,
        )


def _arguments(pieces: Sequence[str]) -> str:
    """Put them together; some models write null, or nothing, for none."""
    text = encodable("".join(pieces))
    return "{}" if text.strip() in ("", "null") else text
