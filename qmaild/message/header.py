"""The header section of a stored message (LF line ends): where it ends, and how to keep its beginning."""

from __future__ import annotations


def split(message: bytes) -> tuple[bytes, bytes]:
    """Return (header section with its last line end, body after the blank line).

    A message without a blank line is all header; one that begins with a line end is all body.
    """
    if message.startswith(b"\n"):
        return b"", message[1:]
    end = message.find(b"\n\n")
    return (message, b"") if end < 0 else (message[: end + 1], message[end + 2 :])


def bounded(section: bytes, limit: int) -> bytes:
    """Return the whole fields that fit into limit bytes."""
    if len(section) <= limit:
        return section
    cut = section.rfind(b"\n", 0, limit) + 1
    while cut and section[cut : cut + 1] in (b" ", b"\t"):
        cut = section.rfind(b"\n", 0, cut - 1) + 1
    return section[:cut]
