"""One query in a process of the pool, seen from the worker: what the handler says and asks meanwhile."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context as Variables
from typing import Any

import attrs
import trio

from trio_worker.capture import uncaptured
from trio_worker.context import Context
from trio_worker.handlers.frames import MOST_LOGGED, MOST_TEXT, pack
from trio_worker.masks import masks
from trio_worker.token_usage import TokenUsage

__all__ = ["Message", "Run", "log_record"]

Message = dict[str, Any]


@attrs.define(eq=False)
class Run:
    """One query in a process.

    Attributes:
        number: Its number there.
        ctx: Serves what the handler says and asks.
        nursery: Where its questions are answered.
        begun: Whether the handler was called.
        end: What came of it, as `trio_worker.handlers.pool_child` says it; None when the process died.
        ended: Set when nothing more comes.
        variables: In which what it logs is logged: with the query's id, and not brought to the query's log,
            for its process has done that.
    """

    number: int
    ctx: Context
    nursery: trio.Nursery
    _reply: Callable[[bytes], Awaitable[None]]
    begun: bool = False
    end: Message | None = None
    ended: trio.Event = attrs.field(factory=trio.Event)
    variables: Variables = attrs.field(factory=uncaptured)

    def hear(self, message: Message) -> None:
        """Take a message of the process.

        Raises:
            ValueError: It is none that can be understood; so is KeyError, TypeError or RecursionError.
        """
        match message:
            case {"log": str(text)}:
                self.ctx.log(text if len(text) < MOST_LOGGED else masks.hide_in_beginning(text) + "…")
            case {"save": str(text)}:
                self.ctx.save(json.loads(text))
            case {"note_usage": dict(fields)}:
                self.ctx.note_token_usage(TokenUsage(**fields))
            case {"ask": int(number), "what": str(what)}:
                self.nursery.start_soon(self._answer, number, what, message)
            case {"begun": True}:
                self.begun = True
            case {"end": dict(end)}:
                self.end = end
                self.ended.set()
            case _:
                raise ValueError(f"a message with {', '.join(message)}")

    async def _answer(self, number: int, what: str, message: Message) -> None:
        reply: Message = {"run": self.number, "answer": number}
        try:
            data = pack(reply | {"value": await self._found(what, message)})
        except Exception as error:  # noqa: BLE001 - it is the handler who has asked
            problem = [type(error).__name__, str(error), getattr(error, "status", None)]
            data = pack(reply | {"error": problem})
        await self._reply(data)

    async def _found(self, what: str, message: Message) -> object:
        if what == "extend":
            return self.ctx.extend(message["seconds"]).isoformat()
        if what == "token_usage":
            await self.ctx.token_usage(**message["usage"])
            return None
        if what == "project":
            project = await self.ctx.project()
            return None if project is None else attrs.asdict(project)
        raise ValueError(f"no such question: {what}")


def log_record(record: Message, run: Run | None) -> None:
    """Log what was logged in a process, as if it had been here.

    Args:
        record: As `trio_worker.handlers.pool_records` describes it.
        run: Of which query; None: of none.

    Raises:
        KeyError: It is no record; so is TypeError.
    """
    text, lines = record["text"], record["traceback"]
    if len(text) >= MOST_LOGGED:
        text = masks.hide_in_beginning(text) + "…"
    if len(lines) >= MOST_TEXT:
        lines = masks.hide_in_end(lines)
    # Where the worker's own log has an exception's text.
    extra = {"exception": lines} if lines else None
    # Not in this task's context: a process is started by the query that needs one, and lives on.
    variables = Variables() if run is None else run.variables
    variables.run(logging.getLogger(record["logger"]).log, record["level"], text, extra=extra)
