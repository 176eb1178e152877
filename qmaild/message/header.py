"""The header section of a stored message (LF line ends): where it ends, its fields, one field's value."""

from __future__ import annotations

import re
from collections.abc import Iterator

# RFC 5322 2.2: printable US-ASCII but the colon; blanks before the colon are the obsolete syntax (4.5).
_NAME = re.compile(rb"([!-9;-~]+)[ \t]*:")


def split(message: bytes) -> tuple[bytes, bytes]:
    """Return (header section with its last line end, body after the blank line).

    A message without a blank line is all header; one that begins with a line end is all body.
    """
    if message.startswith(b"\n"):
        return b"", message[1:]
    end = message.find(b"\n\n")
    return (message, b"") if end < 0 else (message[: end + 1], message[end + 2 :])


def fields(section: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (name in lower case, whole field with its continuation lines); no field, no name."""
    whole: list[bytes] = []
    for line in _lines(section):
        if whole and line[:1] not in (b" ", b"\t"):
            yield _named(b"".join(whole))
            whole = []
        whole.append(line)
    if whole:
        yield _named(b"".join(whole))


def _lines(section: bytes) -> Iterator[bytes]:
    """Cut at LF only: splitlines would cut at a lone CR too."""
    place = 0
    while place < len(section):
        end = section.find(b"\n", place) + 1 or len(section)
        yield section[place:end]
        place = end


def _named(whole: bytes) -> tuple[bytes, bytes]:
    found = _NAME.match(whole)
    return (found[1].lower() if found else b"", whole)


def values(section: bytes, name: bytes) -> Iterator[bytes]:
    """Yield the unfolded value of each field called name (lower case)."""
    for each, whole in fields(section):
        if each == name:
            yield unfold(whole)


def unfold(whole: bytes) -> bytes:
    """Return one field's value on one line, without the blanks around it."""
    return whole.partition(b":")[2].replace(b"\n", b"").strip(b" \t\r")


def bounded(section: bytes, limit: int) -> bytes:
    """Return the whole fields that fit into limit bytes."""
    if len(section) <= limit:
        return section
    cut = section.rfind(b"\n", 0, limit) + 1
    while cut and section[cut : cut + 1] in (b" ", b"\t"):
        cut = section.rfind(b"\n", 0, cut - 1) + 1
    return section[:cut]
