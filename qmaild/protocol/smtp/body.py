"""The message after DATA, as it streams in: where it ends, what is stored of it, what is wrong with it.

Works on whole chunks, never line by line. Stored form: LF line ends, dots unstuffed. Only <CRLF>.<CRLF>
ends the message, and a message in which CR or LF stands alone is never stored: no other server can see
two messages where this one sees one (SMTP smuggling, CVE-2023-51764 and its kin).
"""

from __future__ import annotations

from enum import Enum


class Problem(Enum):
    """Why a message is not stored. It is read to its end all the same, and the reply comes then."""

    BARE_LINE_END = "CR or LF alone"
    TOO_LARGE = "more bytes than are taken"


class Scanner:
    """One message. feed() until `is_ended`; `size` counts stored bytes; `limit` 0 is none.

    Differs: qmail-smtpd takes a CR that stands alone as data and drops the connection on a lone LF.
    """

    __slots__ = ("_at_line_start", "_held", "_limit", "is_ended", "problem", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = b""  # bytes at the end of a chunk that only the next chunk can explain, at most two
        self._at_line_start = True
        self.problem: Problem | None = None
        self.size = 0
        self.is_ended = False

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """Return (text to store, how many bytes of data were taken): all of them unless the message ended."""
        held = len(self._held)
        if held:
            data = self._held + data
            self._held = b""
        start = 0
        if self._at_line_start and data.startswith(b"."):
            if data.startswith(b".\r\n"):
                self.is_ended = True
                return b"", 3 - held
            if data in (b".", b".\r"):
                self._held = data
                return b"", len(data) - held
            start = 1  # RFC 5321 4.5.2: a dot that begins a line is dropped
        end = data.find(b"\r\n.\r\n", start)
        if end >= 0:
            self.is_ended = True
            return self._text(data[start : end + 2]), end + 5 - held
        stop = len(data)
        if data.endswith(b"\r\n.\r"):
            stop -= 2
        elif data.endswith((b"\r\n.", b"\r")):
            stop -= 1
        self._held = data[stop:]
        piece = data[start:stop]
        if piece:
            self._at_line_start = piece.endswith(b"\r\n")
        return self._text(piece), len(data) - held

    def _text(self, piece: bytes) -> bytes:
        """Return a piece (which cuts no CR LF in two) in stored form; empty once there is a problem."""
        if self.problem is not None:
            return b""
        lines = piece.split(b"\r\n")
        bare = b"".join(lines)  # looking for what must not be there is much faster than counting what is
        if b"\r" in bare or b"\n" in bare:
            self.problem = Problem.BARE_LINE_END
            return b""
        text = b"\n".join(lines)
        if b"\r\n." in piece:
            text = text.replace(b"\n.", b"\n")
        self.size += len(text)
        if self._limit and self.size > self._limit:
            self.problem = Problem.TOO_LARGE
            return b""
        return text
