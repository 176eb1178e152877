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

    __slots__ = ("_last", "_rest", "_size", "_whole")

    def __init__(self) -> None:
        self._whole: list[bytes] = []
        self._last: list[bytes] = []  # lines of the field that may still go on: joined once, however many they are
        self._rest = bytearray()
        self._size = 0

    @property
    def fields(self) -> list[bytes]:
        """The fields so far, each with its continuation lines."""
        return [*self._whole, b"".join(self._last)] if self._last else self._whole

    def feed(self, data: bytes) -> bytes | None:
        """Take more of the message; None as long as the section goes on."""
        self._size += len(data)
        self._rest += data
        if b"\n" in data:
            body = self._lines(bytes(self._rest))
            if body is not None:
                return body
        if self._size > MAX_SECTION:
            raise SectionTooLong(f"the header section is longer than {MAX_SECTION} bytes")
        return None

    def finish(self) -> bytes:
        """The message has ended inside its header section: return its body, which is empty or one line."""
        line = bytes(self._rest) + b"\n"
        if not self._rest or self._take(line):
            return b""
        return line

    def _lines(self, data: bytes) -> bytes | None:
        """Take all whole lines of data; keep what is behind the last one."""
        start = 0
        while (end := data.find(b"\n", start) + 1) > 0:
            line = data[start:end]
            if line == b"\n":
                return data[end:]
            if not self._take(line):
                return data[start:]
            start = end
        self._rest = bytearray(data[start:])
        return None

    def _take(self, line: bytes) -> bool:
        if line[:1] in (b" ", b"\t"):
            if not self._last:
                return False
            self._last.append(line)
            return True
        if line.startswith(b"From "):
            line = b"MBOX-Line: " + line
        elif not _FIELD.match(line):
            return False
        if self._last:
            self._whole.append(b"".join(self._last))
        self._last = [line]
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
