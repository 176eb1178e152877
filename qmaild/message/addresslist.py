"""Address lists of header fields by qmail-inject's rules: read, completed, written again.

Lists are taken as people write them: a missing comma is understood, a semicolon outside a group separates, a
group may lack its end. Comments and display names are kept. Quotes, comments and brackets that do not close
are errors.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import NamedTuple

from qmaild.message.address import MAX_ADDRESS, quote

FOLD = 78  # columns; RFC 5322 2.1.1
MAX_ITEMS = 100_000  # of one field: as many recipients as a message may have, and seconds of work

_SPACE = re.compile(rb"[ \t\r\n]+")
_ATOM = re.compile(rb'(?:\\.|[^\\ \t\r\n()<>@,;:".\[\]])+')
_QUOTED = re.compile(rb'"((?:\\.|[^"\\])*)"', re.DOTALL)
_LITERAL = re.compile(rb"\[((?:\\.|[^\[\]\\])*)\]", re.DOTALL)
_COMMENT_MARK = re.compile(rb"\\.|[()]", re.DOTALL)
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_NOT_A_HOST = re.compile(rb'[\0 \t\r\n()<>@,;:\\"\[\]]')  # what only quotes, a backslash or a variable can have let through
_NOT_IN_A_LITERAL = re.compile(rb'[\x00-\x20()<>@,;\\"\[\]\x7f]')  # an @ would be the one that parts local part and host
_FORBIDDEN = re.compile(rb"[\r\n\0]")
_WORDS = frozenset((b"atom", b"quoted", b"literal"))


class AddressError(ValueError):
    """The text is no address list. The message says what was expected."""


class Hosts(NamedTuple):
    """What completes a host. complete: names without a dot that need no domain (lower case)."""

    defaulthost: bytes
    defaultdomain: bytes
    plusdomain: bytes
    complete: frozenset[bytes]


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """One mailbox. local is unquoted; host None: there was no @. Empty local and no host: the null address."""

    local: bytes
    host: bytes | None
    phrase: bytes = b""
    comments: tuple[bytes, ...] = ()

    @property
    def path(self) -> bytes:
        """The address as an envelope holds it."""
        return self.local if self.host is None else self.local + b"@" + self.host

    def completed(self, hosts: Hosts) -> Address:
        """Return this address with its host made whole: defaulthost, plusdomain, defaultdomain."""
        if self.host == b"[]" or (self.host is None and not self.local):
            return self
        local, host = self.local, self.host
        if host is None:
            local = local.removesuffix(b".")
        else:
            # Differs: qmail takes away one dot of several, so that each rereading of what was written takes another.
            host = host.rstrip(b".")
        host = host or hosts.defaulthost
        if host.endswith(b"+"):
            host = host[:-1] + b"." + hosts.plusdomain
        elif b"." not in host and host[:1] != b"[" and host.lower() not in hosts.complete:
            # Differs: qmail adds defaultdomain to our own name and to localhost too when they have no dot.
            host += b"." + hosts.defaultdomain
        return dataclasses.replace(self, local=local, host=host)

    def text(self) -> bytes:
        """The mailbox as it stands in a field."""
        address = quote(self.path, utf8=True)
        if self.phrase or not address:
            address = b"<" + address + b">"
        return b" ".join([part for part in (self.phrase, address, *self.comments) if part])


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """The beginning of a group."""

    name: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class GroupEnd:
    """The semicolon of a group."""


Item = Address | Group | GroupEnd


class _Token(NamedTuple):
    kind: bytes  # atom, quoted, literal, comment, or the special itself
    text: bytes  # unescaped
    start: int
    end: int


def _comment_end(value: bytes, start: int) -> int:
    depth = 0
    for found in _COMMENT_MARK.finditer(value, start):
        mark = found.group()
        depth += (mark == b"(") - (mark == b")")
        if depth == 0:
            return found.end()
    raise AddressError("expected ) after (")


def _tokens(value: bytes) -> Iterator[_Token]:
    place, end = 0, len(value)
    while place < end:
        space = _SPACE.match(value, place)
        if space:
            place = space.end()
            continue
        char = value[place : place + 1]
        if char == b"(":
            stop = _comment_end(value, place)
            yield _Token(b"comment", _SPACE.sub(b" ", value[place:stop]), place, stop)
        elif char == b'"':
            found = _QUOTED.match(value, place)
            if not found:
                raise AddressError('expected " after "')
            stop = found.end()
            yield _Token(b"quoted", _ESCAPE.sub(rb"\1", found.group(1)), place, stop)
        elif char == b"[":
            found = _LITERAL.match(value, place)
            if not found:
                raise AddressError("expected ] after [")
            stop = found.end()
            yield _Token(b"literal", _SPACE.sub(b"", found.group()), place, stop)
        elif char in b"<>@,;:.":
            stop = place + 1
            yield _Token(char, char, place, stop)
        else:
            found = _ATOM.match(value, place)
            if not found:
                raise AddressError(f"expected an address, not {char!r}")
            stop = found.end()
            yield _Token(b"atom", _ESCAPE.sub(rb"\1", found.group()), place, stop)
        place = stop


def parse(value: bytes) -> list[Item]:
    """Return the addresses and groups in a field's value. AddressError if it is not a list of them."""
    tokens = list(_tokens(value))
    items: list[Item] = []
    place, in_group = 0, False
    while place < len(tokens):
        kind = tokens[place].kind
        if kind in (b",", b";"):
            if kind == b";" and in_group:
                items.append(GroupEnd())
                in_group = False
            place += 1
            continue
        stop = _segment_end(tokens, place)
        segment = tokens[place:stop]
        if stop < len(tokens) and tokens[stop].kind == b":":
            if in_group or any(token.kind == b"<" for token in segment):
                raise AddressError("expected , or the end, not :")
            items.append(Group(_phrase(value, segment)))
            in_group = True
            stop += 1
        else:
            for mailbox in _mailboxes(value, segment):
                items.append(mailbox)
                _bounded(items)
        _bounded(items)
        place = stop
    if in_group:
        items.append(GroupEnd())
    return items


