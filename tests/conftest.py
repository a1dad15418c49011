"""What all tests share."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import pytest
import structlog
from structlog.testing import LogCapture
from structlog.typing import EventDict


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Who sets up logging as a worker does lets INFO through, which pytest would keep, and takes warnings."""
    before = logging.getLogger().level
    yield
    logging.getLogger().setLevel(before)
    logging.captureWarnings(False)


@pytest.fixture(autouse=True)
def _what_can_be_imported() -> Iterator[None]:
    """Loading a handler makes its directory importable for good: the next test's is another.

    A ``json.py`` of an earlier test would be found by the processes that a later one starts.
    """
    before = sys.path[:]
    yield
    sys.path[:] = before


@pytest.fixture(autouse=True)
def events() -> Iterator[list[EventDict]]:
    """The worker's own log as a list, with what is bound to each event; nothing goes to the screen."""
    before = structlog.get_config()
    capture = LogCapture()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, capture],
        wrapper_class=structlog.make_filtering_bound_logger(0),
    )
    yield capture.entries
    structlog.configure(**before)
