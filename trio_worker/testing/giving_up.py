"""Ends a test whose handler swallows its cancellation for ever. Trio waits for each of its tasks."""

from __future__ import annotations

import ctypes
import threading
from typing import NoReturn

import trio

from trio_worker.deadline import Deadline
from trio_worker.handlers.loading import Handler

__all__ = ["CLOSE_SECONDS", "HandlerRemains", "give_up"]

CLOSE_SECONDS = 5.0  # for what the handler has opened: as a worker has it at its end


class HandlerRemains(trio.TrioInternalError):
    """A handler can't be stopped, and the whole run of Trio was given up with it. The text says so."""

    # Trio ends at once by an error that it did not expect in its own loop. One of this class it hands on as
    # it is; any other it would call a bug of its own.


async def give_up(handler: Handler, deadline: Deadline) -> None:
    """End Trio's run some seconds after the attempt was left behind. Cancelled before that, it does nothing.

    These are seconds of the real clock: a handler that tries again for ever does not let virtual time pass.

    Args:
        handler: What is blamed.
        deadline: That of the attempt, which begins now.

    Raises:
        HandlerRemains: Not here, but out of `trio.run`.
    """
    began = trio.current_time()
    while not deadline.scope.cancel_called:  # noqa: ASYNC110 - it may have been put off
        await trio.sleep_until(began + deadline.limit)
    over, token = trio.Event(), trio.lowlevel.current_trio_token()
    seconds = handler.patience + CLOSE_SECONDS
    timer = threading.Timer(seconds, token.run_sync_soon, (over.set,))
    timer.daemon = True
    timer.start()
    try:
        await over.wait()
    finally:
        timer.cancel()
    await _end_run(
        f"the handler {handler.path} swallows its cancellation: {seconds:g} s after its time limit it still"
        f" runs, at {handler.file}:{handler.line} or in what it calls.\n"
        "trio.Cancelled must be raised again: after `except BaseException` by `raise`. A worker leaves it"
        " behind; a test can't end beside it."
    )


async def _end_run(text: str) -> None:
    _keep_for_ever(trio.lowlevel.current_root_task())

    def end(_cancelled: object) -> NoReturn:
        raise HandlerRemains(text)

    with trio.CancelScope() as scope:
        scope.cancel()
        await trio.lowlevel.wait_task_rescheduled(end)


def _keep_for_ever(root: trio.lowlevel.Task | None) -> None:
    """Keep a run's tasks, also beyond the interpreter's end: collected, their scopes would complain."""
    tasks = [root] if root is not None else []
    for task in tasks:
        tasks += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(tasks))
