"""A client's whole SMTP session: the grammar, its addresses, and the message as it is stored."""

from __future__ import annotations

import re

from qmaild.message import address, trace
from qmaild.policy import recipients, users
from qmaild.policy import smtp as policy
from qmaild.protocol import smtp_body
from qmaild.protocol.smtp import addresses, events
from qmaild.protocol.smtp.body import Problem, Scanner
from tests.protocol.smtp.owner import Owner, converse

from .settings import SETTINGS

REPLIES = re.compile(rb"(?:[2-5][0-9][0-9][ -][^\r\n]*\r\n)*")
BYTEWISE = 600  # longer sessions are cut into as many pieces
LIMIT = 1000  # the owner's profile


def one_input(data: bytes) -> None:
    """The same replies, events and messages however the bytes are cut; what was stored was sent so."""
    whole = converse(data)
    assert REPLIES.fullmatch(whole.said)
    assert _told(converse(data, len(data) // BYTEWISE + 1)) == _told(whole)
    for event in whole.events:
        if isinstance(event, events.Sender | events.Recipient):
            _path(event.address, b"FROM:" if isinstance(event, events.Sender) else b"TO:")
    for message in whole.messages:
        assert b"\r" not in message and len(message) <= LIMIT and message[-1:] in (b"\n", b"")
        wire = smtp_body.stuff(message)
        assert Scanner(0).feed(wire) == (message, len(wire))
        hops = trace.Hops()
        for place in range(len(message)):
            hops.feed(message[place : place + 1])
        at_once = trace.Hops()
        at_once.feed(message)
        assert hops.count == at_once.count
    _body(data)


def _told(owner: Owner) -> tuple[object, ...]:
    """Return all that a session came to, but for the pieces that its messages came in."""
    kept = [event for event in owner.events if not isinstance(event, events.Content)]
    said = [_without_text(event) for event in kept]
    grammar = owner.grammar
    return owner.said, said, owner.messages, grammar.state, grammar.helo, grammar.is_extended, grammar.buffered


def _without_text(event: events.Event) -> object:
    """A message that is not stored has no size; which of two faults was seen first is nobody's concern."""
    if isinstance(event, events.EndOfData):
        return None if event.problem else event.size
    return event


def _path(path: bytes, keyword: bytes) -> None:
    """What was accepted can be said again and means the same; the policy has an answer to it."""
    assert b"\r" not in path and b"\n" not in path and b"\0" not in path
    assert addresses.parse(keyword + b"<" + address.quote(path, utf8=True) + b"> X", keyword) == (path, b" X")
    policy.is_bad_sender(SETTINGS, path)
    answer = policy.recipient(SETTINGS, False, b"", policy.own_literal(SETTINGS, path, b"192.0.2.1"), 0)
    if isinstance(answer, policy.Question):
        assert recipients.rewrite(answer.address, SETTINGS).is_local or path.endswith(b"]")
        users.candidates(answer.address.rpartition(b"@")[0])


def _expected(data: bytes) -> tuple[bool, int, Problem | None, bytes]:
    """Return what a scanner must make of a message, by looking at it whole: ended, bytes taken, problem, stored form."""
    end = (b"\r\n" + data).find(b"\r\n.\r\n")
    lines = data[: max(end, 0)].split(b"\r\n")[:-1] if end >= 0 else []
    if any(b"\r" in line or b"\n" in line for line in lines):
        return True, end + 3, Problem.BARE_LINE_END, b""
    return end >= 0, end + 3, None, b"".join([line.removeprefix(b".") + b"\n" for line in lines])


def _body(data: bytes) -> None:
    is_ended, taken, problem, text = _expected(data)
    for step in (len(data), len(data) // BYTEWISE + 1):
        scanner, stored, used = Scanner(0), b"", 0
        for place in range(0, len(data), step or 1):
            piece, count = scanner.feed(data[place : place + step])
            stored += piece
            used += count
            if scanner.is_ended:
                break
        assert scanner.is_ended == is_ended
        if is_ended:
            assert (used, scanner.problem) == (taken, problem)
            assert problem is not None or stored == text


def _session(data: bytes) -> None:
    converse(data)


def _bytewise(data: bytes) -> None:
    converse(data, 16)


GROWTH = {"session": _session, "session in pieces": _bytewise, "body": _body}
