"""What a worker shows outside: pushes come in here, and whoever asks is answered."""

from __future__ import annotations

from quart_trio import QuartTrio

from trio_worker.figures import Figures
from trio_worker.liveness import Liveness
from trio_worker.neighbours import Neighbours
from trio_worker.push_health import PushHealth
from trio_worker.wakeups import Announcements, Wakeups
from trio_worker.web import Guard, make_app
from trio_worker.web.push_counts import PushCounts
from trio_worker.web.readiness import Readiness
from trio_worker.web.status_page import StatusPage

__all__ = ["Front"]


class Front:
    """What is shared by the app that listens and the service. Made before either of them.

    Args:
        neighbours: The other processes on the state folder, where somebody else has numbered them.

    Attributes:
        wakeups: Rung by pushes, listened to by consumers.
        announced: The ids that pushes named.
        health: Whether pushes come.
        counts: What came to the push endpoint.
        readiness: What it says to those who ask whether the worker is ready.
        liveness: The same of whether its loops keep their time.
        figures: The same of what it counts.
        neighbours: The other processes on the state folder.
        status_page: The same of all that people want to see.
    """

    def __init__(self, neighbours: Neighbours | None = None) -> None:
        self.wakeups = Wakeups()
        self.announced = Announcements()
        self.health = PushHealth()
        self.counts = PushCounts()
        self.readiness = Readiness()
        self.liveness = Liveness()
        self.figures = Figures()
        self.neighbours = Neighbours() if neighbours is None else neighbours
        self.readiness.note(pushes=lambda: "pushes have stopped coming" if self.health.is_broken else None)
        self.figures.ask(
            {
                "pushes_total": lambda: {"accepted": self.counts.accepted, "refused": self.counts.refused},
                "foreign_pushes_total": lambda: self.counts.other_url,
                "pushes_broken": lambda: int(self.health.is_broken),
                "ready": lambda: int(not self.readiness.reasons),
                "not_ready": self.readiness.as_numbers,
                "late_loops": lambda: len(self.liveness.reasons),
                "event_loop_delay_seconds": lambda: self.liveness.delays,
            }
        )
        self.status_page = StatusPage(lambda: self.readiness.reasons, self.neighbours)

    def pushed(self, query_id: int) -> None:
        """A push has come. Never waits."""
        self.announced.add(query_id)
        self.health.heard()
        self.wakeups.push(query_id)

    def app(self, own_url: str, guard: Guard | None = None) -> QuartTrio:
        """Make the app that listens: pushes come to it, and it answers all who ask.

        Args:
            own_url: Our ``WEBBUDDY_URL``.
            guard: Knows who may ask. Without it everybody may.
        """
        return make_app(
            pushed=self.pushed,
            own_url=own_url,
            counts=self.counts,
            readiness=self.readiness,
            liveness=self.liveness,
            figures=self.figures,
            neighbours=self.neighbours,
            status_page=self.status_page,
            guard=guard,
        )
