"""The message after DATA, as it streams in: where it ends, what is stored of it, what is wrong with it.

The scanner itself is native/body.c: each byte is looked at there once, and never becomes a Python object of
its own or of its line. Stored form: LF line ends, dots unstuffed. Only <CRLF>.<CRLF> ends the message, and a
message in which CR or LF stands alone is never stored.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from qmaild._body import ffi, lib

AT_ONCE = 64 << 10  # bytes that are looked at in one go

_text: Any = ffi.new("char[]", AT_ONCE)  # shared: what is in it is taken out before the next look
_stored: Any = ffi.new("size_t *")
_ENDED: int = lib.BODY_ENDED


class Problem(Enum):
    """Why a message is not stored. It is read to its end all the same, and the reply comes then."""

    BARE_LINE_END = "CR or LF alone"
    TOO_LARGE = "more bytes than are taken"


_PROBLEMS = {lib.BODY_WELL: None, lib.BODY_BARE_LINE_END: Problem.BARE_LINE_END, lib.BODY_TOO_LARGE: Problem.TOO_LARGE}


class Scanner:
    """One message. feed() until `is_ended`; `size` counts stored bytes; `limit` 0 is none.

    Differs: qmail-smtpd takes a CR that stands alone as data and drops the connection on a lone LF.
    """

    __slots__ = ("_body",)

    def __init__(self, limit: int) -> None:
        self._body: Any = ffi.new("struct body *")
        self._body.limit = limit

    @property
    def is_ended(self) -> bool:
        return bool(self._body.state == _ENDED)

    @property
    def size(self) -> int:
        return int(self._body.size)

    @property
    def problem(self) -> Problem | None:
        return _PROBLEMS[self._body.problem]

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """Return (text to store, how many bytes of data were taken): all of them unless the message ended."""
        if len(data) <= AT_ONCE:
            taken: int = lib.body_scan(self._body, data, len(data), _text, _stored)
            return ffi.buffer(_text, _stored[0])[:], taken
        pieces, place = [], 0
        while place < len(data) and not self.is_ended:
            text, taken = self.feed(data[place : place + AT_ONCE])
            pieces.append(text)
            place += taken
        return b"".join(pieces), place
