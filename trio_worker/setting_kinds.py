"""Sorts of values that the environment may hold: how each is read, and what is expected of it."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import attrs

from trio_worker.bus_address import BusAddress

if TYPE_CHECKING:
    import httpx

__all__ = [
    "BIND",
    "BUS_URL",
    "BUS_URL_FILE",
    "HANDLER",
    "NAME",
    "PASSWORD",
    "PASSWORD_FILE",
    "STATE_DIR",
    "TOKEN",
    "TOKEN_FILE",
    "URL",
    "USERNAME",
    "Kind",
    "bare_url",
    "is_host",
    "one_of",
    "seconds",
    "shown",
    "shown_nothing",
    "shown_url",
    "split_handler_path",
    "whole_number",
]

_LONGEST_SHOWN = 100
# The system's limit for the path of a Unix socket, without its final NUL: 103 bytes on macOS, 107 on Linux.
_LONGEST_SOCKET_PATH = 103


@attrs.frozen
class Kind:
    """A sort of value: how it is read, and what to say when it can't be.

    A reader raises ValueError with any text: the operator is told what is expected, not which
    step of the reading went wrong.
    """

    read: Callable[[str], Any]
    expected: str


def _reject(_value: object = None) -> NoReturn:
    raise ValueError


def whole_number(low: int, high: int) -> Kind:
    def read(text: str) -> int:
        # int() alone would also take "1_0", "+5", other alphabets' digits, and balk at 5 000 digits.
        value = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else _reject()
        return value if low <= value <= high else _reject()

    return Kind(read, f"a whole number from {low} to {high}")


def seconds(high: int, *, or_off: bool = False) -> Kind:
    def read(text: str) -> float:
        # float() alone would also take "nan", "inf" and "1e3".
        value = float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) else _reject()
        return value if 0 < value <= high or (or_off and value == 0) else _reject()

    low = "0 (off) or more" if or_off else "more than 0"
    return Kind(read, f"seconds, such as 30 or 0.5: {low} and at most {high}")


def one_of(choices: Iterable[str]) -> Kind:
    allowed = tuple(choices)
    return Kind(
        lambda text: text.lower() if text.lower() in allowed else _reject(),
        ", ".join(allowed[:-1]) + " or " + allowed[-1],
    )


def printable(expected: str, *, longest: int = 1_000) -> Kind:
    return Kind(lambda text: text if text.isprintable() and len(text) <= longest else _reject(), expected)


def _read_url(text: str) -> str:
    if not text.isprintable() or re.search(r"[\s?#\\]", text):
        _reject()
    import httpx  # here: a process of the pool reads no URL, and starts in half the time without it

    try:
        # The parser that will be used on it in the end: what it refuses, or reads differently from
        # urllib, must be known here and not at the first call.
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError from error
    if url.scheme not in ("http", "https") or not is_host(url) or url.userinfo:
        _reject()
    if url.port is not None and not 1 <= url.port <= 65_535:
        _reject()
    return str(url).rstrip("/")


def is_host(url: httpx.URL) -> bool:
    """Whether a URL has a host that can be asked for: with no label empty, or of more than 63 characters."""
    try:
        url.raw_host.decode("ascii").encode("idna")  # as Python's resolver does
    except UnicodeError:
        return False
    return bool(url.host.strip("."))


def _read_bind(text: str) -> str:
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        long = len(os.fsencode(path)) > _LONGEST_SOCKET_PATH
        return _reject() if long or not path.startswith("/") or path.endswith("/") else text
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        _reject()
    if host.startswith("[") and host.endswith("]"):
        ipaddress.IPv6Address(host[1:-1])
    elif not re.fullmatch(r"[A-Za-z0-9_.-]+", host):
        _reject()
    return text


PROCESS, COMMAND = "process:", "command:"
"""What a handler's path begins with when it is not called in this process."""


