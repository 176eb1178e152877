"""Replies of the SMTP server: code, enhanced status code, text; and how they stand on the wire."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

MAX_TEXT = 400  # RFC 5321 4.5.3.1.5: a reply line has at most 512 bytes

_UNSAFE = re.compile(rb"[^\x20-\x7e\x80-\xff]")


class Reply(NamedTuple):
    """One reply of one line. enhanced is empty where RFC 2034 has none: the greeting and 354."""

    code: int
    enhanced: bytes
    text: bytes

    @property
    def is_success(self) -> bool:
        return self.code < 400

    def encode(self) -> bytes:
        if self.enhanced:
            return b"%d %b %b\r\n" % (self.code, self.enhanced, self.text)
        return b"%d %b\r\n" % (self.code, self.text)


def safe_text(text: bytes) -> bytes:
    """Return text from elsewhere as it may stand in a reply: one bounded line."""
    return _UNSAFE.sub(b" ", text[:MAX_TEXT])


def encode_lines(code: int, lines: Sequence[bytes]) -> bytes:
    """Return a reply of several lines (RFC 5321 4.2.1)."""
    *first, last = lines
    return b"".join([b"%d-%b\r\n" % (code, line) for line in first]) + b"%d %b\r\n" % (code, last)


# What the grammar itself says. RFC 5321 4.2.2, RFC 3463, RFC 2034.
OK = Reply(250, b"2.0.0", b"ok")
SENDER_OK = Reply(250, b"2.1.0", b"ok")
RECIPIENT_OK = Reply(250, b"2.1.5", b"ok")
GO_AHEAD = Reply(354, b"", b"go ahead")
UNKNOWN_COMMAND = Reply(500, b"5.5.2", b"command not recognized")
BARE_LINE_END = Reply(500, b"5.5.2", b"a command ends with CR LF, and neither stands alone")
LINE_TOO_LONG = Reply(500, b"5.5.2", b"command line too long")
NOT_IMPLEMENTED = Reply(502, b"5.5.1", b"command not implemented")
NO_ARGUMENT_ALLOWED = Reply(501, b"5.5.4", b"this command has no argument")
HELLO_NEEDS_NAME = Reply(501, b"5.5.4", b"expected the name of your host")
MAIL_SYNTAX = Reply(501, b"5.5.4", b"expected MAIL FROM:<address>")
RCPT_SYNTAX = Reply(501, b"5.5.4", b"expected RCPT TO:<address>")
BAD_SENDER = Reply(501, b"5.1.7", b"malformed reverse-path")
BAD_RECIPIENT = Reply(501, b"5.1.3", b"malformed forward-path")
NEEDS_UTF8 = Reply(553, b"5.6.7", b"an address beyond ASCII needs SMTPUTF8")
BAD_PARAMETER = Reply(501, b"5.5.4", b"malformed parameter")
UNKNOWN_PARAMETER = Reply(555, b"5.5.4", b"parameter not recognized")
NESTED_MAIL = Reply(503, b"5.5.1", b"a transaction is open: RSET first")
MAIL_FIRST = Reply(503, b"5.5.1", b"MAIL first")
RCPT_FIRST = Reply(503, b"5.5.1", b"RCPT first, and one that is accepted")
TOO_MANY_ERRORS = Reply(421, b"4.7.0", b"too many errors")
