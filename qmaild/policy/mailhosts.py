"""Where a domain's mail goes: DNS answers in, hosts in order or a verdict out. Knows no resolver, no socket.

The order is RFC 5321 5.1's, with IPv6; what each lack means is qmail-remote's table.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from qmaild.protocol.frames import PERMANENT, TEMPORARY

SMTP_PORT, LMTP_PORT = 25, 24
MAX_HOSTS = 20  # of one domain's MX records: nobody sane has more, and each costs two questions
MAX_ADDRESSES = 20  # of one preference

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Item = TypeVar("_Item")
Shuffle = Callable[[list[_Item]], None]

_DOTTED = re.compile(rb"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_UNSHOWN = re.compile(rb"[^\x21-\x7e]")


class Status(enum.Enum):
    """How a DNS question ended."""

    FOUND = enum.auto()
    EMPTY = enum.auto()  # the name exists, with no record of this type
    ABSENT = enum.auto()  # the name does not exist
    TROUBLE = enum.auto()  # unknown for now


class Answer(NamedTuple):
    """values: (preference, name) for MX, addresses as text for A and AAAA; names without the final dot."""

    status: Status
    values: tuple[tuple[int, bytes], ...] | tuple[bytes, ...] = ()


class Host(NamedTuple):
    preference: int
    name: bytes


class Candidate(NamedTuple):
    """One address to try, of one host."""

    host: bytes
    address: Address

    @property
    def shown(self) -> bytes:
        return str(self.address).encode()


class Verdict(NamedTuple):
    """Why there is no connection."""

    outcome: bytes
    enhanced: bytes
    text: bytes


class Target(NamedTuple):
    """What a route's value names. path is set for a unix socket, else host and port."""

    protocol: bytes
    host: bytes
    port: int
    path: bytes = b""


def shown(name: bytes) -> bytes:
    """Return a name as texts may carry it."""
    return _UNSHOWN.sub(b"?", name[:255])


def literal(name: bytes) -> Address | None:
    """Return the address in d.d.d.d, [d.d.d.d] or [IPv6:x] (RFC 5321 4.1.3); None for a host name.

    One with a zone (%eth0) is none: it would equal no address of ours, and so pass for another host's.
    """
    text = name
    if name.startswith(b"[") and name.endswith(b"]"):
        text = name[1:-1]
        if text[:5].lower() == b"ipv6:":
            text = text[5:]
    elif not _DOTTED.fullmatch(name):
        return None
    if b"%" in text:
        return None
    try:
        return plain(ipaddress.ip_address(text.decode("ascii")))
    except ValueError:
        return None


def plain(address: Address) -> Address:
    """Return the IPv4 address inside an IPv4-mapped one: no disguise gets past the own-address rule."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def target_of(value: bytes) -> Target | None:
    """Return what a value of smtproutes names (relay, relay:port, [address]:port, lmtp:...); None for MX."""
    protocol, port = b"smtp", SMTP_PORT
    if value.startswith(b"lmtp:"):
        protocol, port, value = b"lmtp", LMTP_PORT, value[5:]
        if value.startswith(b"/"):
            return Target(protocol, b"", 0, value)
    if value.count(b":") == 1 or b"]:" in value:
        value, _, digits = value.rpartition(b":")
        port = int(digits)
    return Target(protocol, value, port) if value else None


def hosts_of(domain: bytes, mx: Answer, shuffle: Shuffle[Host]) -> list[list[Host]] | Verdict:
    """Return the hosts in groups of one preference, best first, shuffled inside; or why there are none."""
    if mx.status is Status.TROUBLE:
        return Verdict(TEMPORARY, b"4.1.2", b"I could not look up the mail hosts of %b." % shown(domain))
    if mx.status is Status.ABSENT:
        return Verdict(PERMANENT, b"5.1.2", b"There is no host named %b." % shown(domain))
    if mx.status is Status.EMPTY:
        return [[Host(0, domain)]]  # RFC 5321 5.1: the implicit MX
    hosts = {Host(each[0], each[1].lower()) for each in mx.values if not isinstance(each, bytes)}
    named = sorted(host for host in hosts if host.name)
    if not named:  # RFC 7505 3: MX 0 "."
        return Verdict(PERMANENT, b"5.1.10", b"%b takes no messages (null MX)." % shown(domain))
    groups: dict[int, list[Host]] = {}
    for host in named:
        groups.setdefault(host.preference, []).append(host)
    left, found = MAX_HOSTS, []
    for group in groups.values():
        shuffle(group)
        if left > 0:
            found.append(group[:left])
        left -= len(group)
    return found


def candidates_of(answers: Iterable[tuple[bytes, Answer]], shuffle: Shuffle[Candidate]) -> list[Candidate]:
    """Return the addresses of one group: hosts in the given order, of each IPv6 and IPv4 taking turns."""
    of_host: dict[bytes, tuple[list[Candidate], list[Candidate]]] = {}
    for name, answer in answers:
        for value in answer.values:
            if isinstance(value, bytes):
                address = plain(ipaddress.ip_address(value.decode("ascii")))
                of_host.setdefault(name, ([], []))[address.version == 4].append(Candidate(name, address))
    found: list[Candidate] = []
    for six, four in of_host.values():
        shuffle(six)
        shuffle(four)
        turns = [pair for both in zip(six, four, strict=False) for pair in both]
        found += turns + six[len(four) :] + four[len(six) :]
    return found[:MAX_ADDRESSES]


def is_never_mail(address: Address) -> bool:
    """Return whether no other host can have this address: ours by definition, or nobody's."""
    return address.is_loopback or address.is_unspecified or address.is_multicast or address in _THIS_NETWORK


_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")


class Search:
    """What was met on the way through the groups, and the verdict when no connection came of it.

    The loop rule: the first group that holds one of our own addresses ends the way, for that group and those
    behind it would send the message around in a circle.
    """

    def __init__(self, domain: bytes) -> None:
        self._domain = shown(domain)
        self._trouble = self._tried = self._ours = False

    def usable(self, answers: Sequence[tuple[bytes, Answer]], found: list[Candidate],
               is_own: Callable[[Address], bool]) -> list[Candidate]:  # fmt: skip
        """Return the candidates of one group that may be tried; none once an own address was met."""
        self._trouble |= any(answer.status is Status.TROUBLE for _, answer in answers)
        if any(is_own(candidate.address) for candidate in found):
            self._ours = True
        if self._ours:
            return []
        self._tried |= bool(found)
        return found

    @property
    def is_over(self) -> bool:
        return self._ours

    def verdict(self) -> Verdict:
        """Return why nothing was reached: what may be better later counts before anything permanent."""
        if self._tried:
            text = b"I could not establish a connection to a mail host of %b." % self._domain
            return Verdict(TEMPORARY, b"4.4.1", text)
        if self._trouble:
            text = b"I could not look up the addresses of the mail hosts of %b." % self._domain
            return Verdict(TEMPORARY, b"4.1.2", text)
        if self._ours:
            text = b"The best mail host of %b is this host, but it is not in locals." % self._domain
            return Verdict(PERMANENT, b"5.4.6", text)
        return Verdict(PERMANENT, b"5.4.4", b"No mail host of %b has an address." % self._domain)
