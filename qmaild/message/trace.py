"""Trace fields: Received as qmail writes it, and how many hops a message has behind it. Knows no clock."""

from __future__ import annotations

import functools
import re

from qmaild.message import dates

# What qmail's received.c lets stand, with the brackets of address literals.
_UNSAFE = re.compile(rb"[^A-Za-z0-9.@%+/=:\[\]\-]")
_date = functools.lru_cache(maxsize=4)(dates.field_date)
_BEGINNINGS = (b"\nreceived", b"\ndelivered")
_LONGEST = max(map(len, _BEGINNINGS))
_UNKNOWN = b"unknown"
MAX_SHOWN = 255  # of a name that a client gave itself


def safe(text: bytes) -> bytes:
    """Return text from a client as it may stand in a trace field."""
    return _UNSAFE.sub(b"?", text[:MAX_SHOWN])


def received(helo: bytes, address: bytes, host: bytes, protocol: bytes, seconds: int) -> bytes:
    """Return the Received field, LF line ends. protocol: SMTP, ESMTP, UTF8SMTP or QMQP.

    The client's name is `unknown`, as in qmail without a name from the DNS (a door has no network);
    helo is what it called itself, if that is another name, and address where it came from.
    """
    said = b" (HELO %b)" % safe(helo) if helo and helo.lower() != _UNKNOWN else b""
    return b"Received: from %b%b (%b)\n  by %b with %b; %b\n" % (
        _UNKNOWN, said, safe(address), safe(host), protocol, _date(seconds))  # fmt: skip


class Hops:
    """Counts the fields that hops leave, in a header section that streams: by prefix, as qmail-smtpd."""

    __slots__ = ("_is_over", "_tail", "count")

    def __init__(self) -> None:
        self._tail = b"\n"
        self._is_over = False
        self.count = 0

    def feed(self, text: bytes) -> None:
        """Take the next piece of the message, LF line ends."""
        if self._is_over:
            return
        window = self._tail + text
        end = window.find(b"\n\n")
        if end >= 0:
            self._is_over = True
            window = window[:end]
        window = window.lower()
        for beginning in _BEGINNINGS:
            # What the tail already held was counted with the piece before.
            self.count += window.count(beginning) - self._tail.count(beginning)
        self._tail = window[-(_LONGEST - 1) :]
