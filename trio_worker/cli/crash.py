"""What has ended the service, told to whoever has started it."""

from __future__ import annotations

import structlog

from trio_worker.cli.ending import complain
from trio_worker.launch import BUG, explain

__all__ = ["after_crash"]

log = structlog.get_logger(__name__)


def after_crash(group: BaseExceptionGroup) -> int:
    """Say what an exception that ended everything was.

    Returns:
        The exit code.
    """
    sentences, code = explain(group)
    if code == BUG:
        log.critical("the worker has crashed: this is a bug", exc_info=group)
    for sentence in sentences:
        complain(sentence)
    return code
