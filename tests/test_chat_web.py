"""The tool that fetches a page: what it shows, what it refuses, and where it really connects."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing
import trustme
from trio.testing import MockClock

from trio_worker.handlers.chat import web
from trio_worker.handlers.chat.addresses import why_refused
from trio_worker.handlers.chat.fetcher import SECONDS, Fetcher, threads
from trio_worker.handlers.chat.page import MOST_BYTES, MOST_CHARACTERS
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
    if path == "/moved":
        return 302, {"location": "login"}, b""
    if path == "/round":
        return 302, {"location": "/round"}, b""
    if path == "/away":
        return 302, {"location": "http://169.254.169.254/latest/meta-data"}, b""
    if path == "/hostile":
        return 200, html, b"<" * MOST_BYTES
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
    """A long page is cut, and redirects end."""
    with trio.fail_after(30):
        async with site(page) as (url, _):
            long = await web.fetch_page_inside(f"{url}/long")
            round_ = await web.fetch_page_inside(f"{url}/round")
    assert len(long) < MOST_CHARACTERS + 300
    assert f"Type: text/html, the first {MOST_BYTES} bytes\n" in long
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


NO_ADDRESSES = [
    *("file:///etc/passwd", "ftp://a/b", "http://u:p@a.test/", "http://a.test:70000/", "http://a.test:x/"),
    *("http://xn--" + "b9" * 50 + "/", "http://[/", "http://a\x7f.test/", "http://a.test/" + "a" * 4000),
]


@pytest.mark.parametrize("url", ["", "nonsense", "http://", "http://a\0b/", *NO_ADDRESSES])
async def test_what_is_no_address(url: str) -> None:
    """Only http and https, no passwords, nothing odd."""
    assert (await web.fetch_page(url)).startswith("Not fetched: ")


async def test_a_page_that_moves_to_what_is_no_address() -> None:
    """A server may write there what it likes."""
    with trio.fail_after(30):
        async with site(lambda path: (302, {"location": NO_ADDRESSES[int(path[1:])]}, b"")) as (url, hosts):
            for number, target in enumerate(NO_ADDRESSES):
                shown = await web.fetch_page_inside(f"{url}/{number}")
                assert shown.startswith("Not fetched: "), (target, shown)
    assert len(hosts) == len(NO_ADDRESSES)


async def test_a_page_that_does_not_answer() -> None:
    """The model is told, and the tool does not raise."""
    with trio.fail_after(30):
        shown = await web.fetch_page_inside(f"http://127.0.0.1:{await closed_port()}/")
    assert "does not answer: ConnectError" in shown


async def closed_port() -> int:
    """Where nobody listens any more."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    return port


# --- Names ----------------------------------------------------------------------------------------------


class Names(trio.abc.HostnameResolver):
    """The resolver: it gives one answer after the other, and the last for ever.

    Args:
        answers: Each the addresses of whatever name it is asked for.
    """

    def __init__(self, *answers: tuple[str, ...]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        assert host is not None
        self.asked.append(host.decode())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answer]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Let all of Trio ask here."""
        before = trio.socket.set_custom_hostname_resolver(self)
        try:
            yield
        finally:
            trio.socket.set_custom_hostname_resolver(before)


async def test_the_address_that_was_looked_at_is_asked() -> None:
    """A name is resolved once: by the next time it may lead to what is refused."""
    names = Names(("127.0.0.1",), ("169.254.169.254",))
    with trio.fail_after(30):
        async with site(page) as (url, hosts):
            named = url.replace("127.0.0.1", "rebinding.test")
            with names.at_work():
                shown = await web.fetch_page_inside(f"{named}/login")
                assert shown.startswith("Status: 200 OK")
                assert names.asked == ["rebinding.test"]
                later = await web.fetch_page_inside(f"{named}/login")
    assert later == "Not fetched: rebinding.test: 169.254.169.254 is an address that is never asked"
    assert hosts == [named.removeprefix("http://")]


async def test_a_name_that_leads_to_both() -> None:
    """One address that is refused is enough."""
    with trio.fail_after(30), Names(("93.184.216.34", "127.0.0.1")).at_work():
        refused = await web.fetch_page("http://both.test/")
    assert refused == "Not fetched: both.test: 127.0.0.1 is in a private network, which is not allowed"


async def test_an_address_where_nobody_listens() -> None:
    """The name's next is asked: "localhost" often leads to ::1 first."""
    with trio.fail_after(30):
        async with site(page) as (url, hosts):
            port = url.rpartition(":")[2]
            with Names(("127.0.0.2", "127.0.0.1")).at_work():
                shown = await web.fetch_page_inside(f"http://two.test:{port}/login")
    assert shown.startswith("Status: 200 OK")
    assert len(hosts) == 1


