"""One integer decides everything that is left to chance."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import trio
import trio.testing

__all__ = ["memory_folder", "play", "repeatable"]

T = TypeVar("T")


@contextmanager
def repeatable(seed: int) -> Iterator[bool]:
    """Make the order in which Trio runs tasks, and all else that is random, follow from a seed.

    Trio shuffles on purpose, and its switch against that is private: where it is missing, runs are not
    repeatable, but no less valid.

    Yields:
        Whether the switch was there.
    """
    state = random.getstate()
    random.seed(seed)
    run: Any = None
    try:
        from trio._core import _run as run

        before = run._ALLOW_DETERMINISTIC_SCHEDULING
        run._ALLOW_DETERMINISTIC_SCHEDULING = True
        run._r.seed(seed)
    except (ImportError, AttributeError):
        run = None
    try:
        yield run is not None
    finally:
        if run is not None:
            run._ALLOW_DETERMINISTIC_SCHEDULING = before
        random.setstate(state)


@contextmanager
def memory_folder() -> Iterator[Path]:
    """Make a folder, in memory where the system has such a place: nobody simulates a power cut here."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder in it is made as in any other place for such
    where = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="trio-worker-", dir=where) as folder:
        yield Path(folder)


def play(scene: Callable[..., Awaitable[T]], *arguments: object, seed: int) -> T:
    """Run a scene in virtual time, with all its chances from one seed."""
    with repeatable(seed):
        return trio.run(scene, *arguments, clock=trio.testing.MockClock(autojump_threshold=0))
