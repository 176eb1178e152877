"""Header sections as qmail-inject reads them: where one ends, which fields it has. Knows nothing of addresses."""

from __future__ import annotations

import re

MAX_SECTION = 1 << 20  # a header section is kept in memory while it is worked on

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")
_HOPS = (b"received", b"delivered-to")


class SectionTooLong(ValueError):
    """The header section exceeds MAX_SECTION."""


def name_of(field: bytes) -> bytes:
    """Return the field's name in lower case; empty if the line is no field."""
    found = _FIELD.match(field)
    return found.group(1).lower() if found else b""


def value_of(field: bytes) -> bytes:
    """Return what stands behind the colon, with its line ends."""
    return field.partition(b":")[2]


def hops(fields: list[bytes]) -> int:
    """Return how many Received and Delivered-To fields there are."""
    return sum(1 for field in fields if name_of(field) in _HOPS)


class SectionReader:
    """Collects one header section. feed() and finish() return the beginning of the body once it is known.

    The first empty line ends the section and is dropped (the writer puts one back). A line that is neither a
    field nor a continuation ends it too and is the body's first. `From ...` becomes `MBOX-Line: From ...`.
    """

    __slots__ = ("_rest", "_size", "fields")

    def __init__(self) -> None:
        self.fields: list[bytes] = []
        self._rest = b""
        self._size = 0

    def feed(self, data: bytes) -> bytes | None:
        """Take more of the message; None as long as the section goes on."""
        self._size += len(data)
        data = self._rest + data if self._rest else data
        start = 0
        while (end := data.find(b"\n", start) + 1) > 0:
            line = data[start:end]
            if line == b"\n":
                return data[end:]
            if not self._take(line):
                return data[start:]
            start = end
        if self._size > MAX_SECTION:
            raise SectionTooLong(f"the header section is longer than {MAX_SECTION} bytes")
        self._rest = data[start:]
        return None

    def finish(self) -> bytes:
        """The message has ended inside its header section: return its body, which is empty or one line."""
        line = self._rest + b"\n"
        if not self._rest or self._take(line):
            return b""
        return line

    def _take(self, line: bytes) -> bool:
        if line[:1] in (b" ", b"\t"):
            if not self.fields:
                return False
            self.fields[-1] += line
        elif line.startswith(b"From "):
            self.fields.append(b"MBOX-Line: " + line)
        elif _FIELD.match(line):
            self.fields.append(line)
        else:
            return False
        return True


class LineEnds:
    """Turns CRLF into LF in a stream.

    Differs: qmail-inject keeps the CR, and web applications write CRLF to sendmail.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        if self._held:
            data = self._held + data
        self._held = b"\r" if data.endswith(b"\r") else b""
        if self._held:
            data = data[:-1]
        return data.replace(b"\r\n", b"\n") if b"\r" in data else data

    def finish(self) -> bytes:
        held, self._held = self._held, b""
        return held
