"""Whether the worker could listen where ``WORKER_BIND`` says, and whether anybody could reach it there.

What resolves names blocks, and is done in a thread.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat

import httpx
import trio

from trio_worker.cli.check_report import Mark, Report
from trio_worker.cli.running_worker import ask_worker
from trio_worker.exposure import is_loopback
from trio_worker.settings import Settings

__all__ = ["bind_problem", "check_endpoint"]

LOOK_SECONDS = 10.0  # for all of it
TAKEN = "something listens there already: choose another WORKER_BIND, or stop what listens there"


async def check_endpoint(settings: Settings, report: Report) -> None:
    """Look whether the worker could listen, or does so already.

    Args:
        settings: The settings.
        report: Where to say what was found.
    """
    mark: Mark = "problem"
    sentence = f"{settings.bind}: its host name can't be resolved"
    with trio.move_on_after(LOOK_SECONDS):
        mark, sentence = await _look(settings)
    if mark == "problem":
        report.fail("push endpoint", sentence)
    else:
        report.say(mark, "push endpoint", sentence)


async def _look(settings: Settings) -> tuple[Mark, str]:
    bind, url = settings.bind, settings.webbuddy_url
    if await trio.to_thread.run_sync(_same_place, bind, url, abandon_on_cancel=True):
        here = "that is where WEBBUDDY_URL says WebBuddy is: choose another port, as in 127.0.0.1:8001"
        return "problem", f"WORKER_BIND is {bind!r}: {here}"
    problem = await trio.to_thread.run_sync(_why_not_bind, bind, abandon_on_cancel=True)
    state = "is free"
    if problem == TAKEN and (reasons := await ask_worker(bind, settings.admin_token)) is not None:
        if reasons:
            return "note", f"{bind} has a worker that runs already, and is not ready: {'; '.join(reasons)}"
        problem, state = None, "has a worker that runs already, and is ready"
    if problem is not None:
        return "problem", f"WORKER_BIND is {bind!r}: {problem}"
    return _describe(bind, url, state)


def _why_not_bind(bind: str) -> str | None:
    """Try to listen where the worker would.

    Returns:
        Why that does not go, or None.
    """
    try:
        if bind.startswith("unix:"):
            return _try_path(bind.removeprefix("unix:"))
        _try_port(*_host_and_port(bind))
    except OSError as error:
        return bind_problem(error)
    return None


def _host_and_port(bind: str) -> tuple[str, int]:
    host, _, port = bind.rpartition(":")
    return host.strip("[]"), int(port)


def _try_port(host: str, port: int) -> None:
    # As hypercorn does it, or this would find other things than the worker does.
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tried.bind((host, port))


def _try_path(path: str) -> str | None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = None
    if mode is None:
        with socket.socket(socket.AF_UNIX) as tried:
            tried.bind(path)
        os.unlink(path)
        return None
    if not stat.S_ISSOCK(mode):
        return "there is a file of that name, which is not a socket"
    return TAKEN if _answers(path) else None


def _answers(path: str) -> bool:
    """Whether somebody listens on a unix socket. One that was left over is replaced by the worker."""
    with socket.socket(socket.AF_UNIX) as tried:
        tried.settimeout(1)
        try:
            tried.connect(path)
        except ConnectionRefusedError:
            return False
    return True


def bind_problem(error: OSError) -> str:
    """Say why one can't listen there, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return TAKEN
    if error.errno == errno.EACCES:
        return "not permitted: ports below 1024 are for root, and a path's directory must be writable"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address; 0.0.0.0 is every interface"
    return f"can't listen there: {error.strerror or error}"


def _same_place(bind: str, url: str) -> bool:
    """Whether WEBBUDDY_URL leads to WORKER_BIND."""
    if bind.startswith("unix:"):
        return False
    host, port = _host_and_port(bind)
    target = httpx.URL(url)
    if port == 0 or port != (target.port or {"http": 80, "https": 443}[target.scheme]):
        return False
    theirs = _addresses(target.host)
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return any(ipaddress.ip_address(address).is_loopback for address in theirs)
    return bool(theirs & _addresses(host))


def _addresses(host: str) -> set[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {str(info[4][0]).partition("%")[0] for info in found}


def _is_out_of_reach(bind: str, url: str) -> bool:
    """Whether only this machine reaches the endpoint, while WebBuddy seems to be on another."""
    if bind.startswith("unix:"):
        return False
    return is_loopback(_host_and_port(bind)[0]) and not is_loopback(httpx.URL(url).host)


def _describe(bind: str, url: str, state: str) -> tuple[Mark, str]:
    """Say what there is to say of a place to listen that is good."""
    if _is_out_of_reach(bind, url):
        return "note", (
            f"{bind} {state}, but only this machine reaches it: unless WebBuddy runs here or behind a"
            " proxy, no push arrives, and polling has to find all. 0.0.0.0 is every interface."
        )
    if bind.startswith("unix:"):
        return "fine", f"{bind} {state}; WebBuddy, which speaks TCP, needs a proxy before it"
    if _host_and_port(bind)[1] == 0:
        return "fine", f"{bind} is any free port, which WebBuddy can't know: good for tests"
    return "fine", f"{bind} {state}; WebBuddy's FASTAPI_URL must lead there"
