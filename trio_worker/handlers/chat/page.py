"""A page, as it was fetched, and what the model is told of it."""

from __future__ import annotations

import http
import re
import zlib
from collections.abc import Callable

import attrs

from trio_worker.handlers.chat.page_text import page_text

__all__ = ["MOST_BYTES", "MOST_CHARACTERS", "Page"]

MOST_BYTES = 1_000_000
"""Of a page that are read: as they come, and again when they are unpacked."""

MOST_CHARACTERS = 12_000
"""Of its text that are given to the model."""

_MOST_OF_A_LINE = 300  # characters of a title, and of what else a server may make as long as it likes

_CHARSET = re.compile(r"""charset\s*=\s*["']?([\w.:-]{1,40})""", re.ASCII | re.IGNORECASE)
# Not any that Python knows: punycode takes minutes for a page that is made for it, unicode_escape gives texts
# that no JSON can hold.
_ENCODINGS = {
    *("utf-8", "utf8", "us-ascii", "ascii", "utf-16", "utf-16le", "utf-16be", "latin1"),
    *(f"iso-8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 15)),
    *(f"windows-{page}" for page in range(1250, 1259)),
    *("cp1251", "koi8-r", "koi8-u", "ibm866", "cp866", "mac-cyrillic"),
    *("gb2312", "gbk", "gb18030", "big5", "euc-jp", "iso-2022-jp", "shift_jis", "euc-kr"),
}


@attrs.frozen(kw_only=True)
class Page:
    """An answer to a GET.

    Attributes:
        status: Its status.
        url: What was asked for.
        content_type: As the server gives it, or blank.
        packing: The ``Content-Encoding``, or blank.
        body: As it came, `MOST_BYTES` at most.
        is_whole: Whether that is all.
    """

    status: int
    url: str
    content_type: str = ""
    packing: str = ""
    body: bytes = b""
    is_whole: bool = True

    @property
    def kind(self) -> str:
        """The type, without what else is said of it."""
        return self.content_type.partition(";")[0].strip().lower()[:_MOST_OF_A_LINE]

    def describe(self, look_up: Callable[[], object] = lambda: None) -> str:
        """Say what a person would see of it.

        Takes up to some seconds, if the page is made for that: call it in a thread.

        Args:
            look_up: Called again and again meanwhile; raises if it is to end.
        """
        lines = [f"Status: {self.status} {_phrase(self.status)}".strip(), f"Address: {self.url}"]
        kind = self.kind or "not said"
        unpacked = self._unpack()
        if unpacked is None:
            packing = self.packing[:_MOST_OF_A_LINE]
            return "\n".join([*lines, f"Type: {kind}, packed as {packing!r}, which can't be read"])
        body, is_whole = unpacked
        text = body.decode(self._encoding(), "replace")
        if self.kind in ("text/html", "application/xhtml+xml", ""):
            title, text = page_text(text, look_up)
            lines.append(f"Title: {title[:_MOST_OF_A_LINE] or 'none'}")
        elif not self.kind.startswith("text/") and not self.kind.endswith(("json", "xml")):
            text = ""
        lines.append(f"Type: {kind}, {'' if is_whole else 'the first '}{len(body)} bytes")
        if len(text) > MOST_CHARACTERS:
            text = f"{text[:MOST_CHARACTERS]}\n[{len(text) - MOST_CHARACTERS} more characters]"
        return "\n".join([*lines, "", text]).strip()

    def _unpack(self) -> tuple[bytes, bool] | None:
        """Give the body, and whether that is all, since a megabyte may be a gigabyte that is packed.

        None: it can't be read.
        """
        if self.packing in ("", "identity"):
            return self.body, self.is_whole
        if self.packing not in ("gzip", "x-gzip", "deflate"):
            return None
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS + 32)  # either of them, by how it begins
        try:
            return unpacker.decompress(self.body, MOST_BYTES), unpacker.eof
        except zlib.error:
            return None

    def _encoding(self) -> str:
        said = _CHARSET.search(self.content_type)
        name = said[1].lower() if said else "utf-8"
        return name if name in _ENCODINGS else "utf-8"


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return ""
