"""The SMTP client session against transcripts, whole and byte by byte, and each step against every kind of reply.

A transcript (tests/protocol/smtp_client/*.txt) is lines of these kinds; # begins a comment:

    session [lmtp]                        a new session
    message SENDER to RECIPIENT... [WORD...]
                                          begin a transaction; words: size=N 8bit utf8
    S TEXT                                the server sends this line (S- without its line end)
    C TEXT                                the session sends exactly these lines, no more
    body [unsent]                         the session wants the content now; unsent: it has not left yet
    lost TEXT                             the connection is lost
    result PLACE OUTCOME CODE ENHANCED TEXT
                                          what became of one recipient of the transaction that ended
    closed | open                         whether the session is over
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmaild.protocol.frames import PERMANENT, SUCCESS, TEMPORARY
from qmaild.protocol.smtp_client import Event, Session, Step
from qmaild.protocol.smtp_transaction import Result, Transaction

TRANSCRIPTS = sorted((Path(__file__).parent / "smtp_client").glob("*.txt"))
PEER = b"192.0.2.1"


class Play:
    """Plays one transcript."""

    def __init__(self, is_bytewise: bool) -> None:
        self._is_bytewise = is_bytewise
        self._session = Session(b"host.test", PEER)
        self._transaction: Transaction | None = None
        self._events: list[Event] = []

    def line(self, word: str, rest: str) -> None:
        if word == "session":
            self._session = Session(b"host.test", PEER, rest == "lmtp")
            self._events.clear()
        elif word == "message":
            self._begin(rest.split())
        elif word in ("S", "S-"):
            self._receive(rest.encode() + (b"\r\n" if word == "S" else b""))
        elif word == "lost":
            self._events += self._session.lost(rest.encode())
        elif word == "body":
            assert Event.BODY in self._events
            self._events.remove(Event.BODY)
            if rest != "unsent":
                self._session.body_sent()
        elif word == "result":
            self._check_result(rest)
        elif word in ("closed", "open"):
            assert self._session.is_closed == (word == "closed")
            assert (Event.CLOSED in self._events) == (word == "closed")
        else:
            raise AssertionError(f"no transcript line begins with {word}")

    def sent(self, lines: list[str]) -> None:
        assert self._session.take().decode() == "".join(line + "\r\n" for line in lines)

    def _receive(self, data: bytes) -> None:
        for piece in [data[place : place + 1] for place in range(len(data))] if self._is_bytewise else [data]:
            self._events += self._session.feed(piece)

    def _begin(self, words: list[str]) -> None:
        sender, _, *rest = words
        recipients = [word.encode() for word in rest if "@" in word]
        size = next((int(word[5:]) for word in rest if word.startswith("size=")), 100)
        self._transaction = Transaction(
            sender.strip("<>").encode(), recipients, size, is_8bit="8bit" in rest, is_utf8="utf8" in rest
        )
        assert self._session.is_ready
        self._events += self._session.begin(self._transaction)

    def _check_result(self, rest: str) -> None:
        place, outcome, code, enhanced, text = rest.split(" ", 4)
        assert self._transaction and Event.ENDED in self._events
        result = self._transaction.results[int(place)]
        assert result is not None
        shown = result.text.decode().replace("\n", "/")
        assert (result.outcome.decode(), result.code, result.enhanced.decode(), shown) == (
            outcome, int(code), enhanced, text,
        )  # fmt: skip


@pytest.mark.parametrize("is_bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path, is_bytewise: bool) -> None:
    play = Play(is_bytewise)
    lines = [line for line in path.read_text().split("\n") if line and not line.startswith("#")]
    for is_sent, group in itertools.groupby(lines, lambda line: line.split(" ", 1)[0] == "C"):
        if is_sent:
            play.sent([line[2:] for line in group])
            continue
        for line in group:
            word, _, rest = line.partition(" ")
            play.line(word, rest)


def test_transcripts_are_there() -> None:
    assert len(TRANSCRIPTS) >= 20


REPLIES = [b"220 a", b"250 a", b"354 a", b"421 a", b"450 a", b"550 a", b"550-a\r\n550 b", b"503 5.5.1 a", b"nonsense"]


def until(step: Step, is_pipelining: bool, is_lmtp: bool) -> Session:
    """A session that waits for the reply to this step."""
    session = Session(b"host.test", PEER, is_lmtp)
    if step is Step.GREETING:
        return session
    session.feed(b"220 a\r\n")
    if step is Step.EHLO:
        return session
    if step is Step.HELO:
        session.feed(b"500 a\r\n")
        return session
    session.feed(b"250-a\r\n250 PIPELINING\r\n" if is_pipelining else b"250 a\r\n")
    transaction = Transaction(b"s@a.test", [b"r@b.test", b"q@b.test"], 100, False, False)
    if step is Step.RSET:
        session.begin(transaction)
        session.feed(b"250 a\r\n" + b"250 a\r\n" * 2 + b"450 a\r\n")
        transaction = Transaction(b"s@a.test", [b"r@b.test", b"q@b.test"], 100, False, False)
    session.begin(transaction)
    if step in (Step.RSET, Step.MAIL):
        return session
    session.feed(b"250 a\r\n")
    if step is Step.RCPT:
        return session
    if step is Step.NOBODY:
        session.feed(b"550 a\r\n550 a\r\n354 a\r\n")
        return session
    session.feed(b"250 a\r\n250 a\r\n")
    if step is Step.DATA:
        return session
    session.feed(b"354 a\r\n")
    session.body_sent()
    return session


# LMTP has no HELO, and DATA without a recipient is only ever sent by PIPELINING.
CASES = [
    (step, is_lmtp, is_pipelining)
    for step in Step for is_lmtp in (False, True) for is_pipelining in (False, True)
    if not (step is Step.HELO and is_lmtp) and not (step is Step.NOBODY and not is_pipelining)
]  # fmt: skip


@pytest.mark.parametrize("reply", REPLIES)
@pytest.mark.parametrize(("step", "is_lmtp", "is_pipelining"), CASES)
def test_every_reply_in_every_step_ends_well(step: Step, reply: bytes, is_lmtp: bool, is_pipelining: bool) -> None:
    """Whatever comes, all recipients get a result in the end, and success only by a 2xx after the dot."""
    session = until(step, is_pipelining, is_lmtp)
    transaction = session.transaction
    session.take()
    session.feed(reply + b"\r\n")
    session.lost(b"it closed the connection")
    assert session.is_closed
    if transaction:
        outcomes = [result.outcome for result in transaction.results if result]
        assert len(outcomes) == len(transaction.recipients)
        if SUCCESS in outcomes:
            assert step is Step.DOT and reply.startswith(b"2")
        if step is Step.MAIL and reply.startswith(b"55"):
            assert outcomes == [PERMANENT, PERMANENT]
        if reply.startswith((b"4", b"n")) and step is not Step.NOBODY:
            assert TEMPORARY in outcomes


def test_a_reply_that_never_ends_closes_the_session() -> None:
    session = Session(b"host.test", PEER)
    events = session.feed(b"220-" + b"x" * 9000)
    assert events == [Event.CLOSED]
    session = Session(b"host.test", PEER)
    for _ in range(2000):
        events = session.feed(b"220-" + b"x" * 60 + b"\r\n")
        if events:
            break
    assert events == [Event.CLOSED]
    assert session.failure and session.failure.outcome == TEMPORARY


def test_line_feeds_alone_end_reply_lines_too() -> None:
    session = Session(b"host.test", PEER)
    session.feed(b"220-a\n220 b\n")
    assert session.take() == b"EHLO host.test\r\n"


def test_a_long_reply_is_kept_to_5000_bytes() -> None:
    session = until(Step.MAIL, True, False)
    transaction = session.transaction
    session.feed(b"".join(b"550-%d %b\r\n" % (number, b"x" * 100) for number in range(400)) + b"550 end\r\n")
    session.feed(b"503 a\r\n503 a\r\n503 a\r\n")
    assert transaction and transaction.results[0]
    assert 5000 <= len(transaction.results[0].text) < 5200


@pytest.mark.parametrize("address", [b"a\r\nRSET@b.test", b"a@b.test> NOTIFY=NEVER", b"a\n@b.test", b"a\0@b", b"a@b\r"])
def test_an_address_that_would_be_a_command_is_never_sent(address: bytes) -> None:
    for sender, recipients in ((address, [b"r@b.test"]), (b"s@a.test", [address])):
        session = until(Step.HELO, False, False)
        session.feed(b"250 a\r\n")
        session.take()
        transaction = Transaction(sender, recipients, 100, False, False)
        assert session.begin(transaction) == [Event.ENDED]
        assert session.take() == b""
        assert transaction.results[0] and transaction.results[0].outcome == PERMANENT


lines_of_servers = st.lists(
    st.sampled_from(
        [b"220 a", b"250 a", b"250-PIPELINING", b"250 SIZE 5", b"354 a", b"421 a", b"450 4.1.1 a", b"550 5.1.1 a", b"", b"55"]
    ),
    max_size=14,
)


def played(data: list[bytes], is_lmtp: bool) -> tuple[list[Result | None], bytes, bool]:
    """What two transactions come to, everything sent, and whether the session closed."""
    session = Session(b"host.test", PEER, is_lmtp)
    transactions = [Transaction(b"s@a.test", [b"r@b.test", b"q@b.test"], 3, False, False) for _ in range(2)]
    begun, sent = 0, b""
    for piece in data:
        waiting = session.feed(piece)
        sent += session.take()
        while waiting:
            event = waiting.pop(0)
            if event is Event.BODY:
                session.body_sent()
            elif event in (Event.READY, Event.ENDED) and begun < 2 and not session.is_closed:
                waiting += session.begin(transactions[begun])
                begun += 1
                sent += session.take()
    was_closed = session.is_closed
    session.lost(b"it closed the connection")
    return [result for each in transactions[:begun] for result in each.results], sent, was_closed


@given(lines_of_servers, st.booleans())
def test_every_server_leaves_every_recipient_with_a_result(lines: list[bytes], is_lmtp: bool) -> None:
    results, _, _ = played([line + b"\r\n" for line in lines], is_lmtp)
    assert None not in results


@given(lines_of_servers, st.booleans())
def test_bytewise_gives_what_line_by_line_gives(lines: list[bytes], is_lmtp: bool) -> None:
    data = [line + b"\r\n" for line in lines]
    assert played(data, is_lmtp) == played([bytes([byte]) for byte in b"".join(data)], is_lmtp)


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_of_a_server_break_the_session(data: bytes, is_lmtp: bool) -> None:
    results, _, _ = played([b"220 a\r\n250-a\r\n250 PIPELINING\r\n" + data, data], is_lmtp)
    assert None not in results
