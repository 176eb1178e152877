"""A server's replies to our SMTP and LMTP client: sessions of up to three transactions, and what their results become."""

from __future__ import annotations

import re
from collections.abc import Callable

from qmaild.message import bounce
from qmaild.protocol import smtp_body
from qmaild.protocol.frames import PERMANENT, SUCCESS, TEMPORARY
from qmaild.protocol.smtp_client import Event, Session
from qmaild.protocol.smtp_transaction import Result, Transaction

PEER = b"192.0.2.1"
COMMANDS = re.compile(rb"(?:[^\r\n]*\r\n)*")
SENDERS = (b"", b"a@b.test", b'we ird"@b.test', b"\xc3\xa9@b.test", b"a@b.test>\r\nDATA")
RECIPIENTS = (b"r@x.test", b"s@x.test", b"\xc3\xa9@x.test", b"no\r\nway@x.test", b"t t@x.test", b"u@x test")
TRANSACTIONS = 3


class Play:
    """One session against a server that says `data`. choice: bits that decide what we send."""

    def __init__(self, choice: int, data: bytes, pieces: Callable[[bytes], list[bytes]]) -> None:
        self.choice = choice
        self.session = Session(b"host.test", PEER, is_lmtp=bool(choice & 1))
        self.sent = b""
        self.results: list[list[Result | None]] = []
        self.transactions: list[Transaction] = []
        for piece in pieces(data):
            self._react(self.session.feed(piece))
        self._react(self.session.lost(b"the connection was lost"))
        assert self.session.is_closed and self.session.transaction is None

    def _react(self, events: list[Event]) -> None:
        while events:
            event, *events = events
            if event is Event.BODY:
                assert self.session.transaction and self.session.transaction.accepted
                if not self.choice & 2 or len(self.results) == 1:
                    self.session.body_sent()
            if event is Event.ENDED:
                self._ended()
            if event in (Event.READY, Event.ENDED) and not self.session.is_closed and len(self.transactions) < TRANSACTIONS:
                events += self._begin()
        assert len(self.sent) < 1 << 20
        self.sent += self.session.take()
        assert COMMANDS.fullmatch(self.sent)

    def _begin(self) -> list[Event]:
        turn = len(self.transactions)
        first = (self.choice >> 2) % 4
        transaction = Transaction(
            SENDERS[(self.choice >> 4) % len(SENDERS)], RECIPIENTS[first : first + 1 + (self.choice >> 6) % 4],
            [100, 5000, 0][turn], bool(self.choice & 4), bool(self.choice & 8),
        )  # fmt: skip
        self.transactions.append(transaction)
        return self.session.begin(transaction)

    def _ended(self) -> None:
        results = self.transactions[-1].results
        self.results.append(results)
        for result in results:
            assert result is not None and result.outcome in (SUCCESS, TEMPORARY, PERMANENT)
            assert result.outcome != SUCCESS or result.code // 100 == 2
            assert b"\0" not in result.text and b"\r" not in result.text
            assert result.enhanced[:1] != b"2" or result.outcome == SUCCESS
            _noted(result)


def _noted(result: Result) -> None:
    """What the queue keeps of a failure says what the server said."""
    note = bounce.parse_note(bounce.note(result.enhanced, result.code, PEER, result.text))
    assert (note.code, note.peer) == (result.code, PEER)
    if result.outcome != SUCCESS:
        assert note.status in (result.enhanced, b"5.0.0")
    assert b"\n\n" not in note.text and note.text.endswith(b"\n")


def _bytes(data: bytes) -> list[bytes]:
    return [data[place : place + 1] for place in range(len(data))]


def one_input(data: bytes) -> None:
    """The first byte chooses what we send. Line by line and byte by byte it comes to the same."""
    choice, data = (data[0] * 37 if data else 0), data[1:]
    if data and not data.endswith(b"\n"):
        data += b"\n"
    line_by_line = Play(choice, data, _by_lines)
    by_bytes = Play(choice, data, _bytes)
    assert (by_bytes.sent, by_bytes.results) == (line_by_line.sent, line_by_line.results)
    assert by_bytes.session.extensions == line_by_line.session.extensions
    Play(choice, data, lambda whole: [whole])
    _stuffed(data)


def _by_lines(data: bytes) -> list[bytes]:
    return [line + b"\n" for line in data.split(b"\n")[:-1]]


def _stuffed(content: bytes) -> None:
    """Content in pieces is sent as content at once, and ends only where it ends."""
    wire = smtp_body.stuff(content)
    stuffer = smtp_body.Stuffer()
    assert b"".join([stuffer.feed(each) for each in _bytes(content)]) + stuffer.end() == wire
    assert (b"\r\n" + wire).find(b"\r\n.\r\n") == len(wire) - 3
    assert wire.count(b"\r") == wire.count(b"\n") == wire.count(b"\r\n")


def _replies(data: bytes) -> None:
    Play(1, b"220 a\n250-b\n250 PIPELINING\n" + data, _by_lines)


GROWTH = {"replies": _replies, "content": _stuffed}
