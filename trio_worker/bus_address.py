"""Where the bus is that workers share: ``redis://user:password@host:port/database``."""

from __future__ import annotations

import re
from typing import NoReturn
from urllib.parse import SplitResult, unquote, urlsplit

import attrs

__all__ = ["BusAddress"]

_PORT = 6379  # Redis' own


@attrs.frozen
class BusAddress:
    """The address of a Redis or Valkey. As a string it is a URL without its password.

    Attributes:
        host: A name, or an address, of IPv6 without brackets.
        port: Its port.
        tls: Whether it is spoken to over TLS (``rediss://``).
        database: Which of its databases.
        username: Of an ACL; None: the default user.
        password: None: it wants none. Never in the ``repr``.
    """

    host: str
    port: int = _PORT
    tls: bool = False
    database: int = 0
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> BusAddress:
        """Read a URL.

        Raises:
            ValueError: It is none. The text may hold the password: it is not to be shown.
        """
        if not text.isprintable() or re.search(r"[\s?#\\]", text):
            _reject()
        url = urlsplit(text)
        if url.scheme not in ("redis", "rediss") or url.port == 0:
            _reject()
        return cls(
            host=_host(url),
            port=url.port or _PORT,
            tls=url.scheme == "rediss",
            database=_database(url.path),
            username=unquote(url.username) if url.username else None,
            password=unquote(url.password) if url.password else None,
        )

    def __str__(self) -> str:
        scheme = "rediss" if self.tls else "redis"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}/{self.database}"


def _host(url: SplitResult) -> str:
    host = url.hostname or ""
    host.encode("idna")  # as Python's resolver does: no label empty, or of more than 63 characters
    return host if host.strip(".") else _reject()


def _database(path: str) -> int:
    number = path.strip("/")
    if not number:
        return 0
    return int(number) if re.fullmatch(r"[0-9]{1,5}", number) else _reject()


def _reject() -> NoReturn:
    raise ValueError
