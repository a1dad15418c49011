"""Which addresses a model may have fetched: what it asks for comes from texts that anybody may have
written."""

from __future__ import annotations

import ipaddress

__all__ = ["why_refused"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Where clouds hand out the keys of a machine, in ranges that a private network may have. 169.254.169.254 is
# link-local, and refused as such.
_METADATA = {ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200")}


def why_refused(text: str, *, private: bool) -> str | None:
    """Say why an address must not be asked; None: it may be.

    Args:
        text: The address, as the resolver gives it.
        private: Whether private networks and this machine itself are allowed. Link-local addresses, multicast
        and
            the metadata of clouds never are.
    """
    address = _inner(ipaddress.ip_address(text.partition("%")[0]))
    if address in _METADATA or address.is_link_local or address.is_multicast or address.is_unspecified:
        return f"{text} is an address that is never asked"
    if address.is_global:
        return None
    if private and address.is_private:
        return None
    return f"{text} is in a private network, which is not allowed"


def _inner(address: Address) -> Address:
    """The address of IPv4 within one of IPv6, which is where the connection would end."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    within = address.ipv4_mapped or address.sixtofour
    return address if within is None else within
