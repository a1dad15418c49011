"""Tools that look at the web: ``CHAT_TOOLS=trio_worker.handlers.chat.web:tools``, or ``:intranet_tools``.

The former refuse every address that is not public. Which of the two there are is the operator's choice, and
no argument of the model's.
"""

from __future__ import annotations

import codecs
import http
import socket
import ssl
from urllib.parse import urljoin

import attrs
import httpx
import trio

from trio_worker.handlers.chat.addresses import why_refused
from trio_worker.handlers.chat.page_text import page_text

__all__ = ["fetch_page", "fetch_page_inside", "intranet_tools", "tools"]

SECONDS = 20.0
"""For a page, with all redirects."""

MOST_BYTES = 1_000_000
"""Of a page that are read."""

MOST_CHARACTERS = 12_000
"""Of its text that are given to the model."""

MOST_REDIRECTS = 5

_HEADERS = {"User-Agent": "trio-worker", "Accept": "text/html, */*;q=0.5", "Accept-Encoding": "identity"}


class _RefusedError(Exception):
    """Not asked for, and why."""


@attrs.frozen
class _Page:
    status: int
    url: str
    kind: str
    body: bytes
    encoding: str
    target: str | None
    is_whole: bool


async def fetch_page(url: str) -> str:
    """Fetch a page of the web by GET and give its HTTP status, address, title and text.

    Fields and buttons of forms are shown in square brackets. No JavaScript runs.

    Args:
        url: The full address, beginning with http:// or https://.
    """
    return await _fetch(url, private=False)


async def fetch_page_inside(url: str) -> str:
    """Fetch a page by GET, also of the private network, and give its HTTP status, address, title and text.

    Fields and buttons of forms are shown in square brackets. No JavaScript runs.

    Args:
        url: The full address, beginning with http:// or https://.
    """
    return await _fetch(url, private=True)


fetch_page_inside.__name__ = "fetch_page"  # one name for the model, whichever there is

tools = (fetch_page,)
intranet_tools = (fetch_page_inside,)


async def _fetch(url: str, *, private: bool) -> str:
    with trio.move_on_after(SECONDS):
        try:
            page = await _follow(url, private=private)
        except _RefusedError as error:
            return f"Not fetched: {error}"
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            return f"{url} does not answer: {type(error).__name__}: {error}"
        # In a thread: a large page takes a while, and one that is made to takes longer.
        return await trio.to_thread.run_sync(_described, page, abandon_on_cancel=True)
    return f"{url} does not answer within {SECONDS:g} s."


async def _follow(url: str, *, private: bool) -> _Page:
    for _ in range(MOST_REDIRECTS + 1):
        page = await _get(url, private=private)
        if page.target is None:
            return page
        url = urljoin(url, page.target)
    raise _RefusedError(f"more than {MOST_REDIRECTS} redirects, the last to {url}")


async def _get(url: str, *, private: bool) -> _Page:
    """Make one request, to an address that was looked at: the name is resolved once, and not by httpx
    again."""
    parsed = httpx.URL(url)
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
        raise _RefusedError(f"{url!r} is no address that begins with http:// or https://")
    address = await _resolve(parsed, private=private)
    # The certificate is checked for the name, by `sni_hostname`. No proxy: it would resolve the name anew.
    request = httpx.Request(
        "GET",
        parsed.copy_with(host=address, fragment=None),
        headers={**_HEADERS, "Host": parsed.netloc.decode("ascii")},
        extensions={"sni_hostname": parsed.raw_host.decode("ascii")},
    )
    async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as client:
        response = await client.send(request, stream=True)
        try:
            target = response.headers.get("location") if response.is_redirect else None
            body, is_whole = (b"", True) if target else await _read(response)
        finally:
            # Closing says good-bye, which TLS may take long over.
            with trio.move_on_after(1, shield=True):
                await response.aclose()
    return _Page(
        status=response.status_code,
        url=url,
        kind=response.headers.get("content-type", "").partition(";")[0].strip().lower(),
        body=body,
        encoding=response.charset_encoding or "utf-8",
        target=target,
        is_whole=is_whole,
    )


async def _resolve(url: httpx.URL, *, private: bool) -> str:
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    try:
        found = await trio.socket.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _RefusedError(f"{url.host} is not known: {error}") from error
    addresses = [str(info[4][0]) for info in found]
    for address in addresses:
        # One that is refused is enough: a name that leads to both is no honest one.
        if (reason := why_refused(address, private=private)) is not None:
            raise _RefusedError(f"{url.host}: {reason}")
    return addresses[0]


async def _read(response: httpx.Response) -> tuple[bytes, bool]:
    """Read the body as it is: nothing was to be packed, and unpacking has no limit that could be set."""
    if response.headers.get("content-encoding", "identity") != "identity":
        return b"", False
    body, is_whole = b"", True
    with trio.CancelScope() as reading:
        async for piece in response.aiter_raw():
            body += piece
            if len(body) > MOST_BYTES:
                is_whole = False
                reading.cancel()  # a `break` would leave httpx's generators half read
    return body[:MOST_BYTES], is_whole


def _described(page: _Page) -> str:
    lines = [f"Status: {page.status} {_phrase(page.status)}".strip(), f"Address: {page.url}"]
    text = ""
    if page.kind in ("text/html", "application/xhtml+xml", ""):
        title, text = page_text(_decoded(page))
        lines.append(f"Title: {title or 'none'}")
    elif page.kind.startswith("text/") or page.kind.endswith(("json", "xml")):
        text = _decoded(page)
    lines.append(f"Type: {page.kind or 'not said'}, {len(page.body)} bytes{'' if page.is_whole else ' read'}")
    if len(text) > MOST_CHARACTERS:
        text = f"{text[:MOST_CHARACTERS]}\n[{len(text) - MOST_CHARACTERS} more characters]"
    return "\n".join([*lines, "", text]).strip()


def _decoded(page: _Page) -> str:
    try:
        codecs.lookup(page.encoding)
        return page.body.decode(page.encoding, "replace")
    except (LookupError, ValueError):  # such as "charset=hex"
        return page.body.decode("utf-8", "replace")


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return ""
