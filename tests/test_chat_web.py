"""The tool that fetches a page: what it shows, what it refuses, and where it really connects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from trio_worker.handlers.chat import web
from trio_worker.handlers.chat.addresses import why_refused
from trio_worker.handlers.chat.page_text import page_text
from trio_worker.testing.streaming import Message, Receive, Send, serve_app

LOGIN = """<html><head><title>Sign
 in</title><style>p {color: red}</style></head><body><h1>Welcome &amp; hello</h1>
<script>alert("no")</script><form><p>Name <input name="user"><input type=password name=pw>
<input type="hidden" name="csrf"><input type="submit" value="Go"></form></body></html>"""


@asynccontextmanager
async def site(
    answer: Callable[[str], tuple[int, dict[str, str], bytes]],
) -> AsyncIterator[tuple[str, list[str]]]:
    """A site on this machine; gives its URL, and the ``Host`` of each request."""
    hosts: list[str] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        hosts.append(dict(scope["headers"]).get(b"host", b"").decode())
        status, headers, body = answer(scope["path"])
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async with serve_app(app) as url:
        yield url, hosts


def page(path: str) -> tuple[int, dict[str, str], bytes]:
    html = {"content-type": "text/html; charset=utf-8"}
    if path == "/login":
        return 200, html, LOGIN.encode()
    if path == "/long":
        return 200, html, b"<p>" + b"word " * 400_000
    if path == "/packed":
        return 200, html | {"content-encoding": "gzip"}, b"\x1f\x8b"
    if path == "/moved":
        return 302, {"location": "login"}, b""
    if path == "/round":
        return 302, {"location": "/round"}, b""
    if path == "/away":
        return 302, {"location": "http://169.254.169.254/latest/meta-data"}, b""
    if path == "/data":
        return 200, {"content-type": "application/json"}, '{"ё": 1}'.encode()
    return 404, html, b"<title>Not here</title>Nothing."


async def test_a_page_is_shown_as_a_person_reads_it() -> None:
    """Status, address, title, text and fields; redirects are followed; the name of the host is kept."""
    with trio.fail_after(30):
        async with site(page) as (url, hosts):
            named = url.replace("127.0.0.1", "localhost")
            shown = await web.fetch_page_inside(f"{named}/moved")
            missing = await web.fetch_page_inside(f"{url}/x")
            data = await web.fetch_page_inside(f"{url}/data")
    size = len(LOGIN.encode())
    assert shown == (
        f"Status: 200 OK\nAddress: {named}/login\nTitle: Sign in\nType: text/html, {size} bytes\n\n"
        "Welcome & hello\nName [text user] [password pw]\n[submit Go]"
    )
    assert hosts[:2] == [named.removeprefix("http://")] * 2
    assert missing.startswith("Status: 404 Not Found\n")
    assert "Title: Not here" in missing
    assert data.endswith('{"ё": 1}')


async def test_what_is_too_much() -> None:
    """A long page is cut, one that is packed is not unpacked, redirects end."""
    with trio.fail_after(30):
        async with site(page) as (url, _):
            long = await web.fetch_page_inside(f"{url}/long")
            packed = await web.fetch_page_inside(f"{url}/packed")
            round_ = await web.fetch_page_inside(f"{url}/round")
    assert len(long) < web.MOST_CHARACTERS + 300
    assert f"{web.MOST_BYTES} bytes read" in long
    assert "0 bytes read" in packed
    assert round_.startswith("Not fetched: more than 5 redirects")


async def test_private_addresses_are_refused() -> None:
    """By their number, by a name, in any notation, and behind a redirect: nothing is asked for."""
    with trio.fail_after(30):
        async with site(page) as (url, hosts):
            port = url.rpartition(":")[2]
            for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f000001"):
                refused = await web.fetch_page(f"http://{host}:{port}/login")
                assert refused.startswith("Not fetched: "), (host, refused)
            assert not hosts
            away = await web.fetch_page_inside(f"{url}/away")
    assert away == "Not fetched: 169.254.169.254: 169.254.169.254 is an address that is never asked"


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://a/b", "nonsense", "http://u:p@a.test/", "http://"]
)
async def test_what_is_no_address(url: str) -> None:
    """Only http and https, and no passwords."""
    assert (await web.fetch_page(url)).startswith("Not fetched: ")


async def test_a_page_that_does_not_answer() -> None:
    """The model is told, and the tool does not raise."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    shown = await web.fetch_page_inside(f"http://127.0.0.1:{port}/")
    assert "does not answer: ConnectError" in shown


PUBLIC = "93.184.216.34 2606:2800:220:1::1 2a00:1450::1 ::ffff:93.184.216.34 64:ff9b::5db8:d822 192.0.1.1"
INSIDE = """10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1 127.0.0.1 127.8.8.8 ::1 fd12::1 fc00::1
    ::ffff:10.0.0.1 ::ffff:127.0.0.1 64:ff9b::a00:1"""
NEVER = {
    "link-local": "169.254.169.254 fe80::1%eth0 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe",
    "metadata of clouds": """168.63.129.16 ::ffff:168.63.129.16 64:ff9b::a83f:8110 192.0.0.192 100.100.100.200
        fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fd00:c1::a9fe:a9fe fd00:42::42 fd00:a9fe:a9fe::1
        fd00:100::100:200""",
    "shared": "100.64.0.1 100.127.255.255 ::ffff:100.64.0.1",
    "protocols": "192.0.0.1 192.0.0.9 192.0.0.170 192.88.99.1 2001:1::1 2001:2::1 2001:20::1 2001:1ff::1",
    "nobody's": "0.0.0.0 0.0.0.1 :: 240.0.0.1 255.255.255.255 100::1 4000::1 5f00::1 8000::1 fe00::1",
    "multicast": "224.0.0.1 239.1.1.1 ff02::1 ff0e::1 ::ffff:224.0.0.1",
    "documents": "192.0.2.1 198.51.100.1 203.0.113.1 198.18.0.1 2001:db8::1 3fff::1",
    "site-local": "fec0::1 feff::1",
    "wrapped": """::127.0.0.1 ::a9fe:a9fe ::93.184.216.34 ::ffff:0:127.0.0.1 ::ffff:0:93.184.216.34
        64:ff9b:1::a9fe:a9fe 64:ff9b:1::5db8:d822 2002:7f00:1:: 2002:a9fe:a9fe:: 2002:5db8:d822::
        2001:0:7f00:1:: 2001:0:5db8:d822::""",
}


@pytest.mark.parametrize(
    ("addresses", "public", "private"),
    [
        pytest.param(PUBLIC, True, True, id="public"),
        pytest.param(INSIDE, False, True, id="inside"),
        *(pytest.param(addresses, False, False, id=kind) for kind, addresses in NEVER.items()),
    ],
)
def test_which_addresses_may_be_asked(addresses: str, public: bool, private: bool) -> None:
    """Public ones; private ones where that is allowed; all others never. On each Python the same."""
    for address in addresses.split():
        assert (why_refused(address, private=False) is None) == public, address
        assert (why_refused(address, private=True) is None) == private, address


def test_broken_html() -> None:
    """Tags that are not closed, or closed and never opened."""
    assert page_text("<title>A</title></p>x</b><script>y") == ("A", "x")
