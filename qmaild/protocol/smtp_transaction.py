"""One message's envelope on its way to a server: its commands, a result for each recipient."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from qmaild.message import address
from qmaild.protocol.frames import PERMANENT

Extensions = Mapping[bytes, bytes]  # keyword of the EHLO reply to its parameters

# An address with a line end, or with a blank or bracket in its domain, would be another command.
_UNSENDABLE = re.compile(rb"[\r\n\0]|@[^@]*[\x01-\x20<>\x7f][^@]*\Z")


class Result(NamedTuple):
    """The outcome for one recipient. code is 0 where no reply stands behind it."""

    outcome: bytes
    code: int
    enhanced: bytes
    text: bytes


class Transaction:
    """One message to some recipients. size: bytes as sent, or nearly; is_utf8: it came with SMTPUTF8."""

    __slots__ = ("accepted", "is_8bit", "is_utf8", "recipients", "results", "sender", "size")

    def __init__(
        self, sender: bytes, recipients: Sequence[bytes], size: int, is_8bit: bool, is_utf8: bool
    ) -> None:
        self.sender = sender
        self.recipients = recipients
        self.size = size
        self.is_8bit = is_8bit
        self.is_utf8 = is_utf8
        self.results: list[Result | None] = [None] * len(recipients)
        self.accepted: list[int] = []  # places of recipients the server has taken, in their order

    def decide(self, result: Result) -> None:
        """Give every recipient that has no result yet this one."""
        self.results = [result if each is None else each for each in self.results]

    def refuse_unsendable(self, extensions: Extensions, peer: bytes) -> None:
        """Give the results known beforehand: what the server surely refuses, what SMTP cannot say."""
        limit = extensions.get(b"SIZE", b"")[:20]
        if limit.isdigit() and 0 < int(limit) < self.size:  # RFC 1870 4: 0 is no limit
            text = b"%b takes messages of at most %b bytes; this one has %d." % (peer, limit, self.size)
            self.decide(Result(PERMANENT, 0, b"5.3.4", text))
        needs_utf8 = self.is_utf8 and not self._says_utf8(extensions)
        if _UNSENDABLE.search(self.sender):
            text = b"The sender's address cannot be said in SMTP."
            self.decide(Result(PERMANENT, 0, b"5.1.7", text))
        elif needs_utf8 and not self.sender.isascii():
            text = b"%b takes no internationalized sender." % peer
            self.decide(Result(PERMANENT, 0, b"5.6.7", text))
        for place, recipient in enumerate(self.recipients):
            if self.results[place] is not None:
                continue
            if _UNSENDABLE.search(recipient):
                text = b"The recipient's address cannot be said in SMTP."
                self.results[place] = Result(PERMANENT, 0, b"5.1.3", text)
            elif needs_utf8 and not recipient.isascii():
                text = b"%b takes no internationalized recipients." % peer
                self.results[place] = Result(PERMANENT, 0, b"5.6.7", text)

    def mail_command(self, extensions: Extensions) -> bytes:
        """Return MAIL with the parameters that this server understands."""
        utf8 = self._says_utf8(extensions)
        parameters = b""
        if b"SIZE" in extensions:
            parameters += b" SIZE=%d" % self.size
        # 8-bit content goes to a server without 8BITMIME too, as qmail sends it.
        if b"8BITMIME" in extensions and (self.is_8bit or utf8):
            parameters += b" BODY=8BITMIME"
        if utf8:
            parameters += b" SMTPUTF8"
        return b"MAIL FROM:<%b>%b\r\n" % (address.quote(self.sender, utf8), parameters)

    def rcpt_commands(self, extensions: Extensions) -> list[tuple[int, bytes]]:
        """Return (place, RCPT command) for each recipient without a result."""
        utf8 = self._says_utf8(extensions)
        return [
            (place, b"RCPT TO:<%b>\r\n" % address.quote(recipient, utf8))
            for place, recipient in enumerate(self.recipients)
            if self.results[place] is None
        ]

    def _says_utf8(self, extensions: Extensions) -> bool:
        return self.is_utf8 and b"SMTPUTF8" in extensions
