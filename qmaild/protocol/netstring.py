"""Netstrings: how to write one, split a run of them, and read a stream of them within a bound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

MAX_DIGITS = 9  # no component sends a gigabyte in one netstring


class NetstringError(ValueError):
    """The bytes are not a netstring, or one longer than the reader allows."""


def encode(data: bytes) -> bytes:
    """Return `data` as one netstring."""
    return b"%d:%b," % (len(data), data)


def encode_all(parts: Iterable[bytes]) -> bytes:
    """Return every part as a netstring, one behind the other."""
    return b"".join([b"%d:%b," % (len(part), part) for part in parts])


def split(run: bytes) -> list[bytes]:
    """Return the contents of a complete run of netstrings; anything else raises NetstringError."""
    parts: list[bytes] = []
    place, end = 0, len(run)
    while place < end:
        colon = run.find(b":", place, place + MAX_DIGITS + 1)
        digits = run[place:colon]
        if colon < 0 or not digits.isdigit():
            raise NetstringError("expected a length and a colon")
        stop = colon + 1 + int(digits)
        if run[stop : stop + 1] != b",":
            raise NetstringError("expected a comma after the announced length")
        parts.append(run[colon + 1 : stop])
        place = stop + 1
    return parts


class Reader:
    """Collects fed bytes and gives back whole netstrings. `limit` bounds one netstring's content."""

    __slots__ = ("_buffer", "_limit", "_wanted")

    def __init__(self, limit: int) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self._wanted = 0  # bytes that make the buffered netstring whole; 0 while its length is not known

    @property
    def buffered(self) -> int:
        """Bytes held that do not yet make a netstring."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield each netstring completed by `data`. NetstringError is final: the stream is out of step."""
        if self._buffer:
            # What a large netstring has so far is not looked at again with every few bytes a peer adds to it.
            self._buffer += data
            if len(self._buffer) < self._wanted:
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        place, end, wanted = 0, len(data), 0
        while place < end:
            colon = data.find(b":", place, place + MAX_DIGITS + 1)
            if colon < 0:
                if end - place > MAX_DIGITS or not data[place:].isdigit():
                    raise NetstringError("expected a length and a colon")
                break
            digits = data[place:colon]
            if not digits.isdigit():
                raise NetstringError("expected a length and a colon")
            length = int(digits)
            if length > self._limit:
                raise NetstringError(f"a netstring of {length} bytes; at most {self._limit} are taken")
            stop = colon + 1 + length
            if stop >= end:
                wanted = stop + 1 - place
                break
            if data[stop] != 0x2C:
                raise NetstringError("expected a comma after the announced length")
            yield data[colon + 1 : stop]
            place = stop + 1
        self._buffer += data[place:]
        self._wanted = wanted
