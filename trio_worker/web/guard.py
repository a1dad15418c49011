"""Who may ask: a token for pushes, another one for all else.

WebBuddy has only ``FASTAPI_URL`` to configure, so a token has to fit into a URL: it comes as the password
of HTTP Basic, whoever the user is said to be, which browsers can send, too. A bearer header is for everybody
else.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable

import attrs

from trio_worker.web.livez import LIVE_PATH

__all__ = ["CHALLENGE", "Guard"]

CHALLENGE = (b"www-authenticate", b'Basic realm="trio-worker", charset="UTF-8"')
"""The header of an answer with 401."""


@attrs.frozen
class Guard:
    """Compares tokens, in a time that does not depend on how much of one is right.

    Args:
        push_token: For the push endpoint; None: everybody may push.
        admin_token: For all else but `LIVE_PATH`; None: everybody may ask.
    """

    push_token: str | None = attrs.field(default=None, repr=False)
    admin_token: str | None = attrs.field(default=None, repr=False)

    def admits_push(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request for the push endpoint has what it needs."""
        return _admits(self.push_token, headers)

    def admits(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request for anything else has what it needs.

        `LIVE_PATH` is open to everybody: an orchestrator has no token, and learns no more than that we live.
        """
        return path == LIVE_PATH or _admits(self.admin_token, headers)


def _admits(token: str | None, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    if token is None:
        return True
    given = [value for name, value in headers if name.lower() == b"authorization"]
    # Of two, a proxy may have checked the other one.
    return len(given) == 1 and hmac.compare_digest(_token_in(given[0]), token.encode())


def _token_in(header: bytes) -> bytes:
    """The token in a header; what holds none gives b"", which no token is."""
    scheme, _, value = header.strip().partition(b" ")
    value = value.strip()
    match scheme.lower():
        case b"bearer":
            return value
        case b"basic":
            try:
                return base64.b64decode(value, validate=True).partition(b":")[2]
            except binascii.Error:
                return b""
        case _:
            return b""
