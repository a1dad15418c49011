"""``GET /``: what the worker does, for people. One page, its script and style, and what feeds it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import trio
from quart import Response, render_template, request
from quart_trio import QuartTrio

from trio_worker.neighbours import Neighbours
from trio_worker.web.status_stream import Snapshots, StatusStream

__all__ = ["StatusPage"]

STATIC = Path(__file__).parent / "static"

FILES = {
    "status.css": "text/css; charset=utf-8",
    "status.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

# Each with the classes of its bars, and what they mean.
CHARTS = {
    "throughput": {"done": "done", "failed": "failed", "other": "put back or aside"},
    "pick-up": {"done": "mean", "other": "longest"},
    "run-time": {"done": "mean", "other": "longest"},
}


class StatusPage:
    """Made before the service, which tells it what to show.

    Args:
        unready: What keeps the worker from its job, by name: all there is to show before the service begins.
        neighbours: The other processes behind our address, which are shown as well.
    """

    def __init__(
        self, unready: Callable[[], Mapping[str, str]] = dict, neighbours: Neighbours | None = None
    ) -> None:
        self.snapshots = Snapshots(lambda: {"state": _starting(unready())}, neighbours)

    def show(self, source: Callable[[], dict[str, Any]]) -> None:
        """Show this from now on, to whoever looks.

        Args:
            source: Makes what the page's script reads. Synchronous.
        """
        self.snapshots.show(source)

    def end(self) -> None:
        """The service has ended: those who look need not hold up the end of the server."""
        self.snapshots.over.set()

    def add_to(self, app: QuartTrio) -> None:
        """Serve the page, and what belongs to it."""
        add = partial(app.add_url_rule, methods=["GET"], provide_automatic_options=False)
        add("/", "status", self._page)
        add("/status/events", "status_events", self._events)
        for name in FILES:
            add(f"/{name}", name.replace(".", "_"), _file(name))

    async def _page(self) -> Response:
        # Without a script it shows the state as of now, and that alone.
        now = await self.snapshots.of_all()
        page = await render_template(
            "status.html", worker=now.get("worker", ""), charts=CHARTS, **now["state"]
        )
        return Response(page)

    async def _events(self) -> Response:
        packed = request.accept_encodings.quality("gzip") > 0
        body = b"" if request.method == "HEAD" else StatusStream(self.snapshots, packed=packed)
        response = Response(body, content_type="text/event-stream")
        if packed:
            response.headers["Content-Encoding"] = "gzip"
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Accel-Buffering"] = "no"  # nginx would keep events until it has enough of them
        response.timeout = None
        return response


def _file(name: str) -> Callable[[], Awaitable[Response]]:
    content: bytes | None = None

    async def give() -> Response:
        nonlocal content
        if content is None:
            content = await trio.Path(STATIC / name).read_bytes()
        return Response(content, content_type=FILES[name])

    return give


def _starting(unready: Mapping[str, str]) -> dict[str, str]:
    text = "; ".join(f"{name}: {reason}" for name, reason in unready.items())
    return {"level": "fair", "word": "Starting", "text": text}
