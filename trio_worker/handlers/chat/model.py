"""The door to the model server: one call of ``POST {base}/chat/completions``, and how it may end."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx
import msgspec
import structlog
import trio

from trio_worker.answers import retry_after
from trio_worker.chat_settings import ChatSettings
from trio_worker.handlers.chat.cause import cause_of
from trio_worker.handlers.chat.complaint import judge, read_complaint
from trio_worker.handlers.chat.draft import Draft
from trio_worker.handlers.chat.encodable import encodable
from trio_worker.handlers.chat.failures import Declined, Misconfigured, ModelError, NotNow
from trio_worker.handlers.chat.listener import Listener
from trio_worker.handlers.chat.reply import Reply
from trio_worker.masks import MASK
from trio_worker.route import find_route

__all__ = ["Model", "find_way", "open_client"]

log = structlog.get_logger(__name__)

CONNECT_SECONDS = 10.0
_MOST_OF_AN_ERROR = 65_536  # bytes that are read of an answer that is none
_MOST_OF_A_LIST = 16_777_216  # bytes of all models; one that has more can't be read
_BODY_SECONDS = 10.0  # for reading either
_LONGEST_DETAIL = 300  # characters of what the server says, in the log

# Not compressed: what little that saves costs the bound on an event, since a kilobyte may become a megabyte.
_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "text/event-stream",
    "Accept-Encoding": "identity",
}


async def find_way(settings: ChatSettings) -> httpx.AsyncBaseTransport:
    """Make the way to the model server, without connecting to it yet: as to WebBuddy, proxies included.

    Raises:
        SettingsError: The environment names a proxy, or certificates, that can't be used.
    """
    route = await find_route(httpx.URL(settings.base_url))
    # No limit of connections: httpcore's pool loses one for each request that is cancelled while it waits for
    # one.
    return httpx.AsyncHTTPTransport(
        verify=route.context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # the latter trusts nobody
        proxy=route.proxy,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=4),
    )


@asynccontextmanager
async def open_client(
    settings: ChatSettings, way: httpx.AsyncBaseTransport
) -> AsyncIterator[httpx.AsyncClient]:
    """Open the client that all queries share.

    Args:
        settings: The key.
        way: From `find_way`, or another than by sockets.
    """
    headers = {} if settings.api_key is None else {"Authorization": f"Bearer {settings.api_key}"}
    # No limit for an answer: how long a model may think is the query's own deadline, under which this is
    # called.
    timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
    async with httpx.AsyncClient(headers=headers, timeout=timeout, transport=way) as client:
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

    def is_meant_by(self, refusal: str) -> bool:
        """Whether what was refused is what is asked otherwise here."""
        return any(name in refusal for name in ("stream_options", "include_usage", "max_completion_tokens"))


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
    _has_answered: bool = attrs.field(default=False, init=False)

    async def ask(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        heard: Callable[[Draft], None],
    ) -> Reply:
        """Ask the model for its next message.

        Cancelled, it closes the connection, and the server stops.

        Args:
            messages: What was said so far.
            tools: What it may call, as the API has it.
            heard: Called with what there is of the answer, each time something comes.

        Raises:
            ModelError: There is no such message, or only a part of it; see there.
        """
        dialect, why = self._dialect, ""
        while True:
            try:
                reply = await self._ask(self._payload(messages, tools, dialect), heard)
            except Declined as declined:
                simpler = dialect.simpler(declined.reason)
                if simpler is None or declined.sentence == "too_long":  # in other words it is as long
                    if self._has_answered:
                        raise
                    raise self._never_taken(declined) from declined
                dialect, why = simpler, declined.reason
            else:
                self._learn(dialect, why)
                return reply

    def _learn(self, dialect: _Dialect, why: str) -> None:
        """Ask in these words from now on: they have worked.

        Unless others have worked before, and were not what was refused: then it was a server's whim, by which
        no tokens would be counted any more.
        """
        if dialect != self._dialect and (not self._has_answered or dialect.is_meant_by(why)):
            log.warning(
                "the model server wants to be asked in other words", **attrs.asdict(dialect), reason=why
            )
            self._dialect = dialect
        self._has_answered = True

    def _never_taken(self, declined: Declined) -> Misconfigured:
        """Say what it means when a request is not taken by a model that has never answered.

        It may be unable to, with what is set: a temperature that it does not know, tools, too many tokens.
        Each server has other words for that, but no query is to fail by it.
        """
        about = f"; CHAT_MAX_TOKENS is {self.settings.max_tokens}" if declined.sentence == "too_long" else ""
        return Misconfigured(declined.reason + about)

    async def names(self) -> list[str] | None:
        """List the models of the server; None: it does not list them.

        Raises:
            ModelError: It can't be asked.
        """
        try:
            async with self.client.stream("GET", f"{self.settings.base_url}/models") as response:
                body = await _beginning_of(response, _MOST_OF_A_LIST)
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise NotNow(cause_of(error)) from error
        if response.status_code in (404, 405, 501):
            return None
        if response.status_code != 200:
            raise self._judge(response, body)
        try:
            return msgspec.json.decode(body, type=_Models).names()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
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

    async def _ask(self, payload: Mapping[str, Any], heard: Callable[[Draft], None]) -> Reply:
        listener = Listener(self._shown)
        try:
            async with self.client.stream(
                "POST",
                f"{self.settings.base_url}/chat/completions",
                content=encodable(json.dumps(payload, ensure_ascii=False)).encode(),
                headers=_HEADERS,
            ) as response:
                if response.status_code != 200 or not _is_stream(response):
                    raise self._judge(response, await _beginning_of(response, _MOST_OF_AN_ERROR))
                await _listen(response, listener, heard)
        except (httpx.TransportError, httpx.DecodingError) as error:
            listener.lose(cause_of(error))
        return listener.reply()

    def _judge(self, response: httpx.Response, body: bytes) -> ModelError:
        """Say what an answer means that is none."""
        complaint = read_complaint(body)
        said = f": {self._shown(complaint.message)}" if complaint.message else ""
        reason = f"{response.status_code} {response.reason_phrase}".strip() + said
        if response.status_code == 200:
            reason = f"answers with no stream, but with {response.headers.get('content-type')!r}{said}"
        if response.has_redirect_location:
            where = self._shown(response.headers["location"])
            reason = f"{reason}, a redirect to {where}: set CHAT_BASE_URL to where that is"
        # Once it has begun to answer, a server may have no other place for the status than the body.
        status = (complaint.status if response.status_code == 200 else None) or response.status_code
        return judge(status, complaint, reason, retry_after=retry_after(response))

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


def _is_stream(response: httpx.Response) -> bool:
    return "text/event-stream" in response.headers.get("content-type", "").lower()


async def _listen(response: httpx.Response, listener: Listener, heard: Callable[[Draft], None]) -> None:
    """Take the stream up to its end."""
    # Never left by a `break` or an error of ours: the generators of httpx behind it would be, half read. Read
    # to its end, the connection serves the next query; what does not end is cancelled, and closed.
    with trio.CancelScope() as reading:
        async for piece in response.aiter_bytes():
            if listener.feed(piece):
                reading.deadline = trio.current_time() + listener.patience
            heard(listener.draft)


async def _beginning_of(response: httpx.Response, most: int) -> bytes:
    """Read what does not stream, as far as it comes soon, and some bytes more than `most` at the most."""
    body = bytearray()
    with trio.move_on_after(_BODY_SECONDS) as reading:
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) >= most:
                reading.cancel()  # no `break`: as in `_listen`
    return bytes(body)
