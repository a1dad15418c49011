"""What listens: the push endpoint, and what our HTTP server needs to serve it for years.

This package owns no task and keeps no query. It turns a request into one synchronous call.
"""

from __future__ import annotations

from trio_worker.web.guard import Guard
from trio_worker.web.push import PushCounts, make_app
from trio_worker.web.readiness import Readiness

__all__ = ["Guard", "PushCounts", "Readiness", "make_app"]
