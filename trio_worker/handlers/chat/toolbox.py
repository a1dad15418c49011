"""The tools of one handler, called for the model: whatever goes wrong in that is told to the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec
import structlog

from trio_worker.context import Context
from trio_worker.errors import QueryFailed, RetryLater, leaves, unwrapped
from trio_worker.handlers.chat.reply import ToolCall
from trio_worker.handlers.chat.tools import ArgumentsError, Tool
from trio_worker.plain_text import text_of

__all__ = ["MOST_RESULT", "Toolbox"]

log = structlog.get_logger(__name__)

MOST_RESULT = 20_000
"""Characters of a result that the model is given: what fits into the smaller ones beside the rest."""

_LONGEST_QUOTED = 1_000  # characters of arguments that are no JSON, told back to the model
_LONGEST_SHOWN = 120  # characters of arguments, and of a result's first line, in the query's log


@attrs.frozen
class Toolbox:
    """What the model may call.

    Attributes:
        tools: They.
    """

    tools: Sequence[Tool]

    @property
    def schemas(self) -> list[Mapping[str, Any]]:
        """What the API is told of them."""
        return [tool.schema for tool in self.tools]

    async def call(self, call: ToolCall, ctx: Context) -> dict[str, str]:
        """Make one call, and a line of it in the query's log.

        Args:
            call: What the model asks for.
            ctx: Of the query.

        Returns:
            The message that tells the model what came of it, be it an error.

        Raises:
            QueryFailed: A tool has raised that; so with `RetryLater`.
        """
        result = ""
        try:
            result = _cut(await self._result(call, ctx))
        finally:
            # Also of one that ends the query, or does not end.
            shown = f"{call.name}({_shown(call.arguments)})"
            ctx.log(": ".join(filter(None, (shown, _shown(result.partition("\n")[0])))))
        return {"role": "tool", "tool_call_id": call.id, "content": result}

    async def _result(self, call: ToolCall, ctx: Context) -> str:
        tool = next((tool for tool in self.tools if tool.name == call.name), None)
        if tool is None:
            names = ", ".join(tool.name for tool in self.tools) or "none"
            return f"Error: there is no tool {call.name!r}. There are: {names}"
        try:
            return _as_text(await tool.call(tool.read(call.arguments), ctx))
        except ArgumentsError as error:
            # What is no object is not in the message of the call, where servers would refuse it.
            quoted = "" if call.is_object else f". You wrote: {call.arguments[:_LONGEST_QUOTED]}"
            return f"Error: the arguments do not fit: {error}{quoted}"
        except (Exception, SystemExit, BaseExceptionGroup) as raised:
            problem = unwrapped(raised)
            if isinstance(problem, QueryFailed | RetryLater):
                raise problem from None
            problems = list(leaves(problem))
            if not all(isinstance(problem, Exception | SystemExit) for problem in problems):
                raise  # it was cancelled, and something else besides
            log.warning("a tool of the model has raised", tool=call.name, exc_info=problem)
            said = "; ".join(f"{type(problem).__name__}: {text_of(problem)}" for problem in problems)
            return f"Error: {said}"


def _as_text(result: object) -> str:
    """What a tool gives, for the model: a text as it is, all else as JSON."""
    if isinstance(result, str):
        return result
    # Not by msgspec to its end: it knows no lone surrogates, which are mended when all is sent.
    return json.dumps(msgspec.to_builtins(result, str_keys=True), ensure_ascii=False, separators=(",", ":"))


def _cut(text: str) -> str:
    if len(text) <= MOST_RESULT:
        return text
    return f"{text[:MOST_RESULT]}\n[{len(text) - MOST_RESULT} more characters were cut off]"


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"