def split_handler_path(text: str) -> tuple[str, str]:
    """Split ``module:function`` at its colon.

    Returns:
        The dotted name of the module and the (perhaps dotted) name within it.

    Raises:
        ValueError: When it is not two dotted names with one colon between them.
    """
    module, colon, name = text.partition(":")
    parts = [*module.split("."), *name.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise ValueError("module:function expected")
    return module, name


def _read_handler_path(text: str) -> str:
    if text.startswith(COMMAND):
        return text if text.removeprefix(COMMAND).strip() else _reject()
    split_handler_path(text.removeprefix(PROCESS))
    return text


def _read_names(text: str) -> tuple[str, ...]:
    names = tuple(name for part in text.split(",") if (name := part.strip()))
    return names if all(re.fullmatch(r"\w+", name) for name in names) else _reject()


def _read_token(text: str) -> str:
    return text.strip() if re.fullmatch(r"[A-Za-z0-9._~-]{16,200}", text.strip()) else _reject()


def _read_path(text: str) -> Path:
    # Absolute from the start: the file is read again at each log-in, and a handler may call chdir.
    return Path(text).absolute() if "\0" not in text else _reject()


def _read_folder(text: str) -> Path:
    # "~" is not the shell's here: it may come from `.env`, or from a unit file.
    return _read_path(os.path.expanduser(text))


def _read_certificates(text: str) -> Path:
    import ssl  # what only few need, and 10 ms

    path = _read_path(text)
    if not path.is_file():  # a pipe would hold the start up
        _reject()
    try:
        ssl.create_default_context(cafile=path)
    except OSError:  # also when there is no certificate in it
        _reject()
    return path


def shown_url(text: str) -> str:
    """A URL as a value that is shown: quoted, not too long, and by `bare_url`."""
    return shown(bare_url(text))


def bare_url(text: str) -> str:
    """A URL without what may be a secret: a user and password, a query, a fragment."""
    text = re.sub(r"^([a-z]+://)?.*@", r"\1***@", text, flags=re.DOTALL | re.IGNORECASE)
    return re.sub(r"([?#]).*", r"\1***", text, flags=re.DOTALL)


def shown_nothing(_text: str) -> str:
    return "set (its value is not shown)"


def shown(text: str) -> str:
    short = text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"
    return repr(short)


BIND = Kind(
    _read_bind,
    "host:port such as 127.0.0.1:8001, [::1]:8001 or 0.0.0.0:8001 (every interface), "
    f"or unix:/path with a path of at most {_LONGEST_SOCKET_PATH} bytes",
)
BUS_URL = Kind(
    lambda text: BusAddress.parse(text.strip()),
    "redis:// or rediss:// (TLS), perhaps user:password@, a host, perhaps a port and /database; in a password"
    " percent-encoded: @ / ? # : and %",
)
BUS_URL_FILE = Kind(_read_path, "the path of a readable file that holds the URL and nothing else")
HANDLER = Kind(
    _read_handler_path,
    "module:function, such as trio_worker.handlers:echo, process:module:function or command:program …",
)
MASK = Kind(_read_names, "names of variables, separated by commas, such as API_KEY,DB_PASSWORD")
NAME = printable("a name of at most 100 printable characters", longest=100)
PASSWORD = Kind(
    lambda text: text.rstrip("\r\n"), "the password of the account, or WORKER_PASSWORD_FILE in its stead"
)
CERTIFICATES = Kind(_read_certificates, "the path of a readable file that holds certificates (PEM)")
PASSWORD_FILE = Kind(_read_path, "the path of a readable file that holds the password and nothing else")
STATE_DIR = Kind(_read_folder, "the path of a folder on a local disk")
TOKEN = Kind(
    _read_token,
    "16 to 200 letters, digits and any of -._~, such as `openssl rand -hex 24` gives",
)
TOKEN_FILE = Kind(_read_path, "the path of a readable file that holds the token and nothing else")
URL = Kind(
    _read_url,
    "http:// or https://, a host, perhaps a port and a path; no user, no password, no ? and no #",
)
USERNAME = printable("the name of the worker's account at WebBuddy")