def _bounded(items: list[Item]) -> None:
    if len(items) > MAX_ITEMS:
        raise AddressError(f"expected at most {MAX_ITEMS} addresses")


def _segment_end(tokens: list[_Token], place: int) -> int:
    """Return where the comma, semicolon or colon stands that ends what begins at place, outside brackets."""
    inside = False
    while place < len(tokens):
        kind = tokens[place].kind
        if kind == b"<" and inside:
            raise AddressError("expected >, not another <")
        if kind == b">" and not inside:
            raise AddressError("expected an address, not >")
        if kind in (b"<", b">"):
            inside = kind == b"<"
        elif not inside and kind in (b",", b";", b":"):
            return place
        place += 1
    if inside:
        raise AddressError("expected > after <")
    return place


def _phrase(value: bytes, tokens: list[_Token]) -> bytes:
    if not tokens:
        return b""
    text = _SPACE.sub(b" ", value[tokens[0].start : tokens[-1].end])
    if any(token.kind == b"@" for token in tokens):
        # joe@x <joe@x>: a name that needs quotes.
        text = b'"' + _SPACE.sub(b" ", text.replace(b"\\", b"").replace(b'"', b"")) + b'"'
    return text


def _mailboxes(value: bytes, segment: list[_Token]) -> Iterator[Address]:
    """Yield the mailboxes between two commas: normally one, more where a comma is missing."""
    start = 0
    for opening, token in enumerate(segment):
        if token.kind != b"<":
            continue
        closing = opening
        while segment[closing].kind != b">":
            closing += 1
        after = closing + 1
        while after < len(segment) and segment[after].kind == b"comment":
            after += 1
        inner = segment[opening + 1 : closing]
        around = (*inner, *segment[closing + 1 : after])
        comments = [token.text for token in around if token.kind == b"comment"]
        local, host = _routed([token for token in inner if token.kind != b"comment"])
        yield _checked(Address(local, host, _phrase(value, segment[start:opening]), tuple(comments)))
        start = after
    yield from _bare(segment[start:])


