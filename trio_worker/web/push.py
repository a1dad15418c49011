"""The app that listens: the push endpoint, and Quart-Trio for everything else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
from h11 import LocalProtocolError
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope
from quart import Response
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from trio_worker.figures import Figures
from trio_worker.liveness import Liveness
from trio_worker.neighbours import Neighbours
from trio_worker.trouble import Trouble
from trio_worker.web.guard import CHALLENGE, Guard
from trio_worker.web.hypercorn_fixes import FixedHTTPConnection
from trio_worker.web.livez import LIVE_PATH, livez
from trio_worker.web.metrics import METRICS_PATH, Metrics
from trio_worker.web.openapi import OPENAPI_PATH, openapi
from trio_worker.web.page_headers import with_page_headers
from trio_worker.web.push_counts import PushCounts
from trio_worker.web.push_endpoint import PUSH_PATH, PushEndpoint, client_of
from trio_worker.web.readiness import READY_PATH, Readiness, readyz
from trio_worker.web.reply import reply
from trio_worker.web.status_page import StatusPage

__all__ = ["PUSH_PATH", "PushCounts", "make_app"]

# Of all but the push, which has a limit of its own: nothing here reads a body.
_MAX_BODY_BYTES = 64 * 1024

_MOST_PATH = 100  # characters of it in the log

_log = structlog.stdlib.get_logger(__name__)


def make_app(
    *,
    pushed: Callable[[int], None],
    own_url: str,
    counts: PushCounts | None = None,
    readiness: Readiness | None = None,
    liveness: Liveness | None = None,
    status_page: StatusPage | None = None,
    guard: Guard | None = None,
    figures: Figures | None = None,
    neighbours: Neighbours | None = None,
) -> QuartTrio:
    """Build the ASGI app: the push endpoint, ``POST /api/process-query``, the probes, the status page and
    ``/openapi.json``, which says what of these there is.

    But for the page, it answers every request in JSON: 200 ``{"status": "accepted"}`` for a push, otherwise
    ``{"detail": ...}`` with 400, 401, 404, 405, 408 (the body took too long), 413 or 500.

    A push whose body has arrived as a whole is told to ``pushed`` even if the client has hung up
    meanwhile: WebBuddy's gives up after 2 seconds and does not repeat.

    Args:
        pushed: Called once for each push, with the id that it names. Synchronous: it must not
            block. What it raises becomes a 500.
        own_url: Our ``WEBBUDDY_URL``. A push that names another one is accepted all the same; the
            first is logged, all are counted.
        counts: Where to count. Without it nobody reads the numbers.
        readiness: Knows whether the worker is ready. Without it there is no ``/readyz``.
        liveness: Knows whether the worker's loops keep their time. Without it there is no ``/livez``.
        status_page: Shows people what the worker does. Without it there is nothing at ``/``.
        guard: Knows who may ask. Without it everybody may.
        figures: What it counts. Without it there is no ``/metrics``.
        neighbours: The other processes behind our address, for whom this one answers as well.
    """
    neighbours = neighbours if neighbours is not None else Neighbours()
    push = PushEndpoint(pushed, own_url, counts if counts is not None else PushCounts())
    guard = guard if guard is not None else Guard()
    app = _PushApp(push, guard)
    # Without provide_automatic_options=False, Quart would answer OPTIONS with 200.
    add = partial(app.add_url_rule, methods=["GET"], provide_automatic_options=False)
    if readiness is not None:
        add(READY_PATH, "ready", readyz(readiness, neighbours))
    if liveness is not None:
        add(LIVE_PATH, "live", livez(liveness))
    if figures is not None:
        add(METRICS_PATH, "metrics", Metrics(figures, neighbours).handle)
    if status_page is not None:
        status_page.add_to(app)
    add(OPENAPI_PATH, "openapi", openapi(app.paths, guard))
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, app.unexpected_error)
    return app


class _PushApp(QuartTrio):
    asgi_http_class = FixedHTTPConnection

    def __init__(self, push: PushEndpoint, guard: Guard) -> None:
        super().__init__(__name__, static_folder=None)
        self.config["MAX_CONTENT_LENGTH"] = _MAX_BODY_BYTES
        self._push = push
        self._guard = guard
        # One for each hint, since a line counts what has come before under the hint of the last.
        self._strange_pushes = Trouble(_log, "a push without the right token is refused")
        self._strange_requests = Trouble(_log, "a request without the right token is refused")
        self._broken = Trouble(_log, "a page broke: a bug", level="error")

    def paths(self) -> set[str]:
        """Say what there is."""
        return {PUSH_PATH, *(rule.rule for rule in self.url_map.iter_rules())}

    async def asgi_app(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "websocket":
            # Nobody has one here. Where a client talks before it is answered, hypercorn has hung up on it,
            # and would log that we can't any more: with a traceback, for each such packet of anybody.
            with suppress(LocalProtocolError):
                await send({"type": "websocket.close", "code": 1000, "reason": None})
            return
        if scope["type"] != "http":
            await super().asgi_app(scope, receive, send)
            return
        path = _tidy_path(scope["path"], scope.get("root_path", ""))
        scope = {**scope, "path": path, "root_path": ""}
        send = with_page_headers(send)
        is_push = path == PUSH_PATH
        headers = scope["headers"]
        if _has_two_lengths(headers):
            # A server may take the chunks, but a proxy in front may have taken the length, and for a body
            # what is a request to us. So it is the last one of its connection, too.
            await reply(send, 400, {"detail": "a length, and chunks"}, (b"connection", b"close"))
        elif not (self._guard.admits_push(headers) if is_push else self._guard.admits(path, headers)):
            self._note_stranger(scope, is_push=is_push)
            await reply(send, 401, {"detail": "a token is needed, or another one"}, CHALLENGE)
        elif is_push:
            await self._push.handle(scope, receive, send)
        else:
            await super().asgi_app(scope, receive, send)

    def _note_stranger(self, scope: HTTPScope, *, is_push: bool) -> None:
        came = {"client": client_of(scope), "path": scope["path"][:_MOST_PATH]}
        if is_push:
            self._push.counts.refused += 1
            self._strange_pushes.happened(**came, hint="FASTAPI_URL is http://push:WORKER_PUSH_TOKEN@…")
        else:
            self._strange_requests.happened(**came, hint="send WORKER_ADMIN_TOKEN")

    # Async, as `_http_error`, because Quart calls others in a thread.

    async def unexpected_error(self, error: Exception) -> Response:
        """Answer with 500."""
        self._broken.happened(type(error).__name__, exc_info=error)
        return _json(500, {"detail": "internal error"})


def _has_two_lengths(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    names = {name.lower() for name, _ in headers}
    return b"content-length" in names and b"transfer-encoding" in names


def _tidy_path(path: str, root_path: str) -> str:
    """The path in the one spelling that is routed.

    ``FASTAPI_URL`` is joined to the path by hand, hence ``//api/process-query``. Werkzeug's
    router would answer that with a redirect, and WebBuddy takes only a 200 for success. The
    root path is cut off where it is there; a proxy may have cut it off already.
    """
    path = re.sub("/{2,}", "/", path)
    if root_path and path.startswith(f"{root_path}/"):
        path = path.removeprefix(root_path)
    return path.rstrip("/") or "/"


async def _http_error(error: HTTPException) -> Response:
    response = _json(error.code or 500, {"detail": error.description or error.name})
    # 405 says in `Allow` what would do, and other errors have headers of their own.
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response


def _json(status: int, content: dict[str, Any]) -> Response:
    # By hand: Quart's own would add a line break and take out the blank.
    return Response(json.dumps(content), status=status, content_type="application/json")
