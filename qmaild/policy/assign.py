"""users/assign: what its lines say, the records that qmail-newu makes of them, and whose a local part is by these.

Knows no accounts: whether a uid that a line names may receive anything is users.py's.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

from qmaild.control import cdb

MAX_ID = 0xFFFFFFFE  # (uid_t) -1 is nobody's
REMEMBERED = 1000  # local parts of one file: those that get most of the mail cost nothing
FIELDS = 6  # of a record: user, uid, gid, home, dash, extension


class AssignError(ValueError):
    """One line cannot be used. line counts from 1."""

    def __init__(self, line: int, expected: str) -> None:
        super().__init__(f"line {line}: expected {expected}")
        self.line = line
        self.expected = expected


class Assigned(NamedTuple):
    """Whom a local part belongs to."""

    user: bytes
    uid: int
    gid: int
    home: bytes
    dash: bytes
    extension: bytes


def records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records of users/cdb, or raise AssignError. Nothing behind the line with the dot is read.

    The key of =local is !local and a NUL, that of +loc is !loc; the empty key has the last letters of all loc.
    """
    ends: set[int] = set()
    lines = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        if line.startswith(b"."):
            yield b"", bytes(sorted(ends))
            return
        if number == len(lines):  # what has no line end may be half a line
            break
        name, value = _record(line, number)
        is_prefix = line.startswith(b"+")
        if is_prefix and name:
            ends.add(name[-1])
        yield b"!" + name + (b"" if is_prefix else b"\0"), value
    raise AssignError(len(lines), "a line with a dot behind the last one")


def _record(line: bytes, number: int) -> tuple[bytes, bytes]:
    """Return the lower-case name of a line and the value of its record."""
    first, *values = line.split(b":", FIELDS + 1)
    if not first or len(values) != FIELDS + 1 or b"\0" in line:
        raise AssignError(number, "=local:user:uid:gid:home:dash:ext: or +prefix:user:uid:gid:home:dash:ext:")
    value = b"\0".join(values[:FIELDS])
    if _assigned(value) is None:
        # Differs: qmail-newu takes any text, and the mail of such a user waits until somebody looks for the reason.
        raise AssignError(number, "a user, numbers for uid and gid, a home that begins with /, no / in the extension")
    return first[1:].lower(), value


class Assignments:
    """What a users/cdb says. CdbError when made, or by a question: it cannot be believed."""

    def __init__(self, content: cdb.Content) -> None:
        self._reader = cdb.Reader(content)
        ends = self._reader.find(b"")
        if ends is None or 0 in ends:
            raise cdb.CdbError("it has no record of prefixes")
        self._ends = ends
        self.match = functools.lru_cache(REMEMBERED)(self._match)

    def find(self, local: bytes) -> Assigned | None:
        """Return who has this local part: the exact line, else that with the longest prefix; None if no line is about it."""
        found = self.match(local)
        return found[1] if found else None

    def _match(self, local: bytes) -> tuple[bytes, Assigned] | None:
        """Return the same behind the beginning of the line: =local or +prefix."""
        key = b"!" + local.lower() + b"\0"
        hashes = cdb.hashes_of(key)
        value = self._reader.find(key, hashes[-1])
        if value is not None:
            return b"=" + key[1:-1], _believed(value, b"")
        for length in range(len(key) - 1, 0, -1):
            if length == 1 or key[length - 1] in self._ends:
                value = self._reader.find(key[:length], hashes[length])
                if value is not None:
                    return b"+" + key[1:length], _believed(value, local[length - 1 :])
        return None


def _believed(value: bytes, rest: bytes) -> Assigned:
    found = _assigned(value)
    if found is None:
        raise cdb.CdbError("a record names no user")
    return found._replace(extension=found.extension + rest)


def _assigned(value: bytes) -> Assigned | None:
    """Return what a record says; None if it is none."""
    fields = value.split(b"\0")
    if len(fields) != FIELDS:
        return None
    user, uid, gid, home, dash, extension = fields
    is_known = user and _is_id(uid) and _is_id(gid) and home.startswith(b"/") and b"/" not in extension
    return Assigned(user, int(uid), int(gid), home, dash, extension) if is_known else None


def _is_id(text: bytes) -> bool:
    return text.isdigit() and len(text) <= 10 and int(text) <= MAX_ID
