"""Forwards: a message given back to the queue for other addresses. Knows the intake, not why it is forwarded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from qmaild.control import events
from qmaild.delivery.contents import Contents
from qmaild.delivery.outcome import Outcome, of_error, permanent, temporary
from qmaild.message.address import MAX_ADDRESS
from qmaild.protocol import frames
from qmaild.protocol.frames import PERMANENT, SUCCESS
from qmaild.runtime import journal
from qmaild.runtime.intake import Answer, Draft, Intake

ORIGIN = b"forward"

Done = Callable[[Outcome], None]


class Forward(NamedTuple):
    """Of message `about`, whose flags it has; lines stand above it; serves is the delivery (number, index) that it finishes."""

    about: int
    flags: int
    sender: bytes
    recipients: list[bytes]
    lines: bytes
    serves: tuple[int, int]


def inject(intake: Intake, forward: Forward, contents: Contents, done: Done) -> None:
    """Hand the message over; done is called once: success when it is durable. The contents stay the caller's until then."""
    if not is_sound(forward.sender, forward.recipients):
        done(permanent(b"5.1.3", b"an address to forward to cannot be used"))
        return
    draft = intake.draft()
    draft.write(contents.content)
    _go_on(intake, draft, forward, contents, contents.body_chunks(), done)


def is_sound(sender: bytes, recipients: list[bytes]) -> bool:
    """Return whether these may stand in an envelope: they come from a user's own file and process."""
    return all(
        len(address) <= MAX_ADDRESS and b"\0" not in address and b"\n" not in address
        for address in (sender, *recipients)
    )


def _go_on(
    intake: Intake, draft: Draft, forward: Forward, contents: Contents, chunks: Iterator[bytes], done: Done
) -> None:  # fmt: skip
    """Stream the body as fast as the queue takes it."""
    try:
        for chunk in chunks:
            draft.write(chunk)
            if intake.is_congested:
                intake.when_drained(lambda: _go_on(intake, draft, forward, contents, chunks, done))
                return
    except OSError as error:
        draft.abort()
        done(of_error(b"read the message", error))
        return
    draft.finish(
        lambda answer: done(_outcome(answer, forward, contents)), forward.lines, forward.flags, ORIGIN, forward.sender,
        forward.recipients, forward.serves,
    )  # fmt: skip


def _outcome(answer: Answer, forward: Forward, contents: Contents) -> Outcome:
    if isinstance(answer, frames.Accepted):
        journal.record(
            events.ACCEPTED, message=answer.number, sender=forward.sender, recipients=len(forward.recipients),
            bytes=len(forward.lines) + contents.size, peer=b"message %d" % forward.about, protocol=ORIGIN,
        )  # fmt: skip
        return Outcome(SUCCESS, b"2.0.0", b"qp %d" % answer.number)
    if isinstance(answer, frames.Refused):
        make = permanent if answer.outcome == PERMANENT else temporary
        return make(answer.enhanced, b"unable to forward: " + answer.text)
    return temporary(b"4.3.0", b"unable to forward: the queue cannot be reached")
