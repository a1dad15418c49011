"""What goes wrong with a WebBuddy while workers are soaked, for some seconds each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from trio_worker.testing import WebBuddy

__all__ = ["FAULTS", "LONG", "trouble"]

FAULTS = ("refused", "broken", "500", "503", "hanging", "garbled", "slow", "sqlite", "tokens")

LONG = ("password",)
"""Too long for CI: a log-in that was refused is not tried again for a minute."""

MANY = 2_000  # calls; more than there are in one fault


@contextmanager
def trouble(webbuddy: WebBuddy, fault: str, random: Random) -> Iterator[None]:
    """Let one thing go wrong while the body runs.

    Args:
        webbuddy: Whose.
        fault: One of `FAULTS` or `LONG`.
        random: Decides whether a call that gets no answer does its work nevertheless.
    """
    match fault:
        case "refused":
            webbuddy.down = True
        case "500" | "503":
            webbuddy.fail_next(int(fault), calls=MANY)
        case "broken" | "hanging":
            let_fail = webbuddy.cut_next if fault == "broken" else webbuddy.hang_next
            for _ in range(MANY):
                let_fail(after_commit=random.random() < 0.5)
        case "garbled":
            # Not looks: what is no JSON says to them that this WebBuddy shows no queries, and who has no look
            # reports once more where he does not know whether he was heard.
            for endpoint in ("claim_next", "patch", "logs"):
                webbuddy.garble_next(endpoint=endpoint, calls=MANY, after_commit=True)
        case "slow":
            webbuddy.slow = 0.5
        case "sqlite":
            webbuddy.sqlite = True
        case "tokens" | "password":
            webbuddy.refuse_logins = fault == "password"
            webbuddy.expire_tokens()
    try:
        yield
    finally:
        webbuddy.faults.clear()
        webbuddy.down = webbuddy.sqlite = webbuddy.refuse_logins = False
        webbuddy.slow = 0
