"""Which addresses a model may have fetched: what it asks for comes from texts that anybody may have
written."""

from __future__ import annotations

import ipaddress

__all__ = ["why_refused"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(map(ipaddress.ip_network, texts))


# Not `is_private`: that is also what is reserved for documents and benchmarks, and of IPv6 not all of it.
_INSIDE = _networks("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "::1/128", "fc00::/7")

# `is_global` knows what is public of IPv4, but for these: it takes multicast for global, and the security
# fixes that made it refuse 192.0.0.0/24 are in some releases of Python 3.11 to 3.13 and not in others.
_NOT_PUBLIC = _networks("224.0.0.0/4", "192.0.0.0/24", "192.88.99.0/24")

# Of IPv6 it takes for global what is not registered at all (::/96, fec0::/10, 4000::/3), and differs
# between releases. All that is public is in the first of these, and not in the others: protocols (Teredo is
# among them), documents, and 6to4.
_UNICAST = ipaddress.IPv6Network("2000::/3")
_NOT_UNICAST = _networks("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")

# Where clouds hand out the keys of a machine, outside of what is link-local: Azure; Amazon, also for DNS
# and the like; Google, Oracle, Scaleway, Akamai, Alibaba.
_METADATA = _networks(
    "168.63.129.16/32",
    "fd00:ec2::/32",
    *("fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:42::42", "fd00:a9fe:a9fe::1", "fd00:100::100:200"),
)

# IPv4 in the last 32 bits, which is where the connection ends: mapped, and NAT64, by which a network
# without IPv4 reaches all of it. Other ways to wrap it are not public, and so never asked: 64:ff9b:1::/48,
# where each network has its own place for it, 6to4 and Teredo, and the old ::/96 and ::ffff:0:0:0/96.
_WRAPS = _networks("::ffff:0:0/96", "64:ff9b::/96")


def why_refused(text: str, *, private: bool) -> str | None:
    """Say why an address must not be asked; None: it may be.

    The answer is the same on each release of Python.

    Args:
        text: The address, as the resolver gives it.
        private: Whether private networks and this machine itself are allowed. Nothing else that is not public
            ever is, nor is the metadata of clouds.
    """
    address = _unwrapped(ipaddress.ip_address(text.partition("%")[0]))
    if _is_in(_METADATA, address):
        return f"{text} is an address that is never asked"
    if _is_in(_INSIDE, address):
        return None if private else f"{text} is in a private network, which is not allowed"
    return None if _is_public(address) else f"{text} is an address that is never asked"


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not _is_in(_NOT_PUBLIC, address)
    return address in _UNICAST and not _is_in(_NOT_UNICAST, address)


def _unwrapped(address: Address) -> Address:
    return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF) if _is_in(_WRAPS, address) else address


def _is_in(networks: tuple[Network, ...], address: Address) -> bool:
    return any(address in network for network in networks)
