"""Requests and answers of httpx, made at the least cost."""

# Why not by httpx's own constructors. They serve everybody: they look for parameters, cookies and codings,
# put a body through generators, quote a URL anew and encode each header. What is made here has what those
# constructors of httpx 0.28, to which we are pinned, leave behind: the tests compare them. So whoever takes
# httpx's requests and answers can take these.

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import httpx

__all__ = ["ReadResponse", "ReadyHeaders", "ReadyRequest", "url_below"]


class ReadyHeaders(httpx.Headers):
    """Headers that are bytes already.

    Args:
        pairs: Names and values, in ASCII or, where a server knows no better, any bytes.
    """

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        self._list = [(name, name.lower(), value) for name, value in pairs]
        self._encoding = "latin-1"  # which has all bytes; nothing but ASCII has a meaning


class ReadyRequest(httpx.Request):
    """A request whose body is at hand.

    Args:
        method: In capitals.
        url: Whole.
        headers: All of them; none is added.
        content: The body.
        extensions: As of `httpx.Request`.
    """

    def __init__(
        self,
        method: str,
        url: httpx.URL,
        *,
        headers: httpx.Headers,
        content: bytes,
        extensions: Mapping[str, Any] | None = None,
    ) -> None:
        self.method = method
        self.url = url
        self.headers = headers
        self.extensions = {} if extensions is None else dict(extensions)
        self.stream = httpx.ByteStream(content)
        self._content = content


class ReadResponse(httpx.Response):
    """An answer that has been read to its end.

    Args:
        status: Its status.
        headers: All of them.
        body: As it came, without a transfer coding.
        request: What it answers.
    """

    def __init__(self, status: int, headers: httpx.Headers, body: bytes, request: httpx.Request) -> None:
        self.status_code = status
        self.headers = headers
        self.stream = httpx.ByteStream(body)
        self.next_request = None
        self.extensions = {}
        self.history = []
        self.default_encoding = "utf-8"
        self.is_closed = self.is_stream_consumed = True
        self._request = request
        self._content = body
        self._num_bytes_downloaded = len(body)


def url_below(base: httpx.URL, path: str) -> httpx.URL:
    """Give the URL of a path, as ``base.join(path)`` does, which parses three URLs to make one.

    Args:
        base: With a slash at its end, and no query string.
        path: Relative, of letters, digits, ``-``, ``_`` and ``/``.
    """
    url = httpx.URL.__new__(httpx.URL)
    parts = base._uri_reference
    url._uri_reference = parts._replace(path=parts.path + path)
    return url
