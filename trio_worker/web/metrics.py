"""``GET /metrics``: the figures, for Prometheus."""

from __future__ import annotations

from typing import Any

from quart import Response, request

from trio_worker.figures import Figures
from trio_worker.neighbours import Neighbours

__all__ = ["METRICS_PATH", "Metrics", "answer"]

METRICS_PATH = "/metrics"


def answer(figures: Figures) -> dict[str, Any]:
    """Say what this process has to show; as JSON has it."""
    # Not before: a worker that nobody watches shall not carry it. It takes 10 ms, once.
    from trio_worker.web.exposition import read_process

    return {"figures": figures.read(), "process": read_process()}


class Metrics:
    """The endpoint.

    Args:
        figures: Those of this process.
        neighbours: The other processes behind our address, which are asked for theirs.
    """

    def __init__(self, figures: Figures, neighbours: Neighbours) -> None:
        self._figures = figures
        self._neighbours = neighbours

    async def handle(self) -> Response:
        """Answer in the format that is asked for: Prometheus's own text, or OpenMetrics."""
        from trio_worker.web.exposition import expose

        answers = await self._neighbours.ask("figures")
        answers[self._neighbours.number] = answer(self._figures)
        text, content_type = expose(answers, request.headers.get("Accept", ""))
        return Response(text, content_type=content_type)
