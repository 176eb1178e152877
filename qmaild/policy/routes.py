"""Which smtproutes entry a domain uses, and its lane. Knows the table, not how hosts are reached."""

from __future__ import annotations

from qmaild.policy import lane_names
from qmaild.policy.domains import suffixes
from qmaild.policy.recipients import Target

LOCAL_LANE = lane_names.LOCAL


def find(domain: bytes, table: dict[bytes, bytes]) -> tuple[bytes, bytes] | None:
    """Return (key, relay) of the domain's entry: the exact name, then its .suffixes, then the empty key.

    An entry with an empty relay means MX: like no entry at all, it gives None.
    """
    if not table:
        return None
    domain = domain.lower()
    for key in (domain, *suffixes(domain), b""):
        relay = table.get(key)
        if relay is not None:
            return (key, relay) if relay else None
    return None


def lane_of(target: Target, table: dict[bytes, bytes]) -> bytes:
    """Return the lane of a rewritten recipient: all for one relay share one, and so transactions."""
    if target.is_local:
        return LOCAL_LANE
    route = find(target.domain, table) if table else None
    if route is None:
        return lane_names.of_domain(target.domain)
    return lane_names.ROUTES + route[0]
