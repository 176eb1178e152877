"""Where a recipient belongs: the rewriting rules of qmail-send. Knows the settings, not which users exist."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from qmaild.control.settings import Settings
from qmaild.policy.domains import suffixes


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """A rewritten recipient. is_local: address names a local part of this host; else domain is where it goes."""

    is_local: bool
    address: bytes
    domain: bytes


def matches(domain: bytes, names: frozenset[bytes]) -> bool:
    """Return whether the domain, or a .suffix of it, is in names (which are lower-case)."""
    domain = domain.lower()
    return domain in names or any(suffix in names for suffix in suffixes(domain))


def rewrite(address: bytes, settings: Settings) -> Target:
    """Return where this address goes: envnoathost, percenthack, locals, virtualdomains, else remote (in this order)."""
    address = _at_a_host(address, settings)
    domain = address.rpartition(b"@")[2]
    lowered = domain.lower()
    if lowered in settings.locals:
        return Target(True, address, domain)
    key = _entry(address.lower(), lowered, settings.virtualdomains)
    prefix = settings.virtualdomains[key] if key is not None else b""
    if prefix:
        return Target(True, prefix + b"-" + address, domain)
    return Target(False, address, domain)


def _at_a_host(address: bytes, settings: Settings) -> bytes:
    if b"@" not in address:
        address += b"@" + settings.envnoathost
    local, _, domain = address.rpartition(b"@")
    while domain.lower() in settings.percenthack and b"%" in local:
        user, _, host = local.rpartition(b"%")
        address = user + b"@" + host
        local, _, domain = address.rpartition(b"@")
    return address


def _entry(address: bytes, domain: bytes, table: dict[bytes, bytes]) -> bytes | None:
    """Return the key of the first entry that matches. An entry without a prefix is an exception: it matches, too."""
    if not table:
        return None
    for key in (address, domain, *suffixes(domain), b""):
        if key in table:
            return key
    return None


def rule_of(address: bytes, settings: Settings) -> bytes:
    """Return in words what rewrite() goes by."""
    address = _at_a_host(address, settings)
    domain = address.rpartition(b"@")[2].lower()
    if domain in settings.locals:
        return b"locals has %b" % domain
    key = _entry(address.lower(), domain, settings.virtualdomains)
    if key is None:
        return b"neither locals nor virtualdomains has %b" % domain
    return b"virtualdomains has %b:%b" % (key, settings.virtualdomains[key])


MAX_DOMAIN = 255  # RFC 1035 2.3.4: a longer name is no domain's, and each of its dots would cost a look

More = Callable[[bytes], bool]


def nothing_more(key: bytes) -> bool:
    return False


def is_ours(domain: bytes, settings: Settings, is_listed: More = nothing_more) -> bool:
    """Return whether a stranger may send to this domain (rcpthosts, or without it what is delivered here).

    is_listed: whether morercpthosts.cdb has this name or .suffix. It goes on where rcpthosts ends, and is nothing without it.
    """
    if settings.rcpthosts is not None:
        if matches(domain, settings.rcpthosts):
            return True
        lowered = domain.lower()
        return len(domain) <= MAX_DOMAIN and (is_listed(lowered) or any(map(is_listed, suffixes(lowered))))
    lowered = domain.lower()
    if lowered in settings.locals:
        return True
    # Differs: a virtualdomains entry of one address, or the catch-all, opens no domain to strangers by itself.
    for key in (lowered, *suffixes(lowered)):
        if key in settings.virtualdomains:
            return bool(settings.virtualdomains[key])
    return False
