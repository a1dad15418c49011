"""The door to the model server: one call of ``POST {base}/chat/completions``, and how it may end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx
import msgspec
import trio
from httpx_sse import EventSource, ServerSentEvent, SSEError, aconnect_sse

from trio_worker.answers import retry_after
from trio_worker.chat_settings import ChatSettings
from trio_worker.handlers.chat.failures import Misconfigured, ModelError, NoAnswer, NotNow
from trio_worker.handlers.chat.reply import Chunk, Reply
from trio_worker.masks import MASK

__all__ = ["Model", "open_client"]

CONNECT_SECONDS = 10.0
LINGER_SECONDS = 1.0
"""From the last event of an answer to the end of its stream."""

_MOST_OF_AN_ERROR = 65_536  # bytes that are read of an answer that is none
_ERROR_SECONDS = 10.0  # for reading them
_LONGEST_DETAIL = 300  # characters of it in the log
_END = "[DONE]"


@asynccontextmanager
async def open_client(
    settings: ChatSettings, transport: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """Open the client that all queries share.

    Args:
        settings: Where the server is, and its key.
        transport: Another way to it than sockets.
    """
    headers = {} if settings.api_key is None else {"Authorization": f"Bearer {settings.api_key}"}
    # No limit for an answer: how long a model may think is the query's own deadline, under which this is
    # called. No limit of connections: httpcore's pool loses one for each request that is cancelled while it
    # waits for one.
    async with httpx.AsyncClient(
        headers=headers,
        timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=4),
        transport=transport,
    ) as client:
        yield client


@attrs.frozen
class _Dialect:
    """What this server and model take of what not all take; found out by asking."""

    asks_usage: bool = True
    max_tokens: str = "max_tokens"

    def simpler(self, problem: str) -> _Dialect | None:
        """Give the next to try after a request was refused, or None."""
        # OpenAI's newer models want another name, and say so.
        if self.max_tokens not in problem or "max_completion_tokens" not in problem:
            return attrs.evolve(self, asks_usage=False) if self.asks_usage else None
        if self.max_tokens == "max_completion_tokens":
            return None
        return attrs.evolve(self, max_tokens="max_completion_tokens")


class _Declined(NoAnswer):
    """The server does not take the request: perhaps it takes a simpler one."""


@attrs.define
class Model:
    """A model at its server.

    Attributes:
        client: From `open_client`.
        settings: What is asked for.
    """

    client: httpx.AsyncClient
    settings: ChatSettings
    _dialect: _Dialect = attrs.field(factory=_Dialect, init=False)

    async def ask(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        heard: Callable[[int], None],
    ) -> Reply:
        """Ask the model for its next message.

        Cancelled, it closes the connection, and the server stops.

        Args:
            messages: What was said so far.
            tools: What it may call, as the API has it.
            heard: Called with the number of characters that have come, each time some do.

        Raises:
            ModelError: There is no such message, or only a part of it; see there.
        """
        dialect = self._dialect
        while True:
            try:
                reply = await self._ask(self._payload(messages, tools, dialect), heard)
            except _Declined as declined:
                simpler = dialect.simpler(declined.reason)
                if simpler is None:
                    raise
                dialect = simpler
            else:
                self._dialect = dialect  # what has worked will work again
                return reply

    async def names(self) -> list[str] | None:
        """List the models of the server; None: it does not list them.

        Raises:
            ModelError: It can't be asked.
        """
        try:
            response = await self.client.get(f"{self.settings.base_url}/models")
        except httpx.TransportError as error:
            raise NotNow(_said(error)) from error
        if response.status_code in (404, 405, 501):
            return None
        if response.status_code != 200:
            raise self._judge(response, response.content)
        try:
            return msgspec.json.decode(response.content, type=_Models).names()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Misconfigured("answers, but not as a model server does") from error

    def _payload(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], dialect: _Dialect
    ) -> dict[str, Any]:
        settings = self.settings
        payload: dict[str, Any] = {"model": settings.model, "messages": messages, "stream": True}
        if dialect.asks_usage:
            payload["stream_options"] = {"include_usage": True}
        if settings.temperature is not None:
            payload["temperature"] = settings.temperature
        if settings.max_tokens is not None:
            payload[dialect.max_tokens] = settings.max_tokens
        if tools:
            payload["tools"] = tools
        return payload

    async def _ask(self, payload: Mapping[str, Any], heard: Callable[[int], None]) -> Reply:
        reply = Reply()
        try:
            async with aconnect_sse(
                self.client,
                "POST",
                f"{self.settings.base_url}/chat/completions",
                content=msgspec.json.encode(payload),
                headers={"Content-Type": "application/json"},
            ) as source:
                if source.response.status_code != 200:
                    raise self._judge(source.response, await _beginning_of(source.response))
                await self._listen(source, reply, heard)
        except SSEError as error:
            raise Misconfigured(f"answers with no stream: {error}") from error
        except (httpx.TransportError, httpx.DecodingError, UnicodeDecodeError) as error:
            raise _broken(reply, _said(error)) from error
        return reply

    async def _listen(self, source: EventSource, reply: Reply, heard: Callable[[int], None]) -> None:
        """Take the events up to the end of the stream.

        Raises:
            ModelError: It ended too early, or with an error.
        """
        is_over = False
        problem: ModelError | None = None
        # Never left by a `break` or an error of ours: the five generators of httpx behind it would be, half
        # read. Read to its end, the connection serves the next query; what does not end is cancelled, and
        # closed.
        with trio.CancelScope() as reading:
            async for event in source.aiter_sse():
                if is_over:
                    continue
                try:
                    is_over = self._take(event, reply)
                except ModelError as error:
                    is_over, problem = True, error
                if is_over:
                    reading.deadline = trio.current_time() + LINGER_SECONDS
                elif reply.text:
                    heard(len(reply.text))
        # Some servers leave [DONE] out, and some the finish_reason; without both it was cut.
        if not is_over and reply.finish is None:
            problem = _broken(reply, "the stream ended in the middle")
        if problem is not None:
            raise problem

    def _take(self, event: ServerSentEvent, reply: Reply) -> bool:
        """Take one event, and say whether it was the last."""
        if event.data.strip() == _END:
            return True
        try:
            chunk = msgspec.json.decode(event.data, type=Chunk)
        except msgspec.DecodeError as error:
            raise _broken(reply, f"a chunk that can't be understood: {error}") from error
        if chunk.error or event.event == "error":
            detail = _detail(event.data.encode())[1]
            raise _broken(reply, f"an error in the stream: {self._shown(detail or event.data)}")
        reply.add(chunk)
        return False

    def _judge(self, response: httpx.Response, body: bytes) -> ModelError:
        """Say what an answer with another status than 200 means."""
        status = response.status_code
        code, detail = _detail(body)
        reason = f"{status} {response.reason_phrase}".strip() + (f": {self._shown(detail)}" if detail else "")
        if code == "context_length_exceeded":
            return NoAnswer("too_long", reason)
        if code == "content_filter":
            return NoAnswer("filtered", reason)
        if status in (401, 403):
            return Misconfigured(f"refuses the key ({reason})")
        if status == 404 or status < 400 or code == "insufficient_quota":
            return Misconfigured(reason)
        if status in (408, 409, 425, 429) or status >= 500:
            return NotNow(reason, retry_after=retry_after(response))
        if status in (400, 422):
            return _Declined("not_taken", reason)
        return NoAnswer("too_long" if status == 413 else "not_taken", reason)

    def _shown(self, text: str) -> str:
        """What the server says, for the log; it may quote the key, which may be too short for the masks."""
        key = self.settings.api_key
        text = " ".join(text.split())
        return (text if key is None else text.replace(key, MASK))[:_LONGEST_DETAIL]


class _Named(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    """What ``GET /models`` answers; Ollama without a model has null for a list."""

    data: list[_Named] | None

    def names(self) -> list[str]:
        return [model.id for model in self.data or []]


def _broken(reply: Reply, reason: str) -> ModelError:
    """What it means when a reply breaks off: as long as nothing has come, nothing is lost by asking again."""
    if reply.has_begun:
        return NoAnswer("broken_off", f"{reason}, after {len(reply.text)} characters")
    return NotNow(reason)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


async def _beginning_of(response: httpx.Response) -> bytes:
    """Read what an error says, as far as it comes soon."""
    body = b""
    with trio.move_on_after(_ERROR_SECONDS) as reading:
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) >= _MOST_OF_AN_ERROR:
                reading.cancel()  # no `break`: as in `_listen`
    return body[:_MOST_OF_AN_ERROR]


def _detail(body: bytes) -> tuple[str, str]:
    """Read the code and the message of an error: OpenAI's shape, and those that are near to it."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "", ""  # a proxy's page says nothing that its status does not
    error = found.get("error", found) if isinstance(found, dict) else found
    if isinstance(error, dict):
        message = error.get("message") or error.get("detail") or ""
        return str(error.get("code") or ""), message if isinstance(message, str) else str(message)
    return "", error if isinstance(error, str) else ""
