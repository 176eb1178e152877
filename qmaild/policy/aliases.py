"""/etc/aliases: what its text says and where a name leads. Knows no accounts and no files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from qmaild.policy.dotqmail import NO_BOUNCE_SENDERS

MAX_EXPANSION = 10000  # addresses one name may lead to; a larger list belongs in a mailing list

Table = dict[bytes, tuple[bytes, ...]]


class AliasError(ValueError):
    """One line of the file cannot be understood. line counts from 1."""

    def __init__(self, line: int, expected: str) -> None:
        super().__init__(f"line {line}: expected {expected}")
        self.line = line
        self.expected = expected


class Expansion(NamedTuple):
    """Where a name leads: addresses to forward to, lines the alias user follows, names delivered to without another look here."""

    forwards: tuple[bytes, ...]
    instructions: tuple[bytes, ...]
    names: tuple[bytes, ...]
    has_owner: bool


def parse(content: bytes) -> Table:
    """Return name (lower-case) → values, or raise AliasError. Of entries with one name the first counts.

    An entry without values is no entry.
    """
    table: Table = {}
    for number, line in _logical_lines(content):
        key, colon = _key_of(line)
        if not colon or not key or b"\0" in line:
            raise AliasError(number, "name: address, address")
        values = tuple(_split(line[colon:], number))
        if values:
            table.setdefault(key.lower(), values)
    return table


def parse_list(content: bytes) -> list[bytes]:
    """Return the addresses of an :include: file, separated by commas or lines. Anything but an address raises AliasError."""
    found: list[bytes] = []
    for number, line in enumerate(content.split(b"\n"), 1):
        line = line.strip()
        if not line or line.startswith(b"#"):
            continue
        if b"\0" in line:
            raise AliasError(number, "text without NUL bytes")
        for value in _split(line, number):
            if value[:1] in b"|/:\\":
                raise AliasError(number, "an address; programs and files are not run from a list")
            found.append(value)
            if len(found) > MAX_EXPANSION:
                raise AliasError(number, f"at most {MAX_EXPANSION} addresses")
    return found


def expand(table: Table, name: bytes, is_local: Callable[[bytes], bool]) -> Expansion | None:
    """Return where the name leads, or None if the table has no such entry. is_local: whether a domain's users are this table's.

    Names that are entries themselves are followed. A name met again on its own way, or written \\name, is
    delivered to its account: so `bob: bob, copy@example.org` means what its author meant.
    """
    name = name.lower()
    if name not in table:
        return None
    forwards: dict[bytes, None] = {}
    instructions: dict[bytes, None] = {}
    names: dict[bytes, None] = {}
    followed = {name}
    waiting = list(reversed(table[name]))
    while waiting:
        value = waiting.pop()
        if value.startswith(b"\\"):
            names[value[1:].rpartition(b"@")[0] or value[1:]] = None
        elif value[:1] in (b"|", b"/") or value.startswith(b":include:"):
            instructions[value] = None
        else:
            local = _local_name(value, is_local)
            if local in followed:
                # Met again by two ways or by its own: an account if it is one of the circle, nothing new otherwise.
                if _leads_back(table, local, is_local):
                    names[local] = None
            elif local in table:
                followed.add(local)
                waiting.extend(reversed(table[local]))
            else:
                forwards[value] = None
        if len(forwards) + len(instructions) + len(names) > MAX_EXPANSION:
            break
    return Expansion(tuple(forwards), tuple(instructions), tuple(names), b"owner-" + name in table)


def _local_name(value: bytes, is_local: Callable[[bytes], bool]) -> bytes:
    """Return the lower-case name an address has in the table; empty when its domain is not this host's."""
    local, at, domain = value.rpartition(b"@")
    if not at:
        return value.lower()
    return local.lower() if is_local(domain) else b""


def _leads_back(table: Table, name: bytes, is_local: Callable[[bytes], bool]) -> bool:
    """Return whether following name comes to name again."""
    followed: set[bytes] = set()
    waiting = [name]
    while waiting:
        for value in table.get(waiting.pop(), ()):
            local = _local_name(value, is_local)
            if local == name:
                return True
            if local and local not in followed:
                followed.add(local)
                waiting.append(local)
    return False


def new_sender(sender: bytes, name: bytes, domain: bytes, has_owner: bool) -> bytes:
    """Return the sender of what an alias forwards: owner-NAME if there is such an alias, else unchanged."""
    if has_owner and sender not in NO_BOUNCE_SENDERS:
        return b"owner-" + name + b"@" + domain
    return sender


def _logical_lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the first line, text): lines that begin with a blank go on with the one before."""
    started, text = 0, b""
    for number, line in enumerate(content.split(b"\n"), 1):
        line = line.rstrip(b" \t\r")
        if not line or line.lstrip(b" \t").startswith(b"#"):
            continue
        if line[:1] in (b" ", b"\t"):
            if not started:
                raise AliasError(number, "name: address before a line that goes on")
            text += line
            continue
        if started:
            yield started, text
        started, text = number, line
    if started:
        yield started, text


def _key_of(line: bytes) -> tuple[bytes, int]:
    """Return the name before the colon, and the place behind it (0 if there is no colon)."""
    if line.startswith(b'"'):
        end = line.find(b'"', 1)
        colon = line.find(b":", end)
        if end < 0 or colon < 0 or line[end + 1 : colon].strip():
            return b"", 0
        return line[1:end], colon + 1
    name, colon_found, _ = line.partition(b":")
    return name.strip(), len(name) + 1 if colon_found else 0


_BLANK = b"\0"  # stands for a blank outside quotes; no text that is split has a NUL
_TO_BLANK = bytes.maketrans(b" \t", _BLANK * 2)
_SPECIAL = re.compile(rb'["()]')


def _split(text: bytes, number: int) -> Iterator[bytes]:
    """Yield the values between commas that stand outside quotes and comments, as they are meant."""
    # Most lines have neither quotes nor comments: a file of many thousands is read in no time.
    pieces = _pieces(text, number) if _SPECIAL.search(text) else text.translate(_TO_BLANK).split(b",")
    for piece in pieces:
        value = piece.strip(_BLANK)
        if value[:1] in (b"|", b"/", b":"):
            value = value.replace(_BLANK, b" ")
        elif value.endswith(b">") and b"<" in value:
            value = value[value.rindex(b"<") + 1 : -1].strip(_BLANK)
        if value[:1] == b":" and not value.startswith(b":include:/"):
            raise AliasError(number, ":include:/path/of/file")
        if _BLANK in value:
            raise AliasError(number, "a comma between addresses")
        if value:
            yield value


def _pieces(text: bytes, number: int) -> list[bytes]:
    """Return what stands between commas, without quotes and comments, _BLANK for each blank outside quotes."""
    parts = [bytearray()]
    quoted = escaped = False
    depth = 0
    for place in range(len(text)):
        letter = text[place : place + 1]
        if quoted:
            if escaped or letter not in b'\\"':
                parts[-1] += letter
                escaped = False
            elif letter == b"\\":
                escaped = True
            else:
                quoted = False
        elif letter == b'"':
            quoted = True
        elif letter == b"(" and not parts[-1].lstrip(_BLANK).startswith(b"|"):
            depth += 1
        elif letter == b")" and depth:
            depth -= 1
        elif depth:
            continue
        elif letter == b",":
            parts.append(bytearray())
        else:
            parts[-1] += letter.translate(_TO_BLANK)
    if quoted or depth:
        raise AliasError(number, "a closing quote or parenthesis")
    return [bytes(part) for part in parts]
