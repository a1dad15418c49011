"""What hypercorn 0.18 and quart-trio 0.12 and 0.13 get wrong, mended from outside.

Each has a test that fails without it (tests/test_hypercorn_fixes.py).
"""

from __future__ import annotations

import math
from functools import partial, wraps
from typing import Any, NoReturn

import attrs
import hypercorn.trio.run
import quart.wrappers
import structlog
import trio
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent
from quart_trio.asgi import TrioASGIHTTPConnection

from trio_worker.trouble import Trouble
from trio_worker.web.connections import BACKLOG, heard, serve_listeners, socket_of

__all__ = ["ClientGone", "FixedHTTPConnection", "install"]

# What quart raises since 0.23 when the client has hung up. Before that it raised nothing.
ClientGone: type[Exception] = getattr(quart.wrappers, "ClientDisconnectedError", ConnectionError)

# For the few steps behind the last byte of an answer, and for each part of it. Longer than _SEND_SECONDS,
# on which they may wait.
_FINAL_SEND_SECONDS = 5.0
# For a client to take what is sent to it. As short as that because the server's end waits for it.
_SEND_SECONDS = 3.0
# Without a byte from the client or, as for the status page's stream, to it. Idle connections have hypercorn's
# `keep_alive_timeout`; this is for those of which hypercorn has lost count.
_RECEIVE_SECONDS = 60.0

_log = structlog.stdlib.get_logger(__name__)


class FixedHTTPConnection(TrioASGIHTTPConnection):
    """Lets the end of a response be processed, so that connections are closed when they should.

    hypercorn answers the last part of a response with ``http.disconnect``, on which quart-trio
    cancels everything of this request: also the very send that hypercorn is still in, before it
    has closed the connection (``Connection: close``) or started the clock of an idle one. Both
    then stay open for as long as the client likes, and each holds up the shutdown.

    A client that reads nothing has an end here as well: on HTTP/2 it need not even leave its socket alone,
    it only grants no window.

    A client that hangs up before the answer is no error: quart-trio 0.13 lets one out of the app, and
    hypercorn would log it with a traceback for each of WebBuddy's time-outs.

    Use it as ``asgi_http_class`` of a `quart_trio.QuartTrio`.
    """

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        async def send_all_of_it(event: ASGISendEvent) -> None:
            if event["type"] == "http.response.body" and not event.get("more_body", False):
                with trio.move_on_after(_FINAL_SEND_SECONDS, shield=True):
                    await send(event)
                return
            with trio.move_on_after(_FINAL_SEND_SECONDS):
                await send(event)
                return
            raise ClientGone("the client does not read")

        try:
            await super().__call__(receive, send_all_of_it)
        except* ClientGone:
            pass


def install() -> None:
    """Make hypercorn's trio server survive every packet and every client. Safe to call again.

    - A connection's error would go up through the server's nursery and end the process; data behind
      a websocket upgrade request is enough (AttributeError, pgjones/hypercorn#225). Now it is logged
      and ends that connection alone.
    - hypercorn shields what it sends, without a deadline: a client that asks and never reads would
      hold up the shutdown for ever.
    - After some packets (the same upgrade; an HTTP/2 preface with rubbish behind it) no clock of
      hypercorn's watches the connection any more.

    - When a client has closed its idle connection, the clock of that ran on, and with it two tasks and a
      socket for each push of the last 5 seconds.
    - It takes every connection at once, however many come; see `trio_worker.web.connections`.

    This replaces methods of a class, and a name in a module, because hypercorn has no hook there.
    """
    hypercorn.trio.run.trio = _trio_with_places  # type: ignore[attr-defined, assignment]
    if TCPServer.run is not _run_guarded:
        TCPServer.run = _run_guarded  # type: ignore[method-assign]
        TCPServer._read_data = _read_to_the_end  # type: ignore[method-assign]


_run_unguarded = TCPServer.run


@wraps(_run_unguarded)
async def _run_guarded(self: TCPServer) -> None:
    self.stream = _ImpatientStream(self.stream, self.config.read_timeout or _RECEIVE_SECONDS)  # type: ignore[assignment]
    try:
        await _run_unguarded(self)
    # Whatever it is, it concerns one connection, and trio.serve_listeners closes that behind us.
    # `except*` lets a Cancelled in the same group through.
    except* Exception as errors:  # noqa: BLE001
        _broken_connections().happened(type(_first_in(errors)).__name__, exc_info=errors)


def _first_in(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


_broken: trio.lowlevel.RunVar[Trouble] = trio.lowlevel.RunVar("trio_worker: broken connections")


def _broken_connections() -> Trouble:
    # Of this run: a connection has no owner here that would outlive it, and anybody can send such packets.
    try:
        return _broken.get()
    except LookupError:
        _broken.set(Trouble(_log, "a connection broke the HTTP server's code and was closed", level="error"))
        return _broken.get()


_read_data = TCPServer._read_data


@wraps(_read_data)
async def _read_to_the_end(self: TCPServer) -> None:
    await _read_data(self)
    clock = self.idle_task
    # In this order: the end of an answer that is still under way would start it again.
    self.idle_task = _NoClock()  # type: ignore[assignment]
    await clock.stop()


class _NoClock:
    """Of a connection whose client has gone."""

    async def restart(self, task_group: object, action: object) -> None:
        pass

    async def stop(self) -> None:
        pass


async def _serve_listeners(
    handler: partial[TCPServer], listeners: list[trio.SocketListener], *, handler_nursery: trio.Nursery
) -> NoReturn:
    config = handler.args[1]
    for listener in listeners:
        socket_of(listener).listen(max(BACKLOG, config.backlog))
    await serve_listeners(handler, listeners, handler_nursery=handler_nursery)


class _TrioWithPlaces:
    """Trio as hypercorn's `run` module sees it: all is Trio's own but that."""

    serve_listeners = staticmethod(_serve_listeners)

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


_trio_with_places = _TrioWithPlaces()


@attrs.define
class _ImpatientStream:
    """A connection whose every wait for the client has an end. All else is the stream's own."""

    stream: Any  # trio.SocketStream, or trio.SSLStream around one
    receive_seconds: float
    _sent_at: float = attrs.field(default=-math.inf, init=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    async def send_all(self, data: bytes) -> None:
        if not data:  # the end of each answer, to hypercorn; a scope and a checkpoint less for each push
            return
        with trio.move_on_after(_SEND_SECONDS):
            try:
                await self.stream.send_all(data)
            except trio.BusyResourceError:
                # hypercorn sends one thing at a time, but closes, which says "no more", in the midst of that:
                # when rubbish comes while it answers.
                raise trio.BrokenResourceError("the connection is being closed") from None
            self._sent_at = trio.current_time()
            return
        await self._give_up()

    async def receive_some(self, max_bytes: int) -> bytes:
        give_up_at = trio.current_time() + self.receive_seconds
        while trio.current_time() < give_up_at:
            with trio.move_on_at(give_up_at):
                data = bytes(await self.stream.receive_some(max_bytes))
                heard()
                return data
            give_up_at = self._sent_at + self.receive_seconds
        await self._give_up()
        return b""

    async def _give_up(self) -> None:
        await trio.aclose_forcefully(self.stream)
        raise trio.BrokenResourceError("the client neither reads nor writes")