# --- https ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def secure_site(authority: trustme.CA, name: str) -> AsyncIterator[int]:
    """A site with a certificate for this name; gives its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)

    async def answer(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with suppress(trio.BrokenResourceError):
            await stream.receive_some()
            await stream.send_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi"
            )

    listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1", https_compatible=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, answer, listeners)
        yield listeners[0].transport_listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_https() -> None:
    """The certificate has to be the name's, though the address is asked; who may sign is found out once."""
    authority, contexts = trustme.CA(), []

    def trust() -> ssl.SSLContext:
        contexts.append(threading.current_thread())
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    fetcher = Fetcher(private=True, trust=trust)
    with trio.fail_after(30), Names(("127.0.0.1",)).at_work():
        async with secure_site(authority, "shop.test") as port:
            shown = await fetcher.fetch(f"https://shop.test:{port}/")
            other = await fetcher.fetch(f"https://other.test:{port}/")
            stranger = await web.fetch_page_inside(f"https://shop.test:{port}/")
    assert shown.startswith("Status: 200 OK")
    assert shown.endswith("\n\nhi")
    assert "certificate is not valid for 'other.test'" in other
    assert "certificate verify failed" in stranger
    assert contexts != [threading.main_thread()]
    assert len(contexts) == 1


# --- Time -----------------------------------------------------------------------------------------------


async def test_a_server_that_drips(mock_clock: MockClock) -> None:
    """Each byte comes soon enough, and all of them never do: the whole has a time limit."""
    ended_at: list[float] = []

    async def drip(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while True:
                await stream.send_all(b"x")
                await trio.testing.wait_all_tasks_blocked()
                mock_clock.jump(3)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        await nursery.start(trio.serve_listeners, drip, listeners)
        began = trio.current_time()
        with trio.fail_after(60):
            shown = await web.fetch_page_inside(f"http://127.0.0.1:{port}/")
        ended_at.append(trio.current_time() - began)
        nursery.cancel_scope.cancel()
    assert shown == f"http://127.0.0.1:{port}/ has not answered in full within 20 s."
    assert 20 <= ended_at[0] < 23


async def test_a_page_that_takes_long_to_read(mock_clock: MockClock) -> None:
    """The thread in which it is read looks up at the end of the time, and is not left behind."""
    shown: list[str] = []
    async with site(page) as (url, _), trio.open_nursery() as nursery:
        await web.fetch_page_inside(f"{url}/login")  # whatever is made once

        async def fetch() -> None:
            shown.append(await web.fetch_page_inside(f"{url}/hostile"))

        nursery.start_soon(fetch)
        while threads.borrowed_tokens == 0 and not shown:  # noqa: ASYNC110 - a thread says nothing first
            await trio.lowlevel.checkpoint()
        mock_clock.jump(SECONDS)
    assert shown == [f"{url}/hostile has not answered in full within 20 s."]
    assert threads.borrowed_tokens == 0


async def test_its_threads_are_its_own() -> None:
    """Two pages are read at a time, and in none of the threads that the rest of the worker waits for."""
    others = trio.to_thread.current_default_thread_limiter()
    held, shown = [object(), object()], []

    async def fetch(url: str) -> None:
        shown.append(await web.fetch_page_inside(f"{url}/login"))

    with trio.fail_after(30):
        async with site(page) as (url, hosts), trio.open_nursery() as nursery, all_of(others):
            await fetch(url)
            for holder in held:
                threads.acquire_on_behalf_of_nowait(holder)
            nursery.start_soon(fetch, url)
            while len(hosts) < 2:  # noqa: ASYNC110 - the site tells nobody
                await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            assert len(shown) == 1
            for holder in held:
                threads.release_on_behalf_of(holder)
    assert [text.partition("\n")[0] for text in shown] == ["Status: 200 OK"] * 2


@asynccontextmanager
async def all_of(limiter: trio.CapacityLimiter) -> AsyncIterator[None]:
    """Hold all that it has."""
    holders = [object() for _ in range(int(limiter.available_tokens))]
    for holder in holders:
        limiter.acquire_on_behalf_of_nowait(holder)
    try:
        yield
    finally:
        for holder in holders:
            limiter.release_on_behalf_of(holder)


# --- Addresses ------------------------------------------------------------------------------------------

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
