"""An answer in JSON, sent without Quart."""

from __future__ import annotations

import json
from typing import Any

from hypercorn.typing import ASGISendCallable, HTTPResponseBodyEvent, HTTPResponseStartEvent

__all__ = ["reply"]


async def reply(
    send: ASGISendCallable, status: int, content: dict[str, Any], *headers: tuple[bytes, bytes]
) -> None:
    """Send a whole answer.

    Args:
        send: ASGI's.
        status: HTTP's.
        content: Becomes the body.
        *headers: Those of this answer, beside what its body needs.
    """
    body = json.dumps(content).encode()
    own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    start = HTTPResponseStartEvent(type="http.response.start", status=status, headers=[*own, *headers])
    await send(start)
    await send(HTTPResponseBodyEvent(type="http.response.body", body=body, more_body=False))
