"""What the SMTP server takes, from whom, for whom: settings and a question in, a reply out.

Texts name the rule; codes are RFC 5321's and RFC 3463's.
"""

from __future__ import annotations

from typing import NamedTuple

from qmaild.control.cdb import CdbError
from qmaild.control.settings import Settings
from qmaild.policy import recipients
from qmaild.protocol import frames
from qmaild.protocol.smtp import replies
from qmaild.protocol.smtp.body import Problem
from qmaild.protocol.smtp.replies import Reply

TOO_MANY_SESSIONS = Reply(421, b"4.3.2", b"too many sessions, try again later")
TOO_MANY_FROM_CLIENT = Reply(421, b"4.7.0", b"too many sessions from your address")
GIVE_WAY = Reply(421, b"4.3.2", b"every session is taken and another client needs yours, try again later")
TIMED_OUT = Reply(421, b"4.4.2", b"timeout")
TOO_MANY_REFUSALS = Reply(421, b"4.7.0", b"too much was refused in this session")
SHUTTING_DOWN = Reply(421, b"4.3.2", b"the service is stopping, try again later")
TOO_LARGE = Reply(552, b"5.3.4", b"sorry, that message size exceeds my databytes limit")
BAD_SENDER = Reply(553, b"5.7.1", b"sorry, your envelope sender is in my badmailfrom list")
NO_RELAY = Reply(553, b"5.7.1", b"sorry, that domain isn't in my list of allowed rcpthosts")
TOO_MANY_RECIPIENTS = Reply(452, b"4.5.3", b"too many recipients")
NO_SUCH_USER = Reply(550, b"5.1.1", b"sorry, no mailbox here by that name")
CANNOT_LOOK_UP = Reply(451, b"4.3.0", b"recipients cannot be checked now, try again later")
CANNOT_READ = Reply(451, b"4.3.0", b"my list of allowed rcpthosts cannot be read now, try again later")
LOOPING = Reply(554, b"5.4.6", b"too many hops, this message is looping")
BARE_LINE_END = Reply(550, b"5.5.2", b"CR and LF stand alone in this message, see RFC 5321 2.3.8")
LOST_QUEUE = Reply(451, b"4.3.0", b"the queue cannot be reached, try again later")


def session(settings: Settings, may_relay: bool, sessions: int, from_client: int) -> Reply | None:
    """Return the refusal of a new session, if any. sessions: open now; from_client: the client's own."""
    if from_client >= settings.clientconcurrency and not may_relay:
        return TOO_MANY_FROM_CLIENT
    return TOO_MANY_SESSIONS if sessions >= settings.concurrencyincoming else None


def sender(settings: Settings, size: int) -> Reply:
    """Return the reply to MAIL. badmailfrom is answered at RCPT, as in qmail."""
    if settings.databytes and size > settings.databytes:
        return TOO_LARGE
    return replies.SENDER_OK


def is_bad_sender(settings: Settings, address: bytes) -> bool:
    """Return whether badmailfrom names this reverse-path or its @host."""
    if not settings.badmailfrom or not address:
        return False
    lowered = address.lower()
    return lowered in settings.badmailfrom or lowered[lowered.rfind(b"@") :] in settings.badmailfrom


MAX_REFUSALS = 100  # since the last message that was taken: who asks on after so many is guessing addresses


class Question(NamedTuple):
    """The reply is with who knows the users: does this local address exist?"""

    address: bytes


def own_literal(settings: Settings, address: bytes, own_address: bytes) -> bytes:
    """Return the forward-path with [our address] replaced by localiphost."""
    if not address.endswith(b"]"):
        return address
    local, _, literal = address.rpartition(b"@")
    shown = literal[1:-1]
    if shown[:5].lower() == b"ipv6:":
        shown = shown[5:]
    if shown.lower() != own_address:
        return address
    return local + b"@" + settings.localiphost


def recipient(
    settings: Settings, may_relay: bool, reverse_path: bytes, address: bytes, tried: int,
    is_listed: recipients.More = recipients.nothing_more,
) -> Reply | Question:  # fmt: skip
    """Return the reply to RCPT, or what must be known for it. tried: RCPTs of this transaction so far.

    is_listed: whether morercpthosts.cdb has a key; CdbError if that cannot be told.
    """
    try:
        return _recipient(settings, may_relay, reverse_path, address, tried, is_listed)
    except CdbError:
        return CANNOT_READ


def _recipient(
    settings: Settings, may_relay: bool, reverse_path: bytes, address: bytes, tried: int, is_listed: recipients.More,
) -> Reply | Question:  # fmt: skip
    if tried >= settings.maxrecipients:
        return TOO_MANY_RECIPIENTS
    if is_bad_sender(settings, reverse_path):
        return BAD_SENDER
    target = recipients.rewrite(address, settings)
    if target.is_local:
        # Locals without rcpthosts' leave are for relay clients only, as in qmail.
        if not may_relay and b"@" in address and not recipients.is_ours(_domain(address), settings, is_listed):
            return NO_RELAY
        return Question(target.address)
    # Differs: what percenthack leads to is checked as well, so that it opens no relay.
    if may_relay or all(recipients.is_ours(each, settings, is_listed) for each in (_domain(address), target.domain)):
        return replies.RECIPIENT_OK
    return NO_RELAY


def _domain(address: bytes) -> bytes:
    return address.rpartition(b"@")[2]


def looked_up(answer: frames.Is | None) -> Reply:
    """Return the reply to RCPT once the users were asked; None: nobody answered."""
    if answer is None or answer.outcome not in (frames.SUCCESS, frames.PERMANENT):
        return CANNOT_LOOK_UP
    return replies.RECIPIENT_OK if answer.outcome == frames.SUCCESS else NO_SUCH_USER


def message(settings: Settings, problem: Problem | None, hops: int) -> Reply | None:
    """Return why a complete message is refused, if it is."""
    if problem is Problem.BARE_LINE_END:
        return BARE_LINE_END
    if problem is Problem.TOO_LARGE:
        return TOO_LARGE
    return LOOPING if hops >= settings.maxhops else None


def stored(answer: frames.Accepted | frames.Refused | None, seconds: int) -> Reply:
    """Return the reply to the end of the data once the queue has answered; None: it was lost."""
    if isinstance(answer, frames.Accepted):
        return Reply(250, b"2.0.0", b"ok %d qp %d" % (seconds, answer.number))
    if answer is None:
        return LOST_QUEUE
    if answer.outcome == frames.PERMANENT:
        code = 552 if answer.enhanced == b"5.3.4" else 554
    else:
        code = 452 if answer.enhanced == b"4.3.1" else 451
    return Reply(code, answer.enhanced, replies.safe_text(answer.text))
