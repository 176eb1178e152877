"""Domains as keys of tables. Knows their parts, not what they are for."""

from __future__ import annotations

from collections.abc import Iterator


def suffixes(domain: bytes) -> Iterator[bytes]:
    """Yield .b.c and .c for a.b.c: the order in which suffix entries are looked up."""
    dot = domain.find(b".")
    while dot >= 0:
        yield domain[dot:]
        dot = domain.find(b".", dot + 1)
