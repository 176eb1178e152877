"""Files that users and administrators write, and the addresses they are asked about: aliases, dot-qmail, control files, routes.

The first byte of an input chooses the reader: its letter in READERS.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from qmaild.control import settings
from qmaild.message import header
from qmaild.policy import aliases, clients, dotqmail, mailhosts, recipients, routes, users

from .settings import SETTINGS

SHOWN = 300


def alias_file(data: bytes) -> None:
    """Every name of a table leads somewhere, within bounds."""
    try:
        table = aliases.parse(data)
    except aliases.AliasError as error:
        assert 0 < error.line <= data.count(b"\n") + 1
        return
    for name, values in list(table.items())[:20]:
        assert name and name == name.lower() and values and all(values)
        assert not any(b"\0" in value or b"\n" in value for value in values)
        found = aliases.expand(table, name, lambda domain: domain == b"mx.test")
        assert found is not None
        assert len(found.forwards) + len(found.instructions) + len(found.names) <= aliases.MAX_EXPANSION + 1
        for line in found.instructions:
            dotqmail.parse(line, False, fixed=True)


def included_list(data: bytes) -> None:
    try:
        found = aliases.parse_list(data)
    except aliases.AliasError:
        return
    assert all(found) and not any(each[:1] in b"|/:\\" for each in found)
    # What may not stand there cannot come in by quotes or brackets either.
    for value in found:
        kinds = [each.kind for each in dotqmail.parse(b"&" + value, True)]
        assert kinds in ([dotqmail.Kind.FORWARD], []), value


def dot_qmail(data: bytes) -> None:
    for forward_only in (False, True):
        for fixed in (False, True):
            try:
                lines = dotqmail.numbered(data, forward_only, fixed)
            except dotqmail.InstructionError as error:
                assert 0 < error.line <= data.count(b"\n") + 1
                continue
            found = [each for _, each in lines]
            # Line by line it says the same.
            texts = data.split(b"\n")
            for number, each in lines:
                assert dotqmail.parse(texts[number - 1], False, fixed) == (each,)
            assert not any(b"\n" in each.value or b"\0" in each.value for each in found)
            assert fixed or not any(each.kind is dotqmail.Kind.INCLUDE for each in found)
            if forward_only:
                assert all(each.kind in (dotqmail.Kind.FORWARD, dotqmail.Kind.INCLUDE) for each in found)


def extension(data: bytes) -> None:
    """No address leads out of the home, nor breaks a line."""
    names = [name for name, _ in dotqmail.file_names(b"-", data)] + list(dotqmail.owner_names(b"-", data))
    if dotqmail.is_possible(data):
        assert not any(b"/" in name or b"\0" in name or name in (b".", b"..") for name in names)
    envelope = dotqmail.Envelope(b"joe", b"/home/joe", b"joe-" + data, b"-", data, data, data)
    values = dotqmail.environment(envelope, dotqmail.new_sender(envelope, True, True), data, b"date")
    for name in (b"DTLINE", b"RPLINE", b"UFLINE"):
        assert values[name].count(b"\n") == 1 and values[name].endswith(b"\n")


def control_file(data: bytes) -> None:
    """name LF content: a value or problems, and the value serves."""
    name, _, content = data.partition(b"\n")
    found, problems = settings.parse({"me": b"mx.test", name.decode("ascii", "replace"): content}, b"mx.test")
    for problem in problems:
        assert 0 < problem.line <= content.count(b"\n") + 1 and len(str(problem)) < SHOWN
    for address in (b"a@mx.test", b"a%b@c.test", b"postmaster", content[:100].replace(b"\n", b"")):
        _routed(address, found)
    if not problems:
        for value in found.smtproutes.values():
            mailhosts.target_of(value)


def _routed(address: bytes, found: settings.Settings) -> None:
    target = recipients.rewrite(address, found)
    rule = recipients.rule_of(address, found)
    assert rule.startswith((b"locals has ", b"virtualdomains has ") if target.is_local else (b"neither ", b"virtualdomains has "))
    recipients.is_ours(target.domain, found)
    lane = routes.lane_of(target, found.smtproutes)
    assert lane == routes.LOCAL_LANE or lane.startswith(b"remote:")


def an_address(data: bytes) -> None:
    """An address finds its way: rewritten, routed, its accounts."""
    _routed(data, SETTINGS)
    for candidate in users.candidates(data):
        assert candidate.name and b"/" not in candidate.name and len(candidate.name) <= users.MAX_NAME
    literal = mailhosts.literal(data)
    if literal:
        assert mailhosts.literal(b"[IPv6:" * (literal.version == 6) + str(literal).encode() + b"]" * (literal.version == 6))
        assert literal in (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))[literal.version == 6]
        assert b"%" not in data, "a zone makes one address look like another"
    shown = clients.normal(data.decode("latin-1"))
    assert clients.normal(shown.decode("latin-1", "replace")) == shown or not literal
    clients.is_among(shown, SETTINGS.relayclients)


def stored_header(data: bytes) -> None:
    section, body = header.split(data)
    assert data in (section + b"\n" + body, section) and not section.startswith(b"\n")
    for limit in (0, 10, len(section) // 2, len(section)):
        kept = header.bounded(section, limit)
        assert len(kept) <= limit and section.startswith(kept)


READERS: dict[bytes, Callable[[bytes], Any]] = {
    b"a": alias_file, b"i": included_list, b"d": dot_qmail, b"e": extension, b"k": control_file, b"u": an_address,
    b"h": stored_header,
}  # fmt: skip


def one_input(data: bytes) -> None:
    READERS.get(data[:1], control_file)(data[1:])


def _one_alias(data: bytes) -> None:
    alias_file(b"a: " + data.replace(b"\n", b" "))


def _many_aliases(data: bytes) -> None:
    count = len(data) // 200
    alias_file(b"\n".join([b"a%d: a%d, b%d" % (each, each + 1, each) for each in range(count)]))


def _circle(data: bytes) -> None:
    count = min(len(data) // 200, aliases.MAX_EXPANSION)
    circle = b"\n".join([b"a%d: a%d, a0" % (each, (each + 1) % count) for each in range(count)]) if count else b""
    aliases.expand(aliases.parse(circle), b"a0", lambda domain: False)


def _address(data: bytes) -> None:
    an_address(data[:1000])  # no longer one gets here


GROWTH = {
    "alias": _one_alias, "list": included_list, "dot-qmail": dot_qmail, "control file": control_file,
    "address": _address, "header": stored_header,
}  # fmt: skip
DRIBBLE = {"aliases": _many_aliases, "a circle of aliases": _circle}
