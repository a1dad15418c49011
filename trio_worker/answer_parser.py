"""One answer in HTTP/1.1, put together from the pieces in which it comes."""

# The parsing itself, where mistakes are dangerous, is llhttp's, Node's own parser. It is stricter than h11,
# which httpx uses: a line that ends without CR, a header that goes on in the next line, a blank after a
# chunk's size and a Content-Length that is said twice are errors. What is left to us is to take from it one
# answer, the first that is no 1xx, and nothing of what follows.

from __future__ import annotations

import math
import re

import httptools
import httpx

from trio_worker.messages import ReadResponse, ReadyHeaders

__all__ = ["MOST_HEAD", "AnswerParser"]

MOST_HEAD = 65_536
"""Bytes of an answer's status line and headers. Of the rest as many, and one more for each byte of the body,
may be chunks' sizes and trailers."""


class AnswerParser:
    """What has come of an answer; llhttp calls its ``on_…``, also for what comes after it.

    Args:
        longest: Bytes of a body after which the answer is given up.

    Attributes:
        is_complete: Whether all of it is there.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._parser = httptools.HttpResponseParser(self)
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()
        self._size = 0
        self._is_in_head = True
        self._is_surplus = False
        self._may_be_kept = False
        self.is_complete = False

    def feed(self, data: bytes | bytearray) -> None:
        """Take what comes next, nothing being the end of the stream.

        Raises:
            httpx.RemoteProtocolError: It is no answer in HTTP, or ends too early.
            httpx.ReadError: It is too long.
        """
        if not data:
            self._end()
            return
        self._size += len(data)
        was_in_head = self._is_in_head
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.is_complete:
                raise httpx.RemoteProtocolError(f"this is no HTTP: {error}") from error
            self._is_surplus = True
        if was_in_head and not self._is_in_head:
            self._refuse_what_we_can_not_read()
        if len(self._body) > self._longest:
            raise httpx.ReadError(f"the answer is longer than {self._longest} bytes")
        if not self.is_complete and self._size > MOST_HEAD + 2 * len(self._body):
            what = "its headers are" if self._is_in_head else "what is not its body is"
            raise httpx.RemoteProtocolError(f"{what} longer than {MOST_HEAD} bytes")

    def usable_for(self) -> float:
        """Say for how many seconds the connection may be kept: infinity where that is not said."""
        if self._is_surplus or not self._may_be_kept:
            return 0.0
        seconds = math.inf
        for name, value in self._headers:
            if name == b"connection" and re.search(rb"\bclose\b", value, re.IGNORECASE):
                return 0.0  # also where it says "keep-alive" as well
            if name == b"keep-alive" and (said := re.search(rb"\btimeout=(\d{1,9})\b", value)):
                seconds = max(0.0, int(said[1]) - 1.0)  # a second is for the way
        return seconds

    def response(self, request: httpx.Request) -> httpx.Response:
        """Give it as httpx does, but without the server's words for the status, and the time that it took."""
        return ReadResponse(self._status, ReadyHeaders(self._headers), bytes(self._body), request)

    def _end(self) -> None:
        if self._size == 0:
            raise httpx.RemoteProtocolError("the server hung up without an answer")
        if self._is_in_head or self._header(b"content-length") or self._header(b"transfer-encoding"):
            raise httpx.RemoteProtocolError("the server hung up in the middle of its answer")
        self.is_complete = True  # of those that end with the connection, one can't tell

    def _header(self, wanted: bytes) -> bytes:
        found = [value for name, value in self._headers if name == wanted]
        return b", ".join(found) if found else b""

    def _refuse_what_we_can_not_read(self) -> None:
        if self._status < 200:
            raise httpx.RemoteProtocolError(f"this is no HTTP: its status is {self._status}")
        # Not asked for. To undo a compression would make the limit of the length mean nothing.
        for name, known in ((b"Transfer-Encoding", b"chunked"), (b"Content-Encoding", b"identity")):
            value = self._header(name.lower())
            if value and value.lower() != known:
                shown = value.decode("latin-1")
                raise httpx.RemoteProtocolError(f"its {name.decode()} is {shown!r}, which was not asked for")

    # --- What llhttp calls -----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._is_surplus = self.is_complete

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:  # else it is a trailer, or another answer's
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if not self._is_in_head:
            return
        self._status = self._parser.get_status_code()
        if 100 <= self._status < 200:
            self._headers.clear()  # of a "100 Continue", after which the answer comes
        else:
            self._is_in_head = False

    def on_body(self, data: bytes) -> None:
        if not self.is_complete:
            self._body += data

    def on_message_complete(self) -> None:
        if not self._is_in_head and not self.is_complete:
            self.is_complete = True
            self._may_be_kept = self._parser.should_keep_alive()  # it forgets with the next byte
