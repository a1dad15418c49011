"""How the model server is reached: through a proxy, over TLS, and what is said when that can't be."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import trio
import trustme
from structlog.typing import EventDict
from trio.testing import MockClock

from tests.chats import KEY, open_chat, settings
from tests.commands import run_command
from trio_worker.chat_settings import CHAT_HANDLER
from trio_worker.errors import SettingsError
from trio_worker.handlers.chat.failures import NotNow
from trio_worker.handlers.chat.model import Model, find_way, open_client
from trio_worker.testing import Failing, ModelServer, WebBuddy, serve_webbuddy

LIST = b'{"data": [{"id": "test-model"}]}'


@asynccontextmanager
async def serve(heads: list[bytes], authority: trustme.CA | None = None) -> AsyncIterator[int]:
    """Answer each request with the list of models, at a port of this machine."""

    async def answer(stream: trio.abc.Stream) -> None:
        head = b""
        try:
            while not head.endswith(b"\r\n\r\n"):
                head += await stream.receive_some(65_536)
        except trio.BrokenResourceError:
            return  # whoever it is, they do not trust us
        heads.append(head)
        size = b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(LIST)
        await stream.send_all(b"HTTP/1.1 200 OK\r\n" + size + LIST)
        await stream.aclose()

    listen = partial(trio.serve_tcp, answer, 0, host="127.0.0.1")
    if authority is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost").configure_cert(context)
        listen = partial(trio.serve_ssl_over_tcp, answer, 0, context, host="127.0.0.1", https_compatible=True)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(listen)
            raw = getattr(listeners[0], "transport_listener", listeners[0])
            yield raw.socket.getsockname()[1]
            nursery.cancel_scope.cancel()


async def names(base_url: str) -> list[str] | None:
    chosen = settings(base_url)
    async with open_client(chosen, await find_way(chosen)) as client:
        return await Model(client, chosen).names()


@pytest.fixture(autouse=True)
def _without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


async def test_the_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for this machine's own names, as to WebBuddy, but for those that NO_PROXY names."""
    heads: list[bytes] = []
    async with serve(heads) as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        for url in ("http://model.invalid/v1", "http://localhost:1/v1"):
            assert await names(url) == ["test-model"]
            assert heads.pop().startswith(f"GET {url}/models ".encode())
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert await names(f"http://127.0.0.1:{port}/v1") == ["test-model"]
        assert heads.pop().startswith(b"GET /v1/models ")


async def test_who_may_sign_its_certificate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The usual authorities, or those of SSL_CERT_FILE; nobody else learns the key."""
    authority, heads = trustme.CA(), list[bytes]()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    async with serve(heads, authority) as port:
        with pytest.raises(NotNow, match="CERTIFICATE_VERIFY_FAILED"):
            await names(f"https://localhost:{port}/v1")
        assert heads == []
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        assert await names(f"https://localhost:{port}/v1") == ["test-model"]
        assert f"Bearer {KEY}".encode() in heads[0]


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("HTTPS_PROXY", "me:secret@proxy:3128:x", "HTTPS_PROXY is 'http://***@proxy:3128:x': expected http"),
        ("SSL_CERT_FILE", "/nowhere.pem", "SSL_CERT_FILE is '/nowhere.pem': expected the path of"),
    ],
)
async def test_what_is_wrong_with_the_environment(
    variable: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable is named, and the proxy's password is not shown."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        await find_way(settings("https://model.invalid/v1"))
    (problem,) = caught.value.problems
    assert problem.startswith(says)


@pytest.mark.skipif(find_spec("socksio") is not None, reason="SOCKS is understood here")
@pytest.mark.parametrize("command", [("check",), ("once", "--query", "x")])
async def test_it_is_the_operators_matter(command: tuple[str, ...], tmp_path: Path) -> None:
    """A sentence, and exit 2."""
    chat = {"WORKER_HANDLER": CHAT_HANDLER, "CHAT_MODEL": "m", "CHAT_BASE_URL": "http://model.invalid/v1"}
    proxy = {"ALL_PROXY": "socks5://127.0.0.1:1080", "NO_PROXY": "127.0.0.1"}
    async with serve_webbuddy(WebBuddy()) as url:
        ended = await run_command(tmp_path, *command, webbuddy_url=url, **chat, **proxy)
    said = ended.out + ended.err
    assert ended.code == 2
    assert "ALL_PROXY is 'socks5://127.0.0.1:1080': expected http" in said
    assert "Traceback" not in said


async def test_a_server_that_is_not_to_be_reached(autojump_clock: MockClock) -> None:
    """It is given up after 10 s, and not only at the query's deadline."""

    class Nowhere(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *_: object, **__: object) -> list[object]:  # type: ignore[override]
            await trio.sleep_forever()
            raise AssertionError

        async def getnameinfo(self, *_: object) -> tuple[str, str]:
            raise AssertionError

    trio.socket.set_custom_hostname_resolver(Nowhere())
    with trio.fail_after(60), pytest.raises(NotNow, match="ConnectTimeout"):
        await names("http://model.invalid/v1")
    assert trio.current_time() < 15


async def test_a_key_that_the_server_quotes(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """One that is too short for the masks is not in the log either."""
    server = ModelServer(key="qwx")
    server.will(*[Failing(status=403, message="no credit left for qwx, sorry")] * 2)
    async with open_chat(server, chat={"api_key": "qwx"}) as chat:
        chat.webbuddy.add_query("Is it up?")
        await chat.webbuddy.until(lambda: "sorry" in str(events), within=600)
    assert "qwx" not in str(events)
