"""Asks for a page: each hop at an address that was looked at, and for no more of it than is read."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

import attrs
import httpx
import trio

from trio_worker.handlers.chat.addresses import why_refused
from trio_worker.handlers.chat.cause import cause_of
from trio_worker.handlers.chat.page import MOST_BYTES, Page

__all__ = ["SECONDS", "Fetcher", "threads"]

SECONDS = 20.0
"""For a page, with all redirects, until it is read."""

CONNECT_SECONDS = 5.0
"""For each address that a name leads to."""

MOST_REDIRECTS = 5

_LONGEST_URL = 4000  # characters; what names and numbers are found out of it takes longer the longer they are
_HEADERS = {"User-Agent": "trio-worker", "Accept": "text/html, */*;q=0.5", "Accept-Encoding": "identity"}

threads = trio.CapacityLimiter(2)
"""In which pages are read: few, since they take turns with the event loop, and none of those that others wait
for."""


class _RefusedError(Exception):
    """Not asked for, and why."""


@attrs.define(eq=False)
class Fetcher:
    """Fetches pages, for all queries.

    Attributes:
        private: Whether private networks and this machine may be asked.
        trust: Says by whom the certificates of https are to be signed. Called once, in a thread.
    """

    private: bool
    trust: Callable[[], ssl.SSLContext] = httpx.create_ssl_context
    _context: ssl.SSLContext | None = attrs.field(default=None, init=False)
    _making_context: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    async def fetch(self, url: str) -> str:
        """Fetch a page, and say what a person would see of it, or why there is nothing.

        Cancelled, it closes the connection, and ends the thread in which the page is read.

        Args:
            url: Its address.
        """
        with trio.move_on_after(SECONDS):
            try:
                page = await self._follow(url)
            except _RefusedError as error:
                return f"Not fetched: {error}"
            except (httpx.HTTPError, ssl.SSLError, OSError) as error:
                return f"{url} does not answer: {cause_of(error)}"
            # In a thread, for a page that is made to take long. It is not left behind: it looks up.
            return await trio.to_thread.run_sync(
                page.describe, trio.from_thread.check_cancelled, limiter=threads
            )
        return f"{url} has not answered in full within {SECONDS:g} s."

    async def _follow(self, url: str) -> Page:
        asked = _read_url(httpx.URL, url)
        for _ in range(MOST_REDIRECTS + 1):
            page, target = await self._get(asked)
            if target is None:
                return page
            asked = _read_url(asked.join, target)
        raise _RefusedError(f"more than {MOST_REDIRECTS} redirects, the last to {asked}")

    async def _get(self, url: httpx.URL) -> tuple[Page, str | None]:
        """Make one request, and give what came and where it leads.

        The name is resolved once, here, and not by httpx again: it might lead to another address then.
        """
        addresses = await self._resolve(url)
        for address in addresses[:-1]:
            try:
                return await self._ask(url, address)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                pass  # "localhost" is often ::1 first, where few listen
        return await self._ask(url, addresses[-1])

    async def _resolve(self, url: httpx.URL) -> list[str]:
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        try:
            found = await trio.socket.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise _RefusedError(f"{url.host} is not known: {error}") from error
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        for address in addresses:
            # One that is refused is enough: a name that leads to both is no honest one.
            if (reason := why_refused(address, private=self.private)) is not None:
                raise _RefusedError(f"{url.host}: {reason}")
        return addresses

    async def _ask(self, url: httpx.URL, address: str) -> tuple[Page, str | None]:
        # The certificate is checked for the name, by `sni_hostname`.
        request = httpx.Request(
            "GET",
            url.copy_with(host=address, fragment=None),
            headers={**_HEADERS, "Host": url.netloc.decode("ascii")},
            extensions={
                "sni_hostname": url.raw_host.decode("ascii"),
                "timeout": {"connect": CONNECT_SECONDS},
            },
        )
        # No client: it reads by itself where a redirect leads, and goes by proxies, which resolve the name
        # anew. One transport for all would use a connection again by its address, whatever name that was for.
        transport = httpx.AsyncHTTPTransport(verify=await self._trusted(), trust_env=False)
        async with transport:
            response = await transport.handle_async_request(request)
            try:
                target = response.headers["location"] if response.has_redirect_location else None
                body, is_whole = (b"", True) if target is not None else await _read(response)
            finally:
                # Closing says good-bye, which TLS may take long over.
                with trio.move_on_after(1, shield=True):
                    await response.aclose()
        page = Page(
            status=response.status_code,
            url=str(url),
            content_type=response.headers.get("content-type", ""),
            packing=response.headers.get("content-encoding", "").strip().lower(),
            body=body,
            is_whole=is_whole,
        )
        return page, target

    async def _trusted(self) -> ssl.SSLContext:
        async with self._making_context:
            if self._context is None:
                # Reading all authorities takes longer than the event loop may stand still.
                self._context = await trio.to_thread.run_sync(self.trust, limiter=threads)
            return self._context


def _read_url(read: Callable[[str], httpx.URL], text: str) -> httpx.URL:
    """Read an address that anybody may have written.

    Raises:
        _RefusedError: It is none that could be asked for.
    """
    if len(text) > _LONGEST_URL:
        raise _RefusedError(f"an address of {len(text)} characters, of {_LONGEST_URL} at most: {text[:100]}…")
    try:
        url = read(text)
        is_one = (
            url.scheme in ("http", "https") and url.host and not url.userinfo and (url.port or 0) < 65_536
        )
    except (httpx.InvalidURL, ValueError):  # the latter of names
        is_one = False
    if not is_one:
        raise _RefusedError(f"{text!r} is no address that begins with http:// or https://")
    return url


async def _read(response: httpx.Response) -> tuple[bytes, bool]:
    """Read the body as it comes, and say whether it is whole."""
    body, is_whole = bytearray(), True
    with trio.CancelScope() as reading:
        async for piece in response.aiter_raw():
            body += piece
            if len(body) > MOST_BYTES:
                is_whole = False
                reading.cancel()  # a `break` would leave httpx's generators half read
            # There may be ten thousand pieces in what was received at once. Shielded for the same reason.
            await trio.lowlevel.cancel_shielded_checkpoint()
    return bytes(body[:MOST_BYTES]), is_whole
