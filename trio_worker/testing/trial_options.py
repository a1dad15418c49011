"""What may be said of an attempt at a made-up query."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypedDict, get_args

from trio_worker.capture import Capture
from trio_worker.handlers.importing import did_you_mean
from trio_worker.project import Project
from trio_worker.settings import CaptureMode

__all__ = ["TrialOptions", "capture_of", "check_names"]


class TrialOptions(TypedDict, total=False):
    """What may be said of an attempt, beside the text of the query.

    Attributes:
        attempt: Its number; 1 is the first.
        saved: What an earlier one has saved, for `ctx.saved`: `HandlerResult.saved`, or anything in JSON.
        project_settings: What `ctx.project` gives; None: there are none.
        processing_timeout: Seconds that it may take; 300, as in the worker.
        max_processing_time: Seconds up to which `ctx.extend` goes; 3600.
        capture: What comes to the log beside what `ctx.log` writes: ``"logging"`` or ``"print"``, as by
            ``WORKER_CAPTURE``; ``"off"`` is usual.

    The others are fields of the query (see `trio_worker.Query`). Not given, each is what a claim may well
    give.
    """

    attempt: int
    saved: object
    project_settings: Project | None
    processing_timeout: float
    max_processing_time: float
    capture: CaptureMode
    id: int
    project: int | None
    project_name: str | None
    user: int | None
    user_name: str | None
    status: str | None
    query_created: datetime | None
    query_started: datetime | None
    query_finished: datetime | None
    answer_text: str | None
    logs_count: int | None
    extra: Mapping[str, Any]


def check_names(given: Iterable[str]) -> None:
    """Look whether there are such options.

    Raises:
        TypeError: With the nearest name, where there is one.
    """
    for name in given:
        if name not in TrialOptions.__annotations__:
            near = did_you_mean(name, TrialOptions.__annotations__)
            raise TypeError(f"run_handler has no option {name}{near}")


def capture_of(options: TrialOptions) -> Capture:
    """Take out what is to be captured.

    Raises:
        ValueError: There is no such way.
    """
    what: CaptureMode = options.pop("capture", "off")
    ways = get_args(CaptureMode)
    if what not in ways:
        raise ValueError(f"capture is {what!r}, expected {', '.join(map(repr, ways))}")
    return Capture(what)
