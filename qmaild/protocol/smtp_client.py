"""The client's side of SMTP and LMTP: one session, its transactions. Knows bytes, not sockets, not time.

feed() takes what came and begin() a transaction; both return Events. take() gives what is to be sent. On
Event.BODY the owner sends the stuffed content and then calls body_sent(). Each recipient ends in one Result.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable

from qmaild.protocol.frames import PERMANENT, SUCCESS, TEMPORARY
from qmaild.protocol.smtp_replies import Reader, Reply, ReplyError
from qmaild.protocol.smtp_transaction import Result, Transaction


class Event(enum.Enum):
    """What the owner of a session reacts to."""

    READY = enum.auto()  # the greeting is done: begin() may be called
    BODY = enum.auto()  # send the content and the final dot now
    ENDED = enum.auto()  # the transaction is over: every recipient has its result
    CLOSED = enum.auto()  # the session is over: close the socket


class Step(enum.Enum):
    """What a reply answers; the value says what we were doing."""

    GREETING = "waiting for the greeting"
    EHLO = "sending EHLO"
    HELO = "sending HELO"
    RSET = "sending RSET"
    MAIL = "sending the reverse-path"
    RCPT = "sending forward-paths"
    DATA = "sending DATA"
    DOT = "sending the message"
    NOBODY = "ending a message without recipients"


_FAILED = {
    Step.GREETING: b"Connected to %b but its greeting was a refusal.",
    Step.EHLO: b"Connected to %b but my name was rejected.",
    Step.HELO: b"Connected to %b but my name was rejected.",
    Step.RSET: b"Connected to %b but it would not start afresh.",
    Step.MAIL: b"Connected to %b but sender was rejected.",
    Step.RCPT: b"%b does not like recipient.",
    Step.DATA: b"%b failed on DATA command.",
    Step.DOT: b"%b failed after I sent the message.",
    Step.NOBODY: b"%b failed on an empty message.",
}
_SAID = b" Remote host said: "


def step_of(text: bytes) -> Step | None:
    """Return which step a result's text says was refused; None where it tells of no refusal. HELO reads as EHLO."""
    said, mark, _ = text.partition(_SAID)
    if mark:
        for step, words in _FAILED.items():
            if said.endswith(words.partition(b"%b")[2]):
                return step
    return None


