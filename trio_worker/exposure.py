"""What others on the network could read, or ask of the worker: said at the start."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import httpx

from trio_worker.settings import Settings

__all__ = ["exposures", "is_loopback", "open_doors"]


def exposures(settings: Settings) -> list[str]:
    """Say what goes over the network unprotected.

    Returns:
        Sentences for the log.
    """
    url = httpx.URL(settings.webbuddy_url)
    if url.scheme == "https" or is_loopback(url.host):
        return []
    return [
        f"WEBBUDDY_URL is {settings.webbuddy_url!r}: without https, everybody on the way to that host can"
        " read the worker's password and all queries"
    ]


def open_doors(settings: Settings, binds: Iterable[str]) -> list[str]:
    """Say which addresses others can ask without a token.

    Args:
        settings: Which tokens there are.
        binds: Where the worker listens, as ``WORKER_BIND`` writes it, and hypercorn's ``-b``.

    Returns:
        Sentences for the log.
    """
    missing = [
        f"{name} ({what})"
        for name, token, what in (
            ("WORKER_PUSH_TOKEN", settings.push_token, "who may push"),
            ("WORKER_ADMIN_TOKEN", settings.admin_token, "who may see how the worker is"),
        )
        if token is None
    ]
    wide = [bind for bind in binds if not _is_private(bind)]
    if not wide or not missing:
        return []
    return [
        f"the worker listens on {', '.join(wide)}, beyond this machine, without {' and '.join(missing)}:"
        " anybody who can reach it may do that"
    ]


def is_loopback(host: str) -> bool:
    """Whether a host, by name or address, is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_private(bind: str) -> bool:
    if bind.startswith(("unix:", "fd://")):  # a descriptor's address is its giver's business
        return True
    host, colon, _port = bind.rpartition(":")
    return is_loopback((host if colon else bind).strip("[]"))
