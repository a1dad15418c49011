"""The push endpoint: WebBuddy knocks, we say "accepted" and look into the queue ourselves.

A push comes from an unauthenticated stranger, so nothing in it is trusted: its ``query_id``
chooses nothing, its ``webbuddy_url`` is compared and never called. All that a push can do is
to make the worker claim once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import attrs
import structlog
import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import BadRequest, HTTPException, RequestEntityTooLarge, RequestTimeout

from trio_worker.figures import Figures
from trio_worker.liveness import Liveness
from trio_worker.neighbours import Neighbours
from trio_worker.web.hypercorn_fixes import ClientGone, FixedHTTPConnection
from trio_worker.web.livez import LIVE_PATH, livez
from trio_worker.web.metrics import METRICS_PATH, Metrics
from trio_worker.web.push_counts import PushCounts
from trio_worker.web.readiness import READY_PATH, Readiness

__all__ = ["PUSH_PATH", "PushCounts", "make_app"]

PUSH_PATH = "/api/process-query"

# A push is about 100 bytes.
_MAX_BODY_BYTES = 64 * 1024
# WebBuddy itself gives up after 2 seconds.
_BODY_SECONDS = 2.0
# WebBuddy's ids are 64-bit columns.
_MAX_ID = 2**63 - 1

_log = structlog.stdlib.get_logger(__name__)


def make_app(
    *,
    pushed: Callable[[int], None],
    own_url: str,
    counts: PushCounts | None = None,
    readiness: Readiness | None = None,
    liveness: Liveness | None = None,
    figures: Figures | None = None,
    neighbours: Neighbours | None = None,
) -> QuartTrio:
    """Build the ASGI app with the push endpoint, ``POST /api/process-query``, and the probes.

    It answers every request in JSON: 200 ``{"status": "accepted"}`` for a push, otherwise
    ``{"detail": ...}`` with 400, 404, 405, 408 (the body took too long), 413 or 500.

    A client that hangs up makes QuartTrio cancel the request. A push whose body has arrived as a
    whole is told to ``pushed`` even then: WebBuddy's client gives up after 2 seconds and does
    not repeat.

    Args:
        pushed: Called once for each push, with the id that it names. Synchronous: it must not
            block. What it raises becomes a 500.
        own_url: Our ``WEBBUDDY_URL``. A push that names another one is accepted all the same; the
            first is logged, all are counted.
        counts: Where to count. Without it nobody reads the numbers.
        readiness: Knows whether the worker is ready. Without it there is no ``/readyz``.
        liveness: Knows whether the worker's loops keep their time. Without it there is no ``/livez``.
        figures: What it counts. Without it there is no ``/metrics``.
        neighbours: The other processes behind our address, whose figures are shown as well.
    """
    app = _PushApp(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = _MAX_BODY_BYTES
    endpoint = _PushEndpoint(pushed, _comparable(own_url), counts if counts is not None else PushCounts())
    # Without provide_automatic_options=False, Quart would answer OPTIONS with 200.
    app.add_url_rule(PUSH_PATH, "push", endpoint.handle, methods=["POST"], provide_automatic_options=False)
    if readiness is not None:
        ready = readiness.handle
        app.add_url_rule(READY_PATH, "ready", ready, methods=["GET"], provide_automatic_options=False)
    if liveness is not None:
        live = livez(liveness)
        app.add_url_rule(LIVE_PATH, "live", live, methods=["GET"], provide_automatic_options=False)
    if figures is not None:
        shown = Metrics(figures, neighbours if neighbours is not None else Neighbours()).handle
        app.add_url_rule(METRICS_PATH, "metrics", shown, methods=["GET"], provide_automatic_options=False)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected_error)
    return app


@attrs.define
class _PushEndpoint:
    pushed: Callable[[int], None]
    own_url: str | None
    counts: PushCounts

    async def handle(self) -> Response:
        try:
            query_id, url = _parse(await _read_body())
        except HTTPException:
            self.counts.refused += 1
            raise
        # No await between here and the answer: this is where a hang-up would cancel us.
        self.pushed(query_id)
        self.counts.accepted += 1
        _log.debug("push accepted", pushed_id=query_id)
        if url is not None and _comparable(url) != self.own_url:
            self.note_other_url(url)
        return _json(200, {"status": "accepted"})

    def note_other_url(self, url: object) -> None:
        # One line for all of them, and no set of those already seen: anybody can send as many as
        # they like.
        if not self.counts.other_url:
            _log.warning(
                "a push named another WebBuddy; it is never contacted, only WEBBUDDY_URL is",
                pushed_url=_printable(url),
                webbuddy_url=_printable(self.own_url),
            )
        self.counts.other_url += 1


async def _read_body() -> bytes:
    """The request's body.

    Shielded, so that a client who hangs up right behind a complete body is still heard. The
    price: one who hangs up in the middle of it costs a sleeping task until the deadline.
    """
    body = bytearray()
    with trio.move_on_after(_BODY_SECONDS, shield=True):
        try:
            async for chunk in request.body:
                body += chunk
                # Chunked bodies announce no length, and quart 0.23 would buffer all of one.
                if len(body) > _MAX_BODY_BYTES:
                    raise RequestEntityTooLarge(f"a push has at most {_MAX_BODY_BYTES} bytes")
        except ClientGone:  # quart 0.22 has no word for it, and ends at the deadline
            raise BadRequest("the body broke off") from None
        return bytes(body)
    raise RequestTimeout(f"the body did not arrive within {_BODY_SECONDS:g} seconds")


def _parse(body: bytes) -> tuple[int, object]:
    # The Content-Type is not looked at: what parses is what counts.
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):  # ValueError covers bad UTF-8 and numbers of 5000 digits
        raise BadRequest("the body is not JSON") from None
    if not isinstance(data, dict):
        raise BadRequest("the body is not a JSON object")
    query_id = data.get("query_id")
    # To Python true is 1; to WebBuddy it is no id.
    if not isinstance(query_id, int) or isinstance(query_id, bool) or not 0 < query_id <= _MAX_ID:
        raise BadRequest("query_id must be a positive 64-bit integer")
    return query_id, data.get("webbuddy_url")


def _comparable(url: object) -> str | None:
    """The URL in the one spelling in which equal ones are equal; None for what is none."""
    if not isinstance(url, str):
        return None
    try:
        parts = urlsplit(url.strip())
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
    # The host name alone, not the netloc: a user and password in front of it stay out of the log.
    return f"{parts.scheme}://{parts.hostname}:{port}{parts.path.rstrip('/')}"


def _printable(url: object) -> str:
    """Safe to log whoever wrote it: short, ASCII, without credentials, query and line breaks."""
    comparable = _comparable(url)
    return "no URL" if comparable is None else ascii(comparable[:200])[1:-1]


class _PushApp(QuartTrio):
    asgi_http_class = FixedHTTPConnection

    async def asgi_app(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "http":
            path = _tidy_path(scope["path"], scope.get("root_path", ""))
            scope = {**scope, "path": path, "root_path": ""}
        await super().asgi_app(scope, receive, send)


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


# The error handlers are async because Quart calls others in a thread.


async def _http_error(error: HTTPException) -> Response:
    response = _json(error.code or 500, {"detail": error.description or error.name})
    # 405 says in `Allow` what would do, and other errors have headers of their own.
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response


async def _unexpected_error(error: Exception) -> Response:
    _log.error("the push endpoint broke: a bug", exc_info=error)
    return _json(500, {"detail": "internal error"})


def _json(status: int, content: dict[str, Any]) -> Response:
    # By hand: Quart's own would add a line break and take out the blank.
    return Response(json.dumps(content), status=status, content_type="application/json")
