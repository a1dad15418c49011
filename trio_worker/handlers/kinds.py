"""From ``WORKER_HANDLER`` to what is called: a function, what opens one, a pool of processes, a program."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import attrs

from trio_worker.capture import OFF, Capture
from trio_worker.handlers.command import parse_command
from trio_worker.handlers.loading import Handler, handler_of, load_handler
from trio_worker.handlers.pool import open_pool
from trio_worker.setting_kinds import COMMAND, PROCESS

__all__ = ["find_handler"]


def find_handler(path: str, directory: Path, *, most: int, capture: Capture = OFF) -> Handler:
    """Find a handler.

    A function is imported, in this thread, and a program looked for. Processes are started only when the
    handler is opened: whether it can be imported there shows then.

    Args:
        path: ``module:function``, ``process:module:function`` or ``command:program …``.
        directory: The working directory.
        most: How many queries it is called for at once, at most.
        capture: What is captured in processes. In this one the service does that itself.

    Raises:
        HandlerError: With one sentence: what is wrong, and the nearest name where there is one.
    """
    if path.startswith(COMMAND):
        command = parse_command(path.removeprefix(COMMAND), directory)
        return attrs.evolve(handler_of(command, path), kill=command.kill)
    if path.startswith(PROCESS):
        name = path.removeprefix(PROCESS)
        pool = partial(open_pool, name, directory=directory, most=most, capture=capture)
        return Handler(path, pool, is_async=True, opens=True)
    return load_handler(path, directory)
