"""Bounces: QSBMF text inside an RFC 3464 report, made from the notes about each failed recipient.

A note is what the queue keeps of one failure: a line `status code peer`, then the text. All its text may come
from a hostile host: note() makes it harmless, and whatever stands in a note is made harmless again when read.
"""

from __future__ import annotations

import dataclasses
import re
from typing import NamedTuple

from qmaild.message import address, dates

MAX_TEXT = 5000  # of one note; a remote host may say more, nobody reads it
MAX_LINE, MAX_LINE_UTF8 = (
    900,
    240,
)  # characters. RFC 5321 4.5.3.1.6: a line with its end has at most 1000 bytes
MAX_TOLD = 4 << 20  # of all paragraphs, and of all delivery-status fields: the bounce fits in one frame with its copy
MAX_COPY = 4 << 20

_STATUS = re.compile(rb"[245]\.\d{1,3}\.\d{1,3}")
_UNSEEN = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_CONTROLS = re.compile(rb"[\x00-\x1f\x7f]")
_NOT_ASCII = re.compile(rb"[^\x00-\x7f]")
_LONG = re.compile(rb"[^\n]{%d}(?=[^\n])" % MAX_LINE)
_LONG_UTF8 = re.compile(rf"[^\n]{{{MAX_LINE_UTF8}}}(?=[^\n])")


class Note(NamedTuple):
    """One failure. status: enhanced code; code: reply code, 0 if no server spoke; peer: who spoke."""

    status: bytes
    code: int
    peer: bytes
    text: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    """The message that failed. arrived: seconds since the epoch; failures: (recipient, note).

    original: all of it, or its header section when is_whole is false.
    """

    number: int
    sender: bytes
    arrived: int
    is_double: bool
    failures: tuple[tuple[bytes, bytes], ...]
    original: bytes
    is_whole: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Envelope:
    """The bounce itself: From address, recipient, reporting host, date (seconds), first boundary."""

    sender: bytes
    recipient: bytes
    host: bytes
    date: int
    boundary: bytes


def note(status: bytes, code: int, peer: bytes, text: bytes) -> bytes:
    """Return the note about one failed recipient."""
    return b"%b %d %b\n%b" % (_status(status), code, _CONTROLS.sub(b"?", peer)[:255], _paragraph(text))


def parse_note(stored: bytes) -> Note:
    """Return what a note says; one that is not of our making is all text."""
    first, newline, text = stored.partition(b"\n")
    words = first.split(b" ", 2)
    if not newline or len(words) != 3 or not _STATUS.fullmatch(words[0]) or not words[1].isdigit():
        return Note(b"5.0.0", 0, b"", _paragraph(stored))
    return Note(words[0], int(words[1][:3]), _CONTROLS.sub(b"?", words[2])[:255], _paragraph(text))


def compose(subject: Subject, envelope: Envelope) -> bytes:
    """Return the bounce: a report of QSBMF text, delivery status and the message or its header section."""
    failures = [(_shown(recipient), parse_note(stored)) for recipient, stored in subject.failures]
    is_whole = subject.is_whole and len(subject.original) <= MAX_COPY
    copy = b"Return-Path: <%b>\n%b" % (_quoted(subject.sender), subject.original[:MAX_COPY])
    parts = [
        _told(subject, envelope, failures, is_whole),
        _status_part(subject, envelope, failures),
        _copy_part(copy, is_whole),
    ]
    boundary = envelope.boundary
    while any(boundary in part for part in parts):  # whoever guesses it must not be able to end a part
        boundary += b"x"
    between = b"\n--%b\n" % boundary
    body = between[1:] + between.join(parts) + b"\n--%b--\n" % boundary
    return _head(subject, envelope, boundary, is_8bit(body)) + body


def is_8bit(content: bytes) -> bool:
    """Return whether any byte has its high bit set."""
    return not content.isascii()


def _head(subject: Subject, envelope: Envelope, boundary: bytes, needs_8bit: bool) -> bytes:
    date = dates.field_date(envelope.date)
    return b"".join(
        [
            b"Received: (qmail %d invoked for bounce); %b\n" % (subject.number, date),
            b"Date: %b\n" % date,
            b"From: %b\n" % _quoted(envelope.sender),
            b"To: %b\n" % _quoted(envelope.recipient),
            b"Subject: failure notice\n",
            b"Message-ID: <%d.%d.bounce@%b>\n" % (envelope.date, subject.number, envelope.host),
            b"Auto-Submitted: auto-replied\n",  # RFC 3834 5: nothing answers this automatically
            b"MIME-Version: 1.0\n",
            b'Content-Type: multipart/report; report-type=delivery-status;\n boundary="%b"\n' % boundary,
            b"Content-Transfer-Encoding: 8bit\n" if needs_8bit else b"",
            b"\n",
        ]
    )


_INTRO = (
    b"Hi. This is the qmaild-send program at %b.\n"
    b"Your message could not be delivered to the addresses below.\n"
    b"These are permanent failures: no further attempt is made.\n"
)
_INTRO_DOUBLE = (
    b"Hi. This is the qmaild-send program at %b.\n"
    b"A message was returned to its sender, and that bounce could not be delivered either.\n"
)


