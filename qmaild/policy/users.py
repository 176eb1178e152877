"""Which account a local part may belong to: qmail-getpw's rules. Knows names and numbers, not which accounts exist."""

from __future__ import annotations

import re
from typing import NamedTuple

ALIAS_USER = b"qmaild-alias"  # receives what belongs to nobody else
MAX_NAME = 31  # qmail-getpw's bound on account names
FIRST_USER = 1000  # accounts below belong to the system (Debian policy 9.2.2)
DYNAMIC_UIDS = range(61184, 65536)  # systemd's DynamicUser= and, at the end, nobody

_IN_NO_NAME = re.compile(rb"[\x00-\x20:/,\x7f]")


class Candidate(NamedTuple):
    """If the account `name` exists, the address is its with this dash and extension."""

    name: bytes
    dash: bytes
    extension: bytes


def candidates(local: bytes) -> list[Candidate]:
    """Return the accounts that could own the local part, longest name first, cut at each hyphen."""
    found = []
    end = len(local)
    while end > 0:
        name = local[:end].lower()
        if end <= MAX_NAME and not _IN_NO_NAME.search(name):
            dash = b"-" if end < len(local) else b""
            found.append(Candidate(name, dash, local[end + 1 :]))
        end = local.rfind(b"-", 0, min(end, MAX_NAME + 1))
    return found


def may_receive(name: bytes, uid: int, system_users: frozenset[bytes]) -> bool:
    """Return whether this account may be delivered to: never root; the system's own only when listed."""
    if uid == 0:
        return False
    if uid < FIRST_USER or uid in DYNAMIC_UIDS:
        return name in system_users
    return True
