"""What lanes are called. Knows the names, not who waits there."""

from __future__ import annotations

from qmaild.policy.domains import suffixes

LOCAL = b"local"
REMOTE = b"remote:"  # and the domain
ROUTES = REMOTE + b"@"  # and the key of the route; no domain begins like this


def of_domain(domain: bytes) -> bytes:
    """Return the lane of what goes to this domain without a route."""
    return REMOTE + domain.lower()


def only_for(domain: bytes) -> tuple[bytes, ...]:
    """Return the lanes whose recipients all go to this domain."""
    return REMOTE + domain.lower(), ROUTES + domain.lower()


def shared_by(domain: bytes) -> tuple[bytes, ...]:
    """Return the lanes where recipients at this domain may be among others."""
    return LOCAL, ROUTES, *(ROUTES + suffix for suffix in suffixes(domain.lower()))
