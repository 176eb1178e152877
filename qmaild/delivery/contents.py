"""One message's bytes: all of them, or a prefix with the body behind a descriptor. Knows how to read and copy them."""

from __future__ import annotations

import os
from collections.abc import Iterator

CHUNK_BYTES = 64 << 10
MAX_HEADER_BYTES = 1 << 20  # what lies beyond is not searched


class Contents:
    """content, followed by what the descriptor holds if it is not -1. Reads leave the descriptor's offset alone."""

    __slots__ = ("body_size", "content", "descriptor")

    def __init__(self, content: bytes, descriptor: int = -1) -> None:
        self.content = content
        self.descriptor = descriptor
        self.body_size = os.fstat(descriptor).st_size if descriptor >= 0 else 0

    @property
    def size(self) -> int:
        return len(self.content) + self.body_size

    def body_chunks(self) -> Iterator[bytes]:
        """Yield what is behind the descriptor. A body that ends early raises OSError: half a message is none."""
        place = 0
        while place < self.body_size:
            chunk = os.pread(self.descriptor, min(CHUNK_BYTES, self.body_size - place), place)
            if not chunk:
                raise OSError(5, "the body ended early")
            place += len(chunk)
            yield chunk

    def chunks(self) -> Iterator[bytes]:
        yield self.content
        yield from self.body_chunks()

    def header_section(self) -> bytes:
        """Return the bytes that hold the header section (and perhaps more)."""
        found = self.content
        if self.descriptor >= 0:
            for chunk in self.body_chunks():
                if b"\n\n" in found or len(found) > MAX_HEADER_BYTES:
                    break
                found += chunk
        return found

    def write_to(self, out: int, before: bytes = b"") -> None:
        """Write before and the message to the file `out`, from its present offset on."""
        write_all(out, before + self.content)
        place = 0
        while place < self.body_size:
            sent = os.sendfile(out, self.descriptor, place, self.body_size - place)
            if not sent:
                raise OSError(5, "the body ended early")
            place += sent

    def has_line(self, line: bytes) -> bool:
        """Return whether the header section has exactly this line (which ends in a newline)."""
        section = self.header_section()
        place = 0 if section.startswith(line) else section.find(b"\n" + line)
        if place < 0 or section.startswith(b"\n"):
            return False
        end = section.find(b"\n\n")
        return end < 0 or place <= end


def write_all(out: int, data: bytes) -> None:
    """Write all of data to a file; a short write (a full disk does that) goes on until it is whole or an error."""
    place = os.write(out, data)
    while place < len(data):
        place += os.write(out, data[place:])
