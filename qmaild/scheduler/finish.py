"""How a message with failures ends: a bounce, a double bounce, or nothing. The reverse-path decides."""

from __future__ import annotations

from typing import NamedTuple

from qmaild.control import events
from qmaild.control.settings import Settings
from qmaild.message import bounce, verp
from qmaild.policy import retry
from qmaild.protocol import frames
from qmaild.scheduler.moves import Finished, Record

NULL_SENDER = b""
DOUBLE_SENDER = b"#@[]"  # of a double bounce: what fails with it is discarded, so bounces end


class Told(NamedTuple):
    """Who is told about how many failures of a message from sender; kept until the bounce is durable."""

    sender: bytes
    recipient: bytes
    failures: int


def decide(event: Finished, now: int, settings: Settings) -> frames.Bounce | frames.Ended:
    """Return the bounce about this message, or Ended when there is nobody to tell.

    A null reverse-path makes a double bounce to the postmaster; an empty doublebounceto discards those.
    """
    finish = event.finish
    if finish.sender == DOUBLE_SENDER or (finish.sender == NULL_SENDER and not settings.doublebounceto):
        return frames.Ended(finish.number)
    if finish.sender == NULL_SENDER:
        sender, recipient = DOUBLE_SENDER, settings.doublebounceto + b"@" + settings.doublebouncehost
    else:
        sender, recipient = NULL_SENDER, verp.collect(finish.sender)
    subject = bounce.Subject(
        number=finish.number,
        sender=finish.sender,
        arrived=finish.birth // retry.SECOND,
        is_double=sender == DOUBLE_SENDER,
        failures=tuple(zip(finish.recipients, finish.notes, strict=True)),
        original=event.original,
        is_whole=event.is_whole,
    )
    made = bounce.Envelope(
        sender=settings.bouncefrom + b"@" + settings.bouncehost,
        recipient=recipient,
        host=settings.bouncehost,
        date=now // retry.SECOND,
        boundary=b"%d.%d.qmaild" % (finish.number, now),
    )
    content = bounce.compose(subject, made)
    flags = (0 if content.isascii() else frames.FLAG_8BIT) | (0 if recipient.isascii() else frames.FLAG_UTF8)
    return frames.Bounce(finish.number, sender, [recipient], content, flags)


def discarded(finish: frames.Finish) -> Record:
    """Return the record of a failure that nobody is told of."""
    text = bounce.parse_note(finish.notes[0]).text if finish.notes else b""
    values = {
        "message": finish.number,
        "sender": finish.sender,
        "recipients": len(finish.recipients),
        "text": text,
    }
    return Record(events.DISCARDED, values)


def bounced(frame: frames.Bounced, told: Told) -> Record:
    """Return the record of a bounce that is durable."""
    values = {
        "message": frame.number,
        "bounce": frame.bounce,
        "sender": told.sender,
        "recipient": told.recipient,
    }
    return Record(events.BOUNCED, {**values, "recipients": told.failures})
