"""A worker that listens already, asked how it is."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import httpx
import trio

from trio_worker.web.livez import LIVE_PATH
from trio_worker.web.readiness import READY_PATH

__all__ = ["Answers", "ask_probes", "ask_worker"]

ANSWER_SECONDS = 3.0


@attrs.frozen
class Answers:
    """What a worker has answered to both probes.

    Attributes:
        problem: Why there is no answer, as a sentence; None: there is one.
        late: The loops that are late, by their names. Empty: it is alive.
        reasons: Why it is not ready, by the names of the questions. Empty: it is.
        notes: What is not as it should be all the same, by the names of the questions.
    """

    problem: str | None = None
    late: Mapping[str, str] = attrs.field(factory=dict)
    reasons: Mapping[str, str] = attrs.field(factory=dict)
    notes: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def is_well(self) -> bool:
        """Whether it is alive and ready."""
        return self.problem is None and not self.late and not self.reasons


async def ask_probes(bind: str, token: str | None = None) -> Answers:
    """Ask whoever listens at a ``WORKER_BIND`` whether it is alive and ready.

    Args:
        bind: Where.
        token: The ``WORKER_ADMIN_TOKEN``, if it has one.
    """
    with trio.move_on_after(ANSWER_SECONDS):
        try:
            return await _ask(bind, token)
        except (httpx.ConnectError, FileNotFoundError):
            return Answers(f"nothing listens at {bind}")
        except httpx.RequestError:
            return Answers(f"what listens at {bind} is no trio-worker")
    return Answers(f"what listens at {bind} does not answer within {ANSWER_SECONDS:g} s")


async def ask_worker(bind: str, token: str | None = None) -> list[str] | None:
    """Ask whoever listens at a ``WORKER_BIND`` whether it is ready.

    Args:
        bind: Where.
        token: The ``WORKER_ADMIN_TOKEN``, if it has one.

    Returns:
        Why it is not, empty when it is; None when what listens there is no trio-worker.
    """
    answers = await ask_probes(bind, token)
    return None if answers.problem is not None else list(answers.reasons.values())


async def _ask(bind: str, token: str | None) -> Answers:
    path = bind.removeprefix("unix:") if bind.startswith("unix:") else None
    base = f"http://{'worker' if path is not None else _reachable(bind)}"
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    # A transport of its own: no proxy that the environment names. Without httpx's own time: the caller's is
    # for both.
    transport = httpx.AsyncHTTPTransport(uds=path)
    async with httpx.AsyncClient(
        transport=transport,
        base_url=base,
        headers=headers,
        timeout=None,  # noqa: S113
    ) as client:
        late = _reasons(await client.get(LIVE_PATH), "live")
        ready = await client.get(READY_PATH)
        reasons = _reasons(ready, "ready")
    if ready.status_code == 401:
        return Answers(f"what listens at {bind} wants another WORKER_ADMIN_TOKEN")
    if late is None or reasons is None:
        return Answers(f"what listens at {bind} is no trio-worker")
    return Answers(late=late, reasons=reasons, notes=_notes(ready))


def _reachable(bind: str) -> str:
    """Where to knock; what listens on every interface does so on the loopback one."""
    host, _, port = bind.rpartition(":")
    loopback = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - asked, not bound
    return f"{loopback.get(host, host)}:{port}"


def _reasons(answer: httpx.Response, word: str) -> dict[str, str] | None:
    try:
        body = answer.json()
    except ValueError:
        return None
    match body:
        case {"reasons": dict(reasons)} if body.get(word) is not bool(reasons):
            return {_one_line(name): _one_line(reason) for name, reason in reasons.items()}
    return None


def _notes(answer: httpx.Response) -> dict[str, str]:
    match answer.json():
        case {"notes": dict(notes)}:
            return {_one_line(name): _one_line(note) for name, note in notes.items()}
    return {}


def _one_line(text: object) -> str:
    """Text of whoever listens there, as one line and without what a terminal would obey."""
    line = " ".join(str(text).split())
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in line)
