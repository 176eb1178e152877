"""What reports tell of destinations: from the sessions that make them, and from dial's answers."""

from __future__ import annotations

import pytest

from qmaild.protocol import frames
from qmaild.protocol.smtp_client import Session, Step, step_of
from qmaild.protocol.smtp_transaction import Result, Transaction
from qmaild.scheduler.evidence import STEPS, Evidence, of_recipient, of_report

PEER = b"mx.far.example[192.0.2.1]:25"
HELLO = b"250-far.example\r\n250 PIPELINING\r\n"


def results(*replies: bytes, recipients: int = 1) -> list[Result]:
    """What a session reports that gets these replies; at the end the connection is lost."""
    session = Session(b"host.example", b"192.0.2.1")
    transaction = Transaction(b"s@host.example", [b"u%d@far.example" % place for place in range(recipients)], 5, False, False)
    begun = False
    for reply in replies:
        session.feed(reply)
        if session.is_ready and not begun:
            begun = True
            session.begin(transaction)
        if reply.startswith(b"354"):
            session.body_sent()
    if not session.is_closed and session.transaction:
        session.lost(b"it closed the connection")
    if not begun:
        session.lost(b"it closed the connection")
        assert session.failure
        transaction.decide(session.failure)
    assert None not in transaction.results
    return [result for result in transaction.results if result]


def evidence(*replies: bytes, recipients: int = 1) -> Evidence:
    found = results(*replies, recipients=recipients)
    columns = [list(column) for column in zip(*found, strict=True)]
    return of_report(frames.Report(1, b"".join(columns[0]), *columns[1:], [PEER] * recipients))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "replies, told",
    [
        ([], Evidence.BAD),
        ([b"554 no\r\n"], Evidence.BAD),
        ([b"450 later\r\n"], Evidence.BAD),
        ([b"421 busy\r\n"], Evidence.BAD),
        ([b"HTTP/1.1 400\r\n"], Evidence.BAD),
        ([b"220 hi\r\n", b"450 who\r\n"], Evidence.BAD),
        ([b"220 hi\r\n", b"502 what\r\n", b"550 go\r\n"], Evidence.BAD),
        ([b"220 hi\r\n", HELLO], Evidence.BAD),
        ([b"220 hi\r\n", HELLO, b"451 4.3.0 later\r\n", b"503 no\r\n", b"503 no\r\n"], Evidence.PRESSURE),
        ([b"220 hi\r\n", HELLO, b"550 not you\r\n", b"503 no\r\n", b"503 no\r\n"], Evidence.GOOD),
        ([b"220 hi\r\n", HELLO, b"421 4.3.2 leaving\r\n"], Evidence.BAD),
        ([b"220 hi\r\n", HELLO, b"250 ok\r\n", b"450 4.2.0 greylisted\r\n", b"554 none\r\n"], Evidence.ANSWERED),
        ([b"220 hi\r\n", HELLO, b"250 ok\r\n", b"451 sender was rejected.\r\n", b"554 none\r\n"], Evidence.ANSWERED),
        ([b"220 hi\r\n", HELLO, b"250 ok\r\n", b"550 5.1.1 nobody\r\n", b"554 none\r\n"], Evidence.GOOD),
        ([b"220 hi\r\n", HELLO, b"250 ok\r\n", b"250 ok\r\n", b"451 later\r\n"], Evidence.PRESSURE),
        ([b"220 hi\r\n", HELLO, b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", b"452 4.3.1 full\r\n"], Evidence.PRESSURE),
        ([b"220 hi\r\n", HELLO, b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", b"554 spam\r\n"], Evidence.GOOD),
        ([b"220 hi\r\n", HELLO, b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", b"250 taken\r\n"], Evidence.GOOD),
        ([b"220 hi\r\n", HELLO, b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"], Evidence.BAD),
    ],
)
def test_a_session_tells(replies: list[bytes], told: Evidence) -> None:
    assert evidence(*replies) is told


def test_a_connection_lost_behind_an_answer_is_pressure() -> None:
    assert evidence(b"220 hi\r\n", HELLO, b"250 ok\r\n", b"550 nobody\r\n", b"421 leaving\r\n", recipients=2) is Evidence.PRESSURE


@pytest.mark.parametrize(
    "outcome, status, text, told",
    [
        (b"Z", b"4.4.1", b"I could not establish a connection to the relay hub.", Evidence.BAD),
        (b"Z", b"4.1.2", b"I could not look up the mail hosts of far.example.", Evidence.NONE),
        (b"Z", b"4.3.2", b"Too many connections are being made.", Evidence.NONE),
        (b"Z", b"4.3.0", b"I could not ask for a connection.", Evidence.NONE),
        (b"D", b"5.1.2", b"There is no host named far.example.", Evidence.NONE),
        (b"?", b"", b"", Evidence.NONE),
    ],
)
def test_without_a_connection_dial_tells(outcome: bytes, status: bytes, text: bytes, told: Evidence) -> None:
    assert of_recipient(outcome, 0, status, text, b"") is told


def test_a_refusal_known_beforehand_from_the_peers_limits_is_an_answer() -> None:
    assert of_recipient(b"D", 0, b"5.3.4", b"192.0.2.1 takes messages of at most 9 bytes", PEER) is Evidence.GOOD


def test_a_text_tells_its_step_only_where_a_reply_stands_behind_it() -> None:
    assert step_of(b"192.0.2.1 does not like recipient. Remote host said: 450 x") is Step.RCPT
    assert step_of(b"192.0.2.1 does not like recipient.") is None
    assert step_of(b"I could not establish a connection. Remote host said: 450 x") is None


def test_every_step_is_about_the_destination_or_about_a_recipient() -> None:
    assert set(STEPS) == set(Step) - {Step.RCPT, Step.NOBODY}
