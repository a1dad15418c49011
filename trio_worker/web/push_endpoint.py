"""The push endpoint: WebBuddy knocks, we say "accepted" and look into the queue ourselves.

A push comes from an unauthenticated stranger, so nothing in it is trusted: its ``query_id``
chooses nothing, its ``webbuddy_url`` is compared and never called. All that a push can do is
to make the worker claim once.
"""

# Plain ASGI, and not a view of Quart's, because pushes come in storms, on the core on which everything else
# runs: Quart-Trio's two nurseries, request, routing and response were half of what a push cost (1.5 ms of
# CPU, and 0.8 ms without; Python 3.11, a connection for each). What is left is hypercorn's. An HTTP parser
# of ours right on the connection would cost 0.2 ms, and be a second server to keep safe.

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import urlsplit

import attrs
import structlog
import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope
from werkzeug.exceptions import BadRequest, HTTPException, RequestEntityTooLarge, RequestTimeout

from trio_worker.trouble import Trouble
from trio_worker.web.push_counts import PushCounts
from trio_worker.web.reply import reply

__all__ = ["PUSH_PATH", "PushEndpoint"]

PUSH_PATH = "/api/process-query"

# A push is about 100 bytes.
_MAX_BODY_BYTES = 64 * 1024
# WebBuddy itself gives up after 2 seconds.
_BODY_SECONDS = 2.0
# WebBuddy's ids are 64-bit columns.
_MAX_ID = 2**63 - 1

_log = structlog.stdlib.get_logger(__name__)


class ClientGoneError(Exception):
    """The client hung up in the middle of its body: there is nobody to answer."""


@attrs.define
class PushEndpoint:
    """Answers requests for `PUSH_PATH`.

    Args:
        pushed: Called with the id that a push names.
        own_url: Our ``WEBBUDDY_URL``.
        counts: Where to count.
    """

    pushed: Callable[[int], None]
    own_url: str
    counts: PushCounts
    _own: str | None = attrs.field(init=False)
    _no_push: Trouble = attrs.field(init=False)
    _broken: Trouble = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._own = _comparable(self.own_url)
        self._no_push = Trouble(_log, "a request to the push endpoint is no push")
        self._broken = Trouble(_log, "the push endpoint broke: a bug", level="error")

    async def handle(self, scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answer one request, of whichever method.

        Nothing cancels it when the client hangs up: hypercorn says so in an event of its own, behind the
        body. So a push that has arrived as a whole is heard even then.
        """
        if scope["method"] != "POST":
            detail = f"{PUSH_PATH} takes POST only"
            await reply(send, 405, {"detail": detail}, (b"allow", b"POST"))
            return
        try:
            self._take(await _read_body(scope, receive))
        except ClientGoneError:
            self.counts.refused += 1
        except HTTPException as error:
            self.counts.refused += 1
            self._no_push.happened(client=client_of(scope), reason=error.description)
            await reply(send, error.code or 400, {"detail": error.description})
        # `pushed` is not ours.
        except Exception as error:  # noqa: BLE001
            self._broken.happened(type(error).__name__, exc_info=error)
            await reply(send, 500, {"detail": "internal error"})
        else:
            await reply(send, 200, {"status": "accepted"})

    def _take(self, body: bytes) -> None:
        query_id, url = _parse(body)
        self.pushed(query_id)
        self.counts.accepted += 1
        _log.debug("push accepted", pushed_id=query_id)
        if url is not None and _comparable(url) != self._own:
            self._note_other_url(url)

    def _note_other_url(self, url: object) -> None:
        # One line for all of them, and no set of those already seen: anybody can send as many as
        # they like.
        if not self.counts.other_url:
            _log.warning(
                "a push named another WebBuddy; it is never contacted, only WEBBUDDY_URL is",
                pushed_url=_printable(url),
                webbuddy_url=_printable(self.own_url),
            )
        self.counts.other_url += 1


def client_of(scope: HTTPScope) -> str:
    """Give the address that a request has come from; of a proxy, where there is one."""
    client = scope.get("client")
    return client[0] if client else "unknown"


async def _read_body(scope: HTTPScope, receive: ASGIReceiveCallable) -> bytes:
    announced = dict(scope["headers"]).get(b"content-length", b"")
    # What announces too much is not waited for. A chunked body announces nothing.
    if announced.isdigit() and (len(announced) > 9 or int(announced) > _MAX_BODY_BYTES):
        raise _too_large()
    body = bytearray()
    with trio.move_on_after(_BODY_SECONDS):
        while True:
            event = await receive()
            if event["type"] != "http.request":
                raise ClientGoneError
            body += event.get("body", b"")
            if len(body) > _MAX_BODY_BYTES:
                raise _too_large()
            if not event.get("more_body", False):
                return bytes(body)
    raise RequestTimeout(f"the body did not arrive within {_BODY_SECONDS:g} seconds")


def _too_large() -> RequestEntityTooLarge:
    return RequestEntityTooLarge(f"a push has at most {_MAX_BODY_BYTES} bytes")


def _parse(body: bytes) -> tuple[int, object]:
    # The Content-Type is not looked at: what parses is what counts.
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):  # ValueError covers bad UTF-8 and numbers of 5000 digits
        raise BadRequest("the body is not JSON") from None
    if not isinstance(data, dict):
        raise BadRequest("the body is not a JSON object")
    query_id = data.get("query_id")
    if isinstance(query_id, float) and query_id.is_integer():  # JSON has one kind of numbers: 1.0 is 1
        query_id = int(query_id)
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
