"""A worker that listens already, asked how it is."""

from __future__ import annotations

import httpx
import trio

from trio_worker.web.readiness import READY_PATH

__all__ = ["ask_worker"]

ANSWER_SECONDS = 3.0


async def ask_worker(bind: str, token: str | None = None) -> list[str] | None:
    """Ask whoever listens at a ``WORKER_BIND`` whether it is ready.

    Args:
        bind: Where.
        token: The ``WORKER_ADMIN_TOKEN``, if it has one.

    Returns:
        Why it is not, empty when it is; None when what listens there is no trio-worker.
    """
    path = bind.removeprefix("unix:") if bind.startswith("unix:") else None
    url = f"http://{'worker' if path is not None else _reachable(bind)}{READY_PATH}"
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    with trio.move_on_after(ANSWER_SECONDS):
        try:
            # A transport of its own: no proxy that the environment names.
            transport = httpx.AsyncHTTPTransport(uds=path)
            async with httpx.AsyncClient(transport=transport, timeout=None) as client:  # noqa: S113 - see above
                return _reasons(await client.get(url, headers=headers))
        except httpx.RequestError:
            return None
    return None


def _reachable(bind: str) -> str:
    """Where to knock; what listens on every interface does so on the loopback one."""
    host, _, port = bind.rpartition(":")
    loopback = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - asked, not bound
    return f"{loopback.get(host, host)}:{port}"


def _reasons(answer: httpx.Response) -> list[str] | None:
    try:
        match answer.json():
            case {"ready": bool(ready), "reasons": dict(reasons)} if ready is not bool(reasons):
                return [" ".join(str(reason).split()) for reason in reasons.values()]
    except ValueError:
        pass
    return None