def _routed(inner: list[_Token]) -> tuple[bytes, bytes | None]:
    """Return local part and host of what stands between < and >; a source route (@a,@b:) is dropped."""
    colons = [n for n, token in enumerate(inner) if token.kind == b":"]
    if colons:
        if inner[0].kind != b"@":
            raise AddressError("expected an address between < and >")
        inner = inner[colons[-1] + 1 :]
    if any(token.kind in (b",", b";") for token in inner):
        raise AddressError("expected one address between < and >")
    runs = list(_runs(inner))
    if not inner:
        return b"", None
    if len(runs) != 1:
        raise AddressError("expected one address between < and >")
    return _split(runs[0])


def _runs(tokens: list[_Token]) -> Iterator[list[_Token]]:
    """Yield the stretches in which no word directly follows a word: each is one address."""
    run: list[_Token] = []
    for token in tokens:
        if run and token.kind in _WORDS and run[-1].kind in _WORDS:
            yield run
            run = []
        run.append(token)
    if run:
        yield run


def _split(run: list[_Token]) -> tuple[bytes, bytes | None]:
    marks = [n for n, token in enumerate(run) if token.kind == b"@"]
    if not any(token.kind in _WORDS for token in run) or (marks and marks[-1] == 0):
        raise AddressError("expected a local part")
    if not marks:
        return b"".join([token.text for token in run]), None
    local, host = run[: marks[-1]], run[marks[-1] + 1 :]
    for token in host:
        is_bad = _NOT_IN_A_LITERAL.search(token.text[1:-1]) if token.kind == b"literal" else _NOT_A_HOST.search(token.text)
        if is_bad:
            raise AddressError("expected a host name after @")
    return b"".join([token.text for token in local]), b"".join([token.text for token in host])


def _bare(segment: list[_Token]) -> Iterator[Address]:
    """Yield addresses without brackets; a comment belongs to the address before it."""
    comments = tuple([token.text for token in segment if token.kind == b"comment"])
    runs = list(_runs([token for token in segment if token.kind != b"comment"]))
    if not runs and comments:
        return
    for number, run in enumerate(runs, 1):
        local, host = _split(run)
        yield _checked(Address(local, host, b"", comments if number == len(runs) else ()))


def _checked(address: Address) -> Address:
    if _FORBIDDEN.search(address.path):
        raise AddressError("expected an address without line ends and NUL bytes")
    if len(address.path) > MAX_ADDRESS:
        raise AddressError(f"expected an address of at most {MAX_ADDRESS} bytes")
    return address


def one(text: bytes) -> Address:
    """Return the address in a command's argument: raw (the local part ends at the last @), or as in a field.

    Differs: qmail takes every argument raw; other sendmails take `Name <address>` too, and scripts pass it.
    """
    text = text.strip(b" \t")
    if any(char in b'<>"(),' for char in text):
        found = [item for item in parse(text) if isinstance(item, Address)]
        if len(found) != 1:
            raise AddressError("expected one address")
        return found[0]
    address = _checked(of_path(text))
    if not is_host(address.host or b""):
        raise AddressError("expected a host name after @")
    return address


def of_path(path: bytes) -> Address:
    """Return the address that an envelope holds as this."""
    local, at, host = path.rpartition(b"@")
    return Address(local, host) if at else Address(host, None)


def is_host(text: bytes) -> bool:
    """Return whether this may stand behind an @: a name, or a literal in its brackets."""
    if text.startswith(b"[") and text.endswith(b"]"):
        return not _NOT_IN_A_LITERAL.search(text[1:-1])
    return not _NOT_A_HOST.search(text)


def render(name: bytes, items: list[Item]) -> bytes:
    """Return the whole field, folded after commas."""
    lines: list[bytes] = []
    line = name + b":"
    comma = b""
    before: Item | None = None
    for item in items:
        was, before = before, item
        if isinstance(item, GroupEnd):
            line += b" ;" if isinstance(was, Group) else b";"
            comma = b","
            continue
        text = item.name + b":" if isinstance(item, Group) else item.text()
        if comma and len(line) + len(text) + 2 > FOLD:
            lines.append(line + comma)
            line = b" "
            comma = b""
        line += comma + b" " + text
        comma = b"" if isinstance(item, Group) else b","
    return b"\n".join([*lines, line + b"\n"])
