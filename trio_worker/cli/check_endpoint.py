"""Whether the worker could listen where ``WORKER_BIND`` says, and whether anybody could reach it there.

All of this blocks: names are resolved.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat

import httpx

__all__ = ["described", "is_out_of_reach", "same_place", "why_not_bind"]


def why_not_bind(bind: str) -> str | None:
    """Try to listen where the worker would.

    Returns:
        Why that does not go, or None.
    """
    try:
        if bind.startswith("unix:"):
            return _try_path(bind.removeprefix("unix:"))
        _try_port(*_host_and_port(bind))
    except OSError as error:
        return _bind_problem(error)
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
    return "something listens there already" if _answers(path) else None


def _answers(path: str) -> bool:
    """Whether somebody listens on a unix socket. One that was left over is replaced by the worker."""
    with socket.socket(socket.AF_UNIX) as tried:
        tried.settimeout(1)
        try:
            tried.connect(path)
        except ConnectionRefusedError:
            return False
    return True


def _bind_problem(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "something listens there already: this worker, if it runs; else choose another port"
    if error.errno == errno.EACCES:
        return "not permitted: ports below 1024 are for root, and a path's directory must be writable"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address; 0.0.0.0 is every interface"
    return f"can't listen there: {error.strerror or error}"


def same_place(bind: str, url: str) -> bool:
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


def is_out_of_reach(bind: str, url: str) -> bool:
    """Whether only this machine reaches the endpoint, while WebBuddy seems to be on another."""
    if bind.startswith("unix:"):
        return False
    return _is_loopback(_host_and_port(bind)[0]) and not _is_loopback(httpx.URL(url).host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def described(bind: str) -> str:
    """Say what there is to say of a place to listen that is free."""
    if bind.startswith("unix:"):
        return f"{bind} is free; WebBuddy, which speaks TCP, needs a proxy before it"
    if _host_and_port(bind)[1] == 0:
        return f"{bind} is any free port, which WebBuddy can't know: good for tests"
    return f"{bind} is free; WebBuddy's FASTAPI_URL must lead there"
