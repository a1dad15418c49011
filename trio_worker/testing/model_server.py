"""An embedded model server: answers as it is told, over sockets or, in virtual time, in the same program.

::

    server = ModelServer()
    server.will(Saying(calls=[ToolRequest("look", {"page": "/login"})]), Saying(text="It is up."))
    async with server.running():
        ... httpx.AsyncClient(transport=server.transport()) …      # or: async with serve_model(server) as
        base_url

It streams as OpenAI's API reference has it, and knows ``POST /v1/chat/completions`` and ``GET /v1/models``.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import attrs
import httpx
import trio

from trio_worker.testing.knobs import Watched
from trio_worker.testing.model_answers import Failing, Saying, Streaming, error
from trio_worker.testing.streaming import (
    CutError,
    Message,
    Receive,
    Send,
    StreamingTransport,
    serve_app,
)

__all__ = ["ModelServer", "serve_model"]

Answer = Saying | Streaming | Failing


@attrs.define(kw_only=True, eq=False)
class ModelServer(Watched):
    """A model server to run the handler against, or another that speaks that language.

    Attributes:
        models: Those that it has; a request for another is answered with 404.
        key: What a request has to bring as its Bearer token, or None.
        refuses: Keys of a request that this server does not know: it answers 400, as older ones do.
        lists: Whether it lists its models; some do not.
        down: It refuses connections; only without sockets.
        requests: The bodies of the requests for completions, in their order.
        headers: Their headers.
        given_up: How many answers were stopped since who asked hung up.
    """

    models: tuple[str, ...] = ("test-model",)
    key: str | None = None
    refuses: frozenset[str] = frozenset()
    lists: bool = True
    down: bool = False
    requests: list[dict[str, Any]] = attrs.field(factory=list, init=False)
    headers: list[dict[str, str]] = attrs.field(factory=list, init=False)
    given_up: int = attrs.field(default=0, init=False)
    _script: deque[Answer] = attrs.field(factory=deque, init=False)
    _nursery: trio.Nursery | None = attrs.field(default=None, init=False)

    def will(self, *answers: Answer) -> None:
        """Say how the next requests are answered. After that it repeats what the user has said last."""
        self._script.extend(answers)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Let it answer over `transport`. At the end what is under way is cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                yield self
            finally:
                self._nursery = None
                nursery.cancel_scope.cancel()

    def transport(self) -> httpx.AsyncBaseTransport:
        """Give a way to it without sockets. It works in virtual time.

        Raises:
            RuntimeError: It does not run.
        """
        if self._nursery is None:
            raise RuntimeError("the model server does not run: use it inside `async with server.running()`")
        return StreamingTransport(self.app, self._nursery, is_down=lambda: self.down)

    async def app(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request; an ASGI app.

        Raises:
            CutError: The connection is to be closed.
        """
        body = await _body(receive)
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            await _fail(send, Failing(status=401, message="Incorrect API key", code="invalid_api_key"))
        elif self.lists and (scope["method"], scope["path"]) == ("GET", "/v1/models"):
            models = [{"id": name, "object": "model", "owned_by": "us"} for name in self.models]
            await _whole(send, 200, json.dumps({"object": "list", "data": models}))
        elif (scope["method"], scope["path"]) == ("POST", "/v1/chat/completions"):
            self.headers.append(headers)
            await self._complete(json.loads(body), receive, send)
        else:
            await _fail(send, Failing(status=404, message="Unknown path", code="unknown_url"))

    async def _complete(self, request: dict[str, Any], receive: Receive, send: Send) -> None:
        self.requests.append(request)
        self.announce()
        answer = self._answer_to(request)
        if isinstance(answer, Failing):
            await _fail(send, answer)
            return
        is_ended = is_cut = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when_gone, receive, nursery.cancel_scope)
                try:
                    if isinstance(answer, Streaming):
                        await _send_as_given(send, answer)
                    else:
                        await _stream(send, request, answer)
                except CutError:  # a nursery would wrap it
                    is_cut = True
                is_ended = True
                nursery.cancel_scope.cancel()
        finally:
            self.given_up += not is_ended
            self.announce()
        if is_cut:
            raise CutError

    def _answer_to(self, request: dict[str, Any]) -> Answer:
        if unknown := self.refuses.intersection(request):
            names = ", ".join(sorted(unknown))
            hint = " Use 'max_completion_tokens' instead." if "max_tokens" in unknown else ""
            return Failing(status=400, message=f"Unrecognized request argument: {names}.{hint}")
        if request["model"] not in self.models:
            message = f"The model '{request['model']}' does not exist"
            return Failing(status=404, message=message, code="model_not_found")
        if self._script:
            return self._script.popleft()
        said = [message["content"] for message in request["messages"] if message["role"] == "user"]
        return Saying(text=f"You said: {said[-1]}")


@asynccontextmanager
async def serve_model(server: ModelServer) -> AsyncIterator[str]:
    """Serve it on a real socket, on a free port.

    Yields:
        Its ``CHAT_BASE_URL``.
    """
    async with serve_app(server.app) as url:
        yield f"{url}/v1"


async def _stream(send: Send, request: dict[str, Any], answer: Saying) -> None:
    await trio.sleep(answer.first)
    if answer.cut_after == 0:
        raise CutError
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    with_usage = bool((request.get("stream_options") or {}).get("include_usage"))
    for number, data in enumerate(answer.chunks(request["model"], with_usage=with_usage), start=1):
        await _event(send, data)
        if answer.cut_after == number:
            raise CutError
        if answer.error_after == number:
            await _event(send, json.dumps(error("The server had an error", "server_error")))
            await _event(send, "[DONE]")  # as vLLM does: the end is no sign that it went well
            break
        await trio.sleep(answer.pause)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_as_given(send: Send, answer: Streaming) -> None:
    headers = [(b"content-type", answer.content_type.encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for piece in answer.pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    if answer.then == "cut":
        raise CutError
    if answer.then == "silence":
        await trio.sleep_forever()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    """Stop when who has asked hangs up, as a model does, whose work costs."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _event(send: Send, data: str) -> None:
    body = f"data: {data}\n\n".encode()
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _fail(send: Send, answer: Failing) -> None:
    more = {} if answer.retry_after is None else {b"retry-after": b"%d" % answer.retry_after}
    if answer.location is not None:
        more[b"location"] = answer.location.encode()
    await _whole(send, answer.status, answer.text, more)


async def _whole(send: Send, status: int, text: str, more: dict[bytes, bytes] | None = None) -> None:
    body = text.encode()
    headers = {b"content-type": b"application/json", b"content-length": b"%d" % len(body)} | (more or {})
    await send({"type": "http.response.start", "status": status, "headers": list(headers.items())})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body", False):
            return body
