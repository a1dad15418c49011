"""A query, worked on by the model: it is asked, what it calls is called, until it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import structlog

from trio_worker.chat_settings import ChatSettings
from trio_worker.context import Context
from trio_worker.errors import QueryFailed, WebBuddyError
from trio_worker.handlers.chat.draft import Draft
from trio_worker.handlers.chat.failures import NoAnswer
from trio_worker.handlers.chat.model import Model
from trio_worker.handlers.chat.patience import Patience
from trio_worker.handlers.chat.progress import Progress
from trio_worker.handlers.chat.prompt import NO_MORE_TOOLS, system_prompt
from trio_worker.handlers.chat.reply import Reply
from trio_worker.handlers.chat.sentences import Sentences
from trio_worker.handlers.chat.toolbox import Toolbox
from trio_worker.handlers.chat.usage import tell_usage
from trio_worker.project import Project
from trio_worker.query import Query

__all__ = ["Agent"]

log = structlog.get_logger(__name__)

Message = Mapping[str, Any]


@attrs.frozen(kw_only=True)
class Agent:
    """The handler: one for all queries, which share nothing but the way to the model.

    Attributes:
        settings: The operator's.
        model: Is asked.
        tools: What it may call.
        patience: Asks again when it is away.
        sentences: The language of what the query's author reads.
    """

    settings: ChatSettings
    model: Model
    tools: Toolbox
    patience: Patience
    sentences: Sentences

    async def handle(self, query: Query, ctx: Context) -> str:
        """Answer a query.

        Cancelled, it closes the connection to the model, which stops there, too.

        Raises:
            QueryFailed: The model has no answer, and says why.
            RetryLater: It is away for longer, or the operator has to do something.
        """
        prompt = system_prompt(self.settings.system_prompt, await self._project(ctx))
        messages: list[Message] = [
            {"role": "system", "content": prompt},
            {"role": "user", "content": query.query_text},
        ]
        try:
            return await self._converse(messages, Progress(ctx, self.sentences))
        except NoAnswer as error:
            log.warning("no answer of the model", model=self.settings.model, reason=error.reason)
            raise QueryFailed(getattr(self.sentences, error.sentence).format(**error.values)) from error

    async def _project(self, ctx: Context) -> Project | None:
        # What people have written about the project makes an answer better; most queries can do without it,
        # and an outage of WebBuddy, in which the query could only wait, may be over when the answer is there.
        try:
            return await ctx.project()
        except WebBuddyError as error:
            log.warning("the project's settings can't be read, going on without", reason=str(error))
            ctx.log(self.sentences.no_project)
            return None

    async def _converse(self, messages: list[Message], progress: Progress) -> str:
        ctx = progress.ctx
        for step in range(self.settings.max_steps):
            reply = await self._ask(messages, self.tools.schemas, progress)
            if not reply.calls:
                return _answer(reply)
            reply = reply.with_names(step)
            messages.append(reply.to_message())
            for call in reply.calls:
                messages.append(await self.tools.call(call, ctx))
        # An answer from what it knows is worth more to the author than a failure. It is asked for within the
        # last result: the templates of Qwen and Gemma refuse a system message that is not the first, and
        # Mistral a user's behind a tool's. And without the tools: Ollama ignores a `tool_choice` of "none",
        # and vLLM then leaves calls in the answer, as markup.
        ctx.log(self.sentences.steps_over.format(count=self.settings.max_steps))
        messages[-1] = {**messages[-1], "content": f"{messages[-1]['content']}\n\n{NO_MORE_TOOLS}"}
        reply = await self._ask(messages, (), progress)
        if reply.calls and not reply.answer:
            raise NoAnswer("no_end", "it calls tools without end", count=self.settings.max_steps)
        return _answer(reply)

    async def _ask(
        self, messages: Sequence[Message], schemas: Sequence[Message], progress: Progress
    ) -> Reply:
        async def ask(begun: Callable[[], None]) -> Reply:
            def heard(draft: Draft) -> None:
                begun()
                progress.heard(draft)

            return await self.model.ask(messages, schemas, heard)

        broken: NoAnswer | None = None
        try:
            reply = await self.patience.ask(ask, progress.ctx)
        except NoAnswer as error:
            if error.reply is None or not error.reply.usage:
                raise
            broken, reply = error, error.reply
        await tell_usage(progress.ctx, self.settings.model, messages, reply)
        if broken is not None:
            raise broken
        _check_end(reply)
        return reply


def _check_end(reply: Reply) -> None:
    """Look why a reply has ended.

    Raises:
        NoAnswer: Not because it was complete.
    """
    if reply.refusal.strip():
        raise NoAnswer("refused_why", f"it refuses: {reply.refusal}", said=reply.refusal.strip())
    if reply.finish == "content_filter":
        raise NoAnswer("filtered", "finish_reason content_filter")
    if reply.finish in ("length", "model_length"):  # the latter is Mistral's
        reason = (
            f"finish_reason {reply.finish}: {reply.usage}; CHAT_MAX_TOKENS, or the server's limit, is too low"
        )
        raise NoAnswer("cut_off" if reply.answer else "used_up", reason, text=reply.answer)


def _answer(reply: Reply) -> str:
    if not reply.answer:
        raise NoAnswer("empty", f"an empty answer, finish_reason {reply.finish}: {reply.usage}")
    return reply.answer