class Session:
    """One session from greeting to close. `peer` is the server's address as texts show it."""

    __slots__ = (
        "_body_sent", "_commands", "_events", "_expected", "_helo", "_needs_reset", "_out", "_reader",
        "extensions", "failure", "is_answered", "is_closed", "is_lmtp", "is_ready", "peer",
        "replies", "transaction", "transactions",
    )  # fmt: skip

    def __init__(self, helo: bytes, peer: bytes, is_lmtp: bool = False) -> None:
        self.peer = peer
        self.is_lmtp = is_lmtp
        self.extensions: dict[bytes, bytes] = {}
        self.failure: Result | None = None  # why the session closed
        self.is_closed = False
        self.is_ready = False  # greeting and EHLO are done: the server talks to us
        self.transaction: Transaction | None = None
        self.transactions = 0  # how many have ended
        self.replies = 0  # how many have come
        self.is_answered = False  # the server has answered something of this transaction
        self._helo = helo
        self._reader = Reader()
        self._expected: deque[tuple[Step, int]] = deque([(Step.GREETING, 0)])
        self._commands: deque[tuple[Step, int, bytes]] = deque()
        self._out: list[bytes] = []
        self._events: list[Event] = []
        self._needs_reset = False
        self._body_sent = False

    @property
    def doing(self) -> str:
        """What is under way, for texts."""
        return self._expected[0][0].value if self._expected else "waiting for work"

    @property
    def is_past_dot(self) -> bool:
        """Whether the whole message was sent: from here on the server may have taken it."""
        return self._body_sent

    def take(self) -> bytes:
        """Return the bytes to send now."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def feed(self, data: bytes) -> list[Event]:
        """Take received bytes and return what happened."""
        try:
            for reply in self._reader.feed(data):
                if self.is_closed:
                    break
                self._answer(reply)
        except ReplyError as error:
            text = b"%b does not speak SMTP: it sent %b." % (self.peer, str(error).encode())
            self._close(Result(TEMPORARY, 0, b"4.5.0", text))
        return self._happened()

    def begin(self, transaction: Transaction) -> list[Event]:
        """Start a transaction; the session is ready. What the server surely refuses is refused here."""
        self.transaction = transaction
        self.is_answered = self._body_sent = False
        transaction.refuse_unsendable(self.extensions, self.peer)
        wanted = transaction.rcpt_commands(self.extensions)
        if wanted:
            if self._needs_reset:
                self._commands.append((Step.RSET, 0, b"RSET\r\n"))
                self._needs_reset = False
            self._commands.append((Step.MAIL, 0, transaction.mail_command(self.extensions)))
            self._commands.extend([(Step.RCPT, place, command) for place, command in wanted])
            self._commands.append((Step.DATA, 0, b"DATA\r\n"))
        self._proceed()
        return self._happened()

    def body_sent(self) -> None:
        """The last byte of the content and its final dot has left."""
        self._body_sent = True

    def lost(self, why: bytes) -> list[Event]:
        """The connection was lost or is given up: what is undecided is temporary. why is half a sentence."""
        text = b"Connected to %b but %b while %b." % (self.peer, why, self.doing.encode())
        if self._body_sent:
            text += b" Possible duplicate!"  # the server may have taken the message before it fell silent
        self._close(Result(TEMPORARY, 0, b"4.4.2", text))
        return self._happened()

    def quit(self) -> None:
        """Say goodbye; nobody waits for the answer."""
        if not self.is_closed:
            self.is_closed = True
            self._out.append(b"QUIT\r\n")

    def _happened(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _proceed(self) -> None:
        """Send the next command (with PIPELINING all of them), or end the transaction when none is left."""
        if self._expected or self.is_closed:
            return
        if not self._commands:
            self._end()
        elif b"PIPELINING" in self.extensions:
            self._out.extend([command for _, _, command in self._commands])
            self._expected.extend([(step, place) for step, place, _ in self._commands])
            self._commands.clear()
        else:
            step, place, command = self._commands.popleft()
            self._out.append(command)
            self._expected.append((step, place))

    def _end(self) -> None:
        if self.transaction:
            self.transaction = None
            self._body_sent = False
            self.transactions += 1
            self._events.append(Event.ENDED)

    def _close(self, result: Result) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self.failure = result
        self._commands.clear()
        self._out.clear()
        if self.transaction:
            self.transaction.decide(result)
            self._end()
        self._expected.clear()
        self._events.append(Event.CLOSED)

    def _result(self, step: Step, reply: Reply, outcome: bytes = b"") -> Result:
        text = _FAILED[step] % self.peer + _SAID + reply.text
        outcome = outcome or reply.outcome
        enhanced = reply.enhanced if reply.outcome == outcome and reply.enhanced else b"4.0.0"
        return Result(outcome, reply.code, enhanced, text)

    def _answer(self, reply: Reply) -> None:
        self.replies += 1
        if not self._expected:  # RFC 5321 3.8: 421 may come unasked; so may nothing else
            self._close(self._result(Step.MAIL, reply, TEMPORARY))
            return
        step, place = self._expected.popleft()
        if reply.code == 421:
            # RFC 5321 3.8: the server is leaving; everything undecided is to be tried again.
            self._close(self._result(step, reply))
            return
        _ON_REPLY[step](self, reply, step, place)
        self._proceed()

    def _on_greeting(self, reply: Reply, step: Step, place: int) -> None:
        if reply.code != 220:
            self._refused(step, reply)
            return
        self._out.append((b"LHLO " if self.is_lmtp else b"EHLO ") + self._helo + b"\r\n")
        self._expected.append((Step.EHLO, 0))

    def _on_ehlo(self, reply: Reply, step: Step, place: int) -> None:
        if reply.code == 250:
            for line in reply.text.split(b"\n")[1:]:
                keyword, _, rest = line[4:].strip().partition(b" ")
                self.extensions[keyword.upper()] = rest.strip()
            self._ready()
        elif reply.code >= 500 and not self.is_lmtp:
            self._out.append(b"HELO %b\r\n" % self._helo)
            self._expected.append((Step.HELO, 0))
        else:
            self._refused(step, reply)

    def _on_helo(self, reply: Reply, step: Step, place: int) -> None:
        if reply.code == 250:
            self._ready()
        else:
            self._refused(step, reply)

    def _ready(self) -> None:
        self.is_ready = True
        self._events.append(Event.READY)

    def _refused(self, step: Step, reply: Reply) -> None:
        # A server that will not talk to us at all says nothing about the recipients: temporary, as in qmail.
        self._close(self._result(step, reply, TEMPORARY))
        self._out.append(b"QUIT\r\n")

    def _on_rset(self, reply: Reply, step: Step, place: int) -> None:
        if reply.outcome != SUCCESS:
            self._close(self._result(step, reply, TEMPORARY))

    def _on_mail(self, reply: Reply, step: Step, place: int) -> None:
        self.is_answered = True
        if reply.outcome != SUCCESS and self.transaction:
            self.transaction.decide(self._result(step, reply))
            self._commands.clear()

    def _on_rcpt(self, reply: Reply, step: Step, place: int) -> None:
        transaction = self.transaction
        if not transaction or transaction.results[place] is not None:
            return  # MAIL was refused: that is this recipient's result
        if reply.outcome == SUCCESS:
            transaction.accepted.append(place)
        else:
            transaction.results[place] = self._result(step, reply)
        if not transaction.accepted and [step for step, _, _ in self._commands] == [Step.DATA]:
            self._commands.clear()
            self._needs_reset = True

    def _on_data(self, reply: Reply, step: Step, place: int) -> None:
        transaction = self.transaction
        if not transaction:
            return
        if reply.code == 354 and transaction.accepted:
            count = transaction.accepted if self.is_lmtp else transaction.accepted[:1]
            self._expected.extend([(Step.DOT, each) for each in count])
            self._events.append(Event.BODY)
        elif reply.code == 354:
            # RFC 2920 3.1: DATA was accepted without a recipient; an empty message ends it.
            self._out.append(b".\r\n")
            self._expected.append((Step.NOBODY, 0))
        elif reply.code < 400:
            self._close(self._result(step, reply, TEMPORARY))  # neither go nor no: out of step
        else:
            self._needs_reset = True
            if transaction.accepted:
                transaction.decide(self._result(step, reply))

    def _on_dot(self, reply: Reply, step: Step, place: int) -> None:
        transaction = self.transaction
        if not transaction:
            return
        if not self._body_sent:  # an answer to half a message: whatever it says, this session is out of step
            self._close(self._result(step, reply, PERMANENT if reply.outcome == PERMANENT else TEMPORARY))
            return
        if reply.outcome == SUCCESS:
            text = b"%b accepted message. Remote host said: %b" % (self.peer, reply.text)
            result = Result(SUCCESS, reply.code, reply.enhanced, text)
        else:
            result = self._result(step, reply)
        if self.is_lmtp:
            transaction.results[place] = result
        else:
            transaction.decide(result)

    def _on_nobody(self, reply: Reply, step: Step, place: int) -> None:
        """Nobody was accepted: whatever this says changes nobody's result."""


_ON_REPLY: dict[Step, Callable[[Session, Reply, Step, int], None]] = {
    Step.GREETING: Session._on_greeting, Step.EHLO: Session._on_ehlo, Step.HELO: Session._on_helo,
    Step.RSET: Session._on_rset, Step.MAIL: Session._on_mail, Step.RCPT: Session._on_rcpt,
    Step.DATA: Session._on_data, Step.DOT: Session._on_dot, Step.NOBODY: Session._on_nobody,
}  # fmt: skip
