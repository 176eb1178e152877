"""What a session asks its owner. Every event but Content is answered once."""

from __future__ import annotations

from typing import NamedTuple

from qmaild.protocol.smtp.body import Problem


class Sender(NamedTuple):
    """MAIL. address is empty for the null reverse-path; size 0 if none was declared."""

    address: bytes
    size: int
    is_8bit: bool
    is_utf8: bool


class Recipient(NamedTuple):
    """RCPT. address has no @ only for <postmaster>."""

    address: bytes


class Data(NamedTuple):
    """DATA: GO_AHEAD or a refusal."""


class Content(NamedTuple):
    """A piece of the message in stored form. The one event that is not answered."""

    text: bytes


class EndOfData(NamedTuple):
    """The message is complete: its last piece, its stored size, and why it must not be stored, if so."""

    text: bytes
    size: int
    problem: Problem | None


class Rare(NamedTuple):
    """VRFY or HELP, for someone else to carry out."""

    verb: bytes
    argument: bytes


Event = Sender | Recipient | Data | Content | EndOfData | Rare