def _told(subject: Subject, envelope: Envelope, failures: list[tuple[bytes, Note]], is_whole: bool) -> bytes:
    """QSBMF: paragraphs between blank lines: first `Hi. This is the`, one `<recipient>:` each, last `-`."""
    parts = [(_INTRO_DOUBLE if subject.is_double else _INTRO) % envelope.host]
    room = MAX_TOLD
    for recipient, each in failures:
        paragraph = b"<%b>:\n%b" % (recipient, each.text)
        room -= len(paragraph)
        if room < 0:
            parts[0] += b"There are more failed addresses than this message can hold.\n"
            break
        parts.append(paragraph)
    what = b"a copy of the message" if is_whole else b"a copy of the message's header section"
    parts.append(b"--- Below this line is %b.\n" % (b"the original bounce" if subject.is_double and is_whole else what))
    return _part(b"text/plain", b"\n".join(parts))


def _status_part(subject: Subject, envelope: Envelope, failures: list[tuple[bytes, Note]]) -> bytes:
    """RFC 3464 section 2; RFC 6533 section 3 for addresses beyond US-ASCII."""
    groups = [b"Reporting-MTA: dns; %b\nArrival-Date: %b\n" % (envelope.host, dates.field_date(subject.arrived))]
    room = MAX_TOLD
    for recipient, each in failures:
        group = _recipient_fields(recipient, each)
        room -= len(group)
        if room < 0:
            break
        groups.append(group)
    content = b"\n".join(groups)
    kind = b"message/global-delivery-status" if is_8bit(content) else b"message/delivery-status"
    return _part(kind, content)


def _recipient_fields(recipient: bytes, each: Note) -> bytes:
    kind = b"utf-8" if is_8bit(recipient) else b"rfc822"
    fields = [
        b"Final-Recipient: %b; %b\n" % (kind, recipient),
        b"Action: failed\n",
        b"Status: %b\n" % each.status,
    ]
    if each.peer:
        fields.append(b"Remote-MTA: %b\n" % _mta(_NOT_ASCII.sub(b"?", each.peer)))
    lines = _NOT_ASCII.sub(b"?", each.text).rstrip(b"\n").split(b"\n")
    said = b"smtp; %d " % each.code if each.code else b"x-qmaild; "
    fields.append(b"Diagnostic-Code: " + said + b"\n ".join(line for line in lines if line.strip()) + b"\n")
    return b"".join(fields)


def _mta(peer: bytes) -> bytes:
    """Return the type and name of a peer that is host[address]:port, an address, or the path of an LMTP socket."""
    if peer.startswith(b"/"):
        return b"x-unix; " + peer
    return b"dns; " + (peer.partition(b"[")[0] or peer)


def _copy_part(copy: bytes, is_whole: bool) -> bytes:
    if not is_whole:
        return _part(b"message/global-headers" if _is_utf8_header(copy) else b"text/rfc822-headers", copy)
    return _part(b"message/global" if _is_utf8_header(copy) else b"message/rfc822", copy)


def _is_utf8_header(copy: bytes) -> bool:
    return is_8bit(copy.partition(b"\n\n")[0])


def _part(kind: bytes, content: bytes) -> bytes:
    if not is_8bit(content):
        return b"Content-Type: %b\n\n%b" % (kind, content)
    charset = b"; charset=utf-8" if kind.startswith(b"text/plain") else b""
    return b"Content-Type: %b%b\nContent-Transfer-Encoding: 8bit\n\n%b" % (kind, charset, content)


def _paragraph(text: bytes) -> bytes:
    """Return text as bounded lines that end in one LF each: none blank, valid UTF-8, without controls."""
    text = text.replace(b"\r\n", b"\n").strip(b"\r\n \t")
    if len(text) > MAX_TEXT:
        text = text[:MAX_TEXT]
    if is_8bit(text):
        shown = text.decode("utf-8", "replace").replace("\ufffd", "?")
        text = _LONG_UTF8.sub(lambda found: found[0] + "\n", shown).encode()
    text = _LONG.sub(lambda found: found[0] + b"\n", _UNSEEN.sub(b"?", text))
    lines = [line or b"/" for line in (each.rstrip(b" \t") for each in text.split(b"\n"))]  # as qmail-send: no blank line
    return b"\n".join(lines) + b"\n" if text else b"No reason was given.\n"


def _status(status: bytes) -> bytes:
    return status if _STATUS.fullmatch(status) else b"5.0.0"


def _shown(recipient: bytes) -> bytes:
    """Return an address as a report shows it: one line, valid UTF-8."""
    if is_8bit(recipient):
        recipient = recipient.decode("utf-8", "replace").replace("\ufffd", "?").encode()
    return _CONTROLS.sub(b"_", recipient)


def _quoted(path: bytes) -> bytes:
    return address.quote(_shown(path), utf8=True)
