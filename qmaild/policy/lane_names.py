"""What lanes are called. Knows the names, not who waits there."""

from __future__ import annotations

LOCAL = b"local"
REMOTE = b"remote:"  # and the domain
ROUTES = REMOTE + b"@"  # and the key of the route; no domain begins like this


def of_domain(domain: bytes) -> bytes:
    """Return the lane of what goes to this domain without a route."""
    return REMOTE + domain.lower()
