"""Clients by their address: one spelling for each, and the networks they are in."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from qmaild.control.kinds import Network


def normal(address: str) -> bytes:
    """Return the address as settings and records spell it: no zone, and IPv4 in IPv6's clothes is IPv4."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address.encode()
    if parsed.version == 6 and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return str(parsed).encode()


def holder(address: bytes) -> bytes:
    """Return what counts as one client: the address, or the /64 of an IPv6 address, which one host may have to itself."""
    if b":" not in address:
        return address
    return str(ipaddress.ip_network((address.decode("ascii", "replace"), 64), strict=False).network_address).encode()


def is_among(address: bytes, networks: Iterable[Network]) -> bool:
    """Return whether this address (as normal() gives it) is in one of the networks."""
    try:
        parsed = ipaddress.ip_address(address.decode("ascii", "replace"))
    except ValueError:
        return False
    return any(parsed in network for network in networks)
