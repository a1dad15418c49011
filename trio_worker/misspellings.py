"""Variables that mean nothing to the worker, and were probably meant for one of its settings."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from trio_worker.chat_settings import CHAT_HANDLER, CHAT_VARIABLES
from trio_worker.settings import VARIABLES

__all__ = ["misspellings"]

_KNOWN = [variable.name for variable in VARIABLES]
_KNOWN_TO_CHAT = [variable.name for variable in CHAT_VARIABLES]
_OURS = "WORKER_"
_CHATS = "CHAT_"
# One letter too many, too few or wrong is above 0.9 for the shortest of our names, and two are about 0.85.
# MAX_WORKERS, WEBBUDDY_PORT and OMP_NUM_THREADS, which are other programs', are at most 0.82.
_NEAR = 0.85
# With our prefix it is ours anyway; WORKER_PORT, which Kubernetes sets, is at 0.77 to WORKER_PASSWORD.
_NEAR_WITH_PREFIX = 0.78


def misspellings(names: Iterable[str], handler: str | None = None) -> list[str]:
    """Find misspelt settings among the names of an environment: all that begin with ``WORKER_``, and what
    is nearly a setting's name.

    Args:
        names: As in `read_environment`.
        handler: What ``WORKER_HANDLER`` names: the settings of one that we ship are looked at when it is
        used.

    Returns:
        One sentence for each, with the setting that was probably meant.
    """
    sentences = []
    is_chat = handler == CHAT_HANDLER
    for name in sorted(set(names).difference(_KNOWN, _KNOWN_TO_CHAT)):
        meant = _meant(name.upper()) or (_meant_for_chat(name.upper()) if is_chat else None)
        if meant is not None:
            sentences.append(f"{name} is not a setting: did you mean {meant}?")
        elif name.startswith(_OURS):
            sentences.append(f"{name} is not a setting")
    return sentences


def _meant(name: str) -> str | None:
    if not name.startswith(_OURS):
        return _nearest(name, _KNOWN, _NEAR)
    # The prefix itself may be what is wrong: WORKER_NUM_WORKERS.
    return _nearest(name, _KNOWN, _NEAR_WITH_PREFIX) or _nearest(name.removeprefix(_OURS), _KNOWN, _NEAR)


def _meant_for_chat(name: str) -> str | None:
    return _nearest(name, _KNOWN_TO_CHAT, _NEAR_WITH_PREFIX if name.startswith(_CHATS) else _NEAR)


def _nearest(name: str, known: list[str], cutoff: float) -> str | None:
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=cutoff)), None)
