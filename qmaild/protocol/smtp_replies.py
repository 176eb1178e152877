"""SMTP replies as a client reads them: code, enhanced status code, text. Knows no command and no session."""

from __future__ import annotations

import re
from typing import NamedTuple

from qmaild.protocol.frames import PERMANENT, SUCCESS, TEMPORARY

MAX_LINE = 8192  # RFC 5321 4.5.3.1.5 says 512; a server that never ends its line is cut off here
MAX_REPLY = 64 << 10  # a reply of endless lines is cut off here
MAX_KEPT = 5000  # bytes of one reply that are remembered, as in qmail

_FIRST = re.compile(rb"[2-5][0-9]{2}(?:[ -]|$)")
_ENHANCED = re.compile(rb"[2-5][0-9]{2}[ -]([245]\.[0-9]{1,3}\.[0-9]{1,3})(?:[ \n]|$)")
_UNSHOWN = bytes.maketrans(b"\0\r", b"? ")


class ReplyError(ValueError):
    """The peer sent what no SMTP server sends."""


class Reply(NamedTuple):
    """One reply. code is the first line's; text is all lines with their codes, parted by LF."""

    code: int
    enhanced: bytes
    text: bytes

    @property
    def outcome(self) -> bytes:
        """Success for 2xx, permanent for 5xx, and temporary for everything else."""
        return _OUTCOMES.get(self.code // 100, TEMPORARY)


_OUTCOMES = {2: SUCCESS, 5: PERMANENT}


def _reply(lines: list[bytes]) -> Reply:
    text = b"\n".join(lines)[:MAX_KEPT].translate(_UNSHOWN)
    found = _ENHANCED.match(text)
    # RFC 3463 2: the class repeats the reply's first digit; one that does not is a mistake of the server.
    if found and text[0] == text[4]:
        return Reply(int(text[:3]), found[1], text)
    return Reply(int(text[:3]), b"" if text[:1] == b"3" else text[:1] + b".0.0", text)


class Reader:
    """Collects fed bytes and gives back whole replies, multi-line ones to their end."""

    __slots__ = ("_buffer", "_lines", "_size")

    def __init__(self) -> None:
        self._buffer = b""
        self._lines: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[Reply]:
        """Return the replies completed by `data`. ReplyError is final."""
        buffer = self._buffer + data if self._buffer else data
        replies: list[Reply] = []
        place = 0
        while (end := buffer.find(b"\n", place)) >= 0:
            line = buffer[place:end].removesuffix(b"\r")
            place = end + 1
            if not self._lines and not _FIRST.match(line):
                raise ReplyError("a line that begins with no reply code")
            if self._size <= MAX_KEPT:
                self._lines.append(line)
            self._size += len(line) + 1
            if len(line) > MAX_LINE or self._size > MAX_REPLY:
                raise ReplyError("a reply that is too long")
            if line[3:4] != b"-":
                replies.append(_reply(self._lines))
                self._lines = []
                self._size = 0
        self._buffer = buffer[place:]
        if len(self._buffer) > MAX_LINE:
            raise ReplyError("a reply line that is too long")
        return replies
