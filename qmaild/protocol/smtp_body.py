"""A message's content as it goes behind DATA: CR LF line ends, dots stuffed, the final dot. Knows bytes only.

Differs: a message without a final line end gets one; qmail refused it (5.6.2). A CR that stands alone is a
line end, as in notqmail: no bare CR or LF leaves, so what follows it cannot be read as a command.
"""

from __future__ import annotations

END = b".\r\n"  # RFC 5321 4.1.1.4: behind a line end, a lone dot ends the data


def stuff(content: bytes) -> bytes:
    """Return the whole content as it is sent, up to and including the final dot."""
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    wire = content.replace(b"\n.", b"\n..").replace(b"\n", b"\r\n")
    if wire.startswith(b"."):
        wire = b"." + wire
    return wire + END if not wire or wire.endswith(b"\n") else wire + b"\r\n" + END


class Stuffer:
    """The same for content that comes in pieces: feed() each, then end()."""

    __slots__ = ("_at_line_start", "_held")

    def __init__(self) -> None:
        self._at_line_start = True
        self._held = b""  # a CR at a piece's end: its LF may follow

    def feed(self, piece: bytes) -> bytes:
        """Return what may be sent of all pieces so far and was not yet returned."""
        piece = self._held + piece
        self._held = b""
        if piece.endswith(b"\r"):
            piece, self._held = piece[:-1], b"\r"
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if not piece:
            return b""
        wire = piece.replace(b"\n.", b"\n..").replace(b"\n", b"\r\n")
        if self._at_line_start and wire.startswith(b"."):
            wire = b"." + wire
        self._at_line_start = wire.endswith(b"\n")
        return wire

    def end(self) -> bytes:
        """Return what ends the data."""
        if self._held or not self._at_line_start:
            return b"\r\n" + END
        return END
