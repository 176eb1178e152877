"""What the QMQP server takes: from its clients everything that can be stored. Answers as qmail words them."""

from __future__ import annotations

from qmaild.control.settings import Settings
from qmaild.message.address import MAX_ADDRESS
from qmaild.policy import clients
from qmaild.protocol import frames
from qmaild.protocol.qmqp import Package
from qmaild.protocol.smtp.replies import safe_text

NOT_A_CLIENT = b"Zsorry, your address may not use QMQP here (#4.7.1)"
TOO_MANY_SESSIONS = b"Ztoo many sessions, try again later (#4.3.2)"
BAD_ADDRESS = b"Dsorry, I can't handle that envelope address (#5.1.3)"
NO_RECIPIENT = b"Dsorry, there is no recipient in this package (#5.5.4)"
TOO_LARGE = b"Dsorry, that message size exceeds my databytes limit (#5.3.4)"
LOOPING = b"Dtoo many hops, this message is looping (#5.4.6)"
LOST_QUEUE = b"Zthe queue cannot be reached, try again later (#4.3.0)"


def session(settings: Settings, address: bytes, sessions: int, from_client: int) -> bytes | None:
    """Return the answer to a client that may not even begin."""
    if not clients.is_among(address, settings.qmqpclients):
        return NOT_A_CLIENT
    if sessions >= settings.concurrencyincoming or from_client >= settings.clientconcurrency:
        return TOO_MANY_SESSIONS
    return None


def package(settings: Settings, given: Package, hops: int) -> bytes | None:
    """Return why a package is refused, if it is. Recipients are not checked: its clients are trusted."""
    if given.is_too_large:
        return TOO_LARGE
    if any(len(path) >= MAX_ADDRESS or b"\0" in path for path in (given.sender, *given.recipients)):
        return BAD_ADDRESS
    if not given.recipients:
        return NO_RECIPIENT
    return LOOPING if hops >= settings.maxhops else None


def stored(answer: frames.Accepted | frames.Refused | None, seconds: int) -> bytes:
    """Return the answer to a package that the queue has answered; None: it was lost."""
    if isinstance(answer, frames.Accepted):
        return b"Kok %d qp %d" % (seconds, answer.number)
    if answer is None:
        return LOST_QUEUE
    letter = frames.PERMANENT if answer.outcome == frames.PERMANENT else frames.TEMPORARY
    return b"%b%b (#%b)" % (letter, safe_text(answer.text), answer.enhanced)
