"""How a server is reached: through which proxy, and who is trusted to be it."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from urllib.request import getproxies, proxy_bypass

import attrs
import httpx
import trio

from trio_worker.errors import SettingsError
from trio_worker.proxied import ProxiedConnection
from trio_worker.setting_kinds import CERTIFICATES, is_host, shown, shown_url

__all__ = ["Route", "find_route", "trusted_context"]


@attrs.frozen
class Route:
    """The way to one server.

    Attributes:
        proxy: Through which; None: straight.
        context: Whom to trust; None: no TLS is spoken on the way.
    """

    proxy: httpx.Proxy | None
    context: ssl.SSLContext | None


async def find_route(url: httpx.URL, ca_file: Path | None = None) -> Route:
    """Look once what the environment says, without connecting to anybody.

    Args:
        url: The server's.
        ca_file: The certificates of who is trusted; None: those who usually are, or ``SSL_CERT_FILE``.

    Raises:
        SettingsError: The environment names a proxy, or certificates, that can't be used.
    """
    named = _environment_proxy(url)
    through_tls = named is not None and named[1].lower().startswith("https:")
    context = None
    if url.scheme == "https" or through_tls:
        context = await trio.to_thread.run_sync(_context, ca_file)
    proxy = None if named is None else _proxy(*named, context if through_tls else None)
    return Route(proxy, context)


def _proxy(variable: str, address: str, context: ssl.SSLContext | None) -> httpx.Proxy:
    try:
        proxy = httpx.Proxy(address, ssl_context=context)
        if is_host(proxy.url) and proxy.url.port != 0:
            ProxiedConnection(proxy, context)  # made once, to see whether it can be
            return proxy
        expected = "a host, and perhaps a port"
    except (httpx.InvalidURL, ValueError):
        expected = "http:// or https://, a host, and perhaps a port"
    except ImportError:
        expected = "http:// or https://; for SOCKS, the package socksio has to be installed"
    # Not chained: its text may have the proxy's password.
    raise SettingsError([f"{variable} is {shown_url(address)}: expected {expected}"])


def trusted_context(ca_file: Path | None) -> ssl.SSLContext:
    """Read the certificates of who is trusted, which blocks: the usual authorities' take 20 ms.

    Args:
        ca_file: Where they are; None: those who usually are trusted, or ``SSL_CERT_FILE``.

    Raises:
        SettingsError: They can't be read.
    """
    try:
        return httpx.create_ssl_context() if ca_file is None else ssl.create_default_context(cafile=ca_file)
    except OSError:  # also when there is no certificate in it
        name = "SSL_CERT_FILE" if ca_file is None else "WORKER_CA_FILE"
        file = shown(os.environ.get(name, "") if ca_file is None else str(ca_file))
        raise SettingsError([f"{name} is {file}: expected {CERTIFICATES.expected}"]) from None


def _context(ca_file: Path | None) -> ssl.SSLContext:
    context = trusted_context(ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _environment_proxy(url: httpx.URL) -> tuple[str, str] | None:
    """Which proxy the environment names for this URL, and by which variable.

    httpx itself asks the environment only when it makes the transports; there is one URL here, so
    one look is enough.
    """
    proxies = getproxies()
    scheme = url.scheme if proxies.get(url.scheme) else "all"
    proxy = proxies.get(scheme)
    # The second for "::1", which stands in brackets in the first.
    if not proxy or proxy_bypass(url.netloc.decode("ascii")) or proxy_bypass(url.host):
        return None
    name = f"{scheme}_proxy"
    return name if name in os.environ else name.upper(), proxy if "://" in proxy else f"http://{proxy}"
