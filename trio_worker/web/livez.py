"""``GET /livez``: whether the worker's loops keep their time; if not, only a restart helps."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from quart import Response

from trio_worker.liveness import Liveness

__all__ = ["LIVE_PATH", "livez"]

LIVE_PATH = "/livez"


def livez(liveness: Liveness) -> Callable[[], Awaitable[Response]]:
    """Make the endpoint: 200, or 503 with the loops that are late."""

    async def handle() -> Response:
        reasons = liveness.reasons
        body = json.dumps({"live": not reasons, "reasons": reasons}, ensure_ascii=False)
        return Response(body, 503 if reasons else 200, content_type="application/json")

    return handle
