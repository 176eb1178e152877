"""QMQP's server side: one package of netstrings in. The message streams through, the envelope is kept.

A package is netstring(netstring(message) netstring(reverse-path) netstring(forward-path)...), LF line ends.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from qmaild.protocol import netstring

MAX_ENVELOPE = 4 << 20  # 4,000 forward-paths of the greatest length
MAX_PACKAGE = 200_000_000  # where qmail-qmqpd gives up too


class QmqpError(ValueError):
    """The bytes are no package: nothing can be answered in step."""


class Content(NamedTuple):
    """A piece of the message."""

    text: bytes


class Package(NamedTuple):
    """The package is complete. size: of the message; is_too_large: its contents were not given on."""

    sender: bytes
    recipients: list[bytes]
    size: int
    is_too_large: bool


class _Part(Enum):
    PACKAGE_LENGTH = 0
    MESSAGE_LENGTH = 1
    MESSAGE = 2
    ENVELOPE = 3
    OVER = 4


class Reader:
    """Takes one package. limit: bytes of the message that are given on; 0 is none but MAX_PACKAGE."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = bytearray()
        self._part = _Part.PACKAGE_LENGTH
        self._package_left = 0
        self._message_left = 0
        self._size = 0
        self._is_too_large = False

    def feed(self, data: bytes) -> list[Content | Package]:
        """Return what these bytes complete. After the Package nothing more is taken."""
        found: list[Content | Package] = []
        if self._held:
            # What an envelope has so far is not looked at again with every few bytes a client adds to it.
            self._held += data
            if self._part is _Part.ENVELOPE and len(self._held) <= self._package_left:
                return found
            data = bytes(self._held)
            self._held.clear()
        while data and self._part is not _Part.OVER:
            before = self._part
            data = self._take(data, found)
            if self._part is before:
                break
        if self._part is not _Part.OVER:
            self._held += data
        return found

    def _take(self, data: bytes, found: list[Content | Package]) -> bytes:
        """Take what the current part can take and return the rest; the part moves on when it is complete."""
        if self._part is _Part.PACKAGE_LENGTH:
            return self._begin_package(data)
        if self._part is _Part.MESSAGE_LENGTH:
            return self._begin_message(data)
        if self._part is _Part.MESSAGE:
            return self._go_on(data, found)
        return self._end(data, found)

    def _begin_package(self, data: bytes) -> bytes:
        length, used = _length(data)
        if used:
            if length > MAX_PACKAGE:
                raise QmqpError(f"a package of {length} bytes; at most {MAX_PACKAGE} are taken")
            self._package_left = length
            self._part = _Part.MESSAGE_LENGTH
        return data[used:]

    def _begin_message(self, data: bytes) -> bytes:
        length, used = _length(data)
        if used:
            self._package_left -= used + length + 1
            if self._package_left < 0 or self._package_left > MAX_ENVELOPE:
                raise QmqpError("the message does not fit its package, or the envelope is too long")
            self._message_left = self._size = length
            self._is_too_large = 0 < self._limit < length
            self._part = _Part.MESSAGE
        return data[used:]

    def _go_on(self, data: bytes, found: list[Content | Package]) -> bytes:
        text = data[: self._message_left]
        if text:
            self._message_left -= len(text)
            if not self._is_too_large:
                found.append(Content(text))
        rest = data[len(text) :]
        if self._message_left or not rest:
            return rest
        if rest[:1] != b",":
            raise QmqpError("expected a comma after the message")
        self._part = _Part.ENVELOPE
        return rest[1:]

    def _end(self, data: bytes, found: list[Content | Package]) -> bytes:
        if len(data) <= self._package_left:
            return data
        if data[self._package_left : self._package_left + 1] != b",":
            raise QmqpError("expected a comma after the package")
        try:
            paths = netstring.split(data[: self._package_left])
        except netstring.NetstringError as error:
            raise QmqpError(f"envelope: {error}") from None
        if not paths:
            raise QmqpError("the package has no reverse-path")
        self._part = _Part.OVER
        found.append(Package(paths[0], paths[1:], self._size, self._is_too_large))
        return b""


def _length(data: bytes) -> tuple[int, int]:
    """Return (length, bytes used) of a netstring's beginning; (0, 0) if it is not all there."""
    colon = data.find(b":", 0, netstring.MAX_DIGITS + 1)
    digits = data[:colon] if colon >= 0 else data
    if not digits.isdigit() or len(digits) > netstring.MAX_DIGITS:
        raise QmqpError("expected a length and a colon")
    return (int(digits), colon + 1) if colon >= 0 else (0, 0)
