"""Client rules in tcprules' language: allow or deny, and variables, by the address, name or user of a client.

Knows the text, the records tcprules makes of it, and which record is a client's; not what the variables mean.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import NamedTuple

from qmaild.control import cdb
from qmaild.policy.domains import suffixes

MAX_RANGE = 256  # addresses that one line with a hyphen may stand for

_START = re.compile(rb":(allow|deny)")
_RANGE = re.compile(rb"((?:[0-9]+\.)*)([0-9]{1,3})-([0-9]{1,3})((?:\.[0-9]*)*)")
_LENGTHS = {4: b"/4", 6: b"/6"}  # keys of the records that say which lengths of network there are

EXPECTED = 'address:allow or address:deny, then ,VARIABLE="value" as often as wanted'


class RuleError(ValueError):
    """One line cannot be used. line counts from 1."""

    def __init__(self, line: int, expected: str) -> None:
        super().__init__(f"line {line}: expected {expected}")
        self.line = line
        self.expected = expected


class Rule(NamedTuple):
    """What is to be done with a client."""

    is_denied: bool
    variables: tuple[tuple[bytes, bytes], ...]


class Client(NamedTuple):
    """Who asks. address: as clients.normal() spells it; host: its reverse name, user: what identd said, empty if unknown."""

    address: bytes
    host: bytes = b""
    user: bytes = b""


def records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records of the rules, or raise RuleError. Of two rules about one address the first counts.

    Differs: names match in any case. tcprules leaves them as they are, and tcpserver asks for what DNS happens to say.
    """
    lengths: dict[int, set[int]] = {4: set(), 6: set()}
    for number, line in enumerate(content.split(b"\n"), 1):
        line = line.rstrip(b" \t")
        # As in tcprules, a line without a colon says nothing.
        if not line or line.startswith(b"#") or b":" not in line:
            continue
        start = _START.search(line)
        if not start or b"\0" in line:
            raise RuleError(number, EXPECTED)
        instructions = (b"D\0" if start[1] == b"deny" else b"") + _variables(line[start.end() :], number)
        for key in _keys(line[: start.start()].lower(), number, lengths):
            yield key, instructions
    for version, found in lengths.items():
        if found:
            yield _LENGTHS[version], bytes(sorted(found, reverse=True))


def _variables(text: bytes, number: int) -> bytes:
    """Return the variables as a record has them: +NAME=value and a NUL each."""
    found = []
    while text:
        name, equals, rest = text[1:].partition(b"=")
        value, quote, after = rest[1:].partition(rest[:1]) if rest else (b"", b"", b"")
        if text[:1] != b"," or not equals or not name or not quote:
            raise RuleError(number, EXPECTED)
        found.append(b"+%b=%b\0" % (name, value))
        text = after
    return b"".join(found)


def _keys(address: bytes, number: int, lengths: dict[int, set[int]]) -> Iterator[bytes]:
    """Yield the keys of an address: one, but for a range. Networks add to the lengths there are."""
    if b"=" in address or b"@" in address:
        yield address
        return
    if b"/" in address:  # Differs: tcprules knows no networks but those that end at a dot.
        try:
            network = ipaddress.ip_network(address.decode("ascii", "replace"), strict=False)
        except ValueError:
            raise RuleError(number, "an address or network such as 192.0.2.0/24 or 2001:db8::/32") from None
        lengths[network.version].add(network.prefixlen)
        yield str(network).encode()
        return
    hyphen = _RANGE.fullmatch(address)
    if hyphen:
        first, last = int(hyphen[2]), min(int(hyphen[3]), MAX_RANGE - 1)
        for each in range(first, last + 1):
            yield b"%b%d%b" % (hyphen[1], each, hyphen[4])
        return
    if b"-" in address:
        raise RuleError(number, "a range such as 192.0.2.10-20")
    if b":" not in address:
        yield address
        return
    try:
        yield str(ipaddress.ip_address(address.decode("ascii", "replace"))).encode()
    except ValueError:
        raise RuleError(number, "an IPv6 address such as 2001:db8::1, or a network") from None


def find(reader: cdb.Reader, client: Client) -> Rule | None:
    """Return the rule for this client, None if no line is about it. CdbError: the rules cannot be believed."""
    for key in keys_of(client, reader):
        value = reader.find(key)
        if value is None and key != key.lower():
            value = reader.find(key.lower())
        if value is not None:
            return _rule(value)
    return None


def keys_of(client: Client, reader: cdb.Reader) -> Iterator[bytes]:
    """Yield the keys a client may be found under, in tcpserver's order; networks stand among the prefixes, longest first."""
    address, host, user = client
    if user:
        yield user + b"@" + address
        if host:
            yield user + b"@=" + host
    yield address
    if host:
        yield b"=" + host
    yield from _prefixes(address, reader)
    if host:
        for suffix in suffixes(host):
            yield b"=" + suffix
        yield b"="
    yield b""


def _prefixes(address: bytes, reader: cdb.Reader) -> Iterator[bytes]:
    try:
        parsed = ipaddress.ip_address(address.decode("ascii", "replace"))
    except ValueError:
        return
    lengths = set(reader.find(_LENGTHS[parsed.version]) or b"")
    parts = address.split(b".") if parsed.version == 4 else []
    for bits in range(parsed.max_prefixlen, -1, -1):
        if bits in (8, 16, 24) and parts:
            yield b".".join(parts[: bits // 8]) + b"."
        if bits in lengths:
            yield str(ipaddress.ip_network((parsed, bits), strict=False)).encode()


def _rule(value: bytes) -> Rule:
    """Return what a record says. What we do not know might forbid: it counts as damage."""
    *words, rest = value.split(b"\0")
    is_denied = False
    variables = []
    for word in words:
        name, equals, text = word[1:].partition(b"=")
        if word == b"D":
            is_denied = True
        elif word[:1] == b"+" and name and equals:
            variables.append((name, text))
        else:
            raise cdb.CdbError("a rule has an instruction of no kind")
    if rest:
        raise cdb.CdbError("a rule has no end")
    return Rule(is_denied, tuple(variables))
