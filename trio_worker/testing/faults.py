"""What can be made to go wrong with the next calls to the embedded WebBuddy."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from trio_worker.testing.knobs import Watched

__all__ = ["Answer", "Cut", "Fault", "Faulty", "Hang"]

GARBAGE = b"<!doctype html><title>Bad gateway</title><p>\xff\xfe{"


@attrs.frozen
class Answer:
    """Answer with this instead of what WebBuddy would say.

    Attributes:
        status: The HTTP status.
        headers: Its headers.
        body: Its body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = attrs.field(repr=lambda body: f"<{len(body)} bytes>")


@attrs.frozen
class Cut:
    """Close the connection without an answer."""


@attrs.frozen
class Hang:
    """Keep the caller waiting for ever."""


@attrs.define
class Fault:
    """Something that goes wrong with the next calls.

    Attributes:
        what: What the caller meets.
        calls: How many calls it still befalls.
        endpoint: Only calls of this endpoint; None: of any.
        after_commit: Whether the call does its work nevertheless, and only its answer is lost.
    """

    what: Answer | Cut | Hang
    calls: int
    endpoint: str | None = None
    after_commit: bool = False


@attrs.define(kw_only=True, eq=False)
class Faulty(Watched):
    """Something whose next calls can be made to go wrong.

    Attributes:
        faults: What goes wrong next; the first that fits a call befalls it.
    """

    faults: list[Fault] = attrs.field(factory=list, init=False)

    def fail_next(
        self,
        status: int,
        *,
        calls: int = 1,
        endpoint: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"<!doctype html><title>Error</title>",
        after_commit: bool = False,
    ) -> None:
        """Answer the next calls with this status.

        Args:
            status: The HTTP status.
            calls: How many calls.
            endpoint: Only calls of this endpoint; None: of any.
            headers: Added to the answer, for example ``{"Retry-After": "60"}``.
            body: The body; HTML, as proxies and Django's own error pages have it, unless
                ``headers`` say otherwise.
            after_commit: Whether the calls do their work nevertheless.
        """
        merged = {"Content-Type": "text/html; charset=utf-8", **(headers or {})}
        self.faults.append(Fault(Answer(status, merged, body), calls, endpoint, after_commit))

    def garble_next(self, *, calls: int = 1, endpoint: str | None = None, after_commit: bool = True) -> None:
        """Answer the next calls with 200 and a body that is neither JSON nor UTF-8."""
        headers = {"Content-Type": "application/json"}
        self.faults.append(Fault(Answer(200, headers, GARBAGE), calls, endpoint, after_commit))

    def cut_next(self, *, calls: int = 1, endpoint: str | None = None, after_commit: bool = False) -> None:
        """Close the connection of the next calls without an answer."""
        self.faults.append(Fault(Cut(), calls, endpoint, after_commit))

    def hang_next(self, *, calls: int = 1, endpoint: str | None = None, after_commit: bool = False) -> None:
        """Never answer the next calls."""
        self.faults.append(Fault(Hang(), calls, endpoint, after_commit))
