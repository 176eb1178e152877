"""One SMTP session as the server sees it: which command may come when, what it says, what is answered.

feed() takes bytes, next_event() gives what the owner must decide, answer() takes the decision, take_replies()
gives what to write. Nothing is read beyond a question until it is answered, so pipelined commands
(RFC 2920) wait their turn. Knows no policy, and no address of the client.
"""

from __future__ import annotations

from collections.abc import Callable

from qmaild.protocol.smtp import addresses, replies
from qmaild.protocol.smtp.body import Scanner
from qmaild.protocol.smtp.events import Content, Data, EndOfData, Event, Rare, Recipient, Sender
from qmaild.protocol.smtp.replies import Reply
from qmaild.protocol.smtp.states import END, MOVES, State

MAX_LINE = 2048  # RFC 5321 4.5.3.1.4 asks for 512, SMTPUTF8 and other extensions for more
MAX_ERRORS = 20  # wrong commands of one session; RFC 5321 4.3.2 allows 421 at any time
MAX_SIZE_DIGITS = 20  # RFC 1870 3

_BODY, _CLOSED = State.BODY, State.CLOSED  # looking a member up in its class takes long, and is done for each command
_OUT_OF_ORDER = {b"MAIL": replies.NESTED_MAIL, b"RCPT": replies.MAIL_FIRST, b"DATA": replies.RCPT_FIRST}
_KNOWN_ELSEWHERE = frozenset(
    b"AUTH BDAT BURL ETRN EXPN SAML SEND SOML STARTTLS TURN ATRN XCLIENT XFORWARD".split()
)


class Profile:
    """What all sessions of a server share: the size limit (0 is none) and what they say in common."""

    __slots__ = ("goodbye", "greeting", "max_bytes", "reply_to_ehlo", "reply_to_helo")

    def __init__(self, host: bytes, greeting: bytes, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.greeting = b"220 %b ESMTP\r\n" % greeting
        self.goodbye = b"221 2.0.0 %b\r\n" % greeting
        self.reply_to_helo = b"250 %b\r\n" % host
        size = b"SIZE %d" % max_bytes if max_bytes else b"SIZE"
        extensions = [b"PIPELINING", b"8BITMIME", size, b"SMTPUTF8", b"ENHANCEDSTATUSCODES", b"HELP"]
        self.reply_to_ehlo = replies.encode_lines(250, [host, *extensions])


class Session:
    """Sans-IO: see the module. is_extended and helo tell what the client called itself and how."""

    __slots__ = (
        "_buffer", "_closing", "_errors", "_is_utf8", "_pending", "_place", "_profile", "_replies",
        "_scanner", "_skipping", "helo", "is_extended", "state",
    )  # fmt: skip

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._buffer = b""
        self._place = 0
        self._replies: list[bytes] = []
        self._pending = b""  # the verb that waits for answer()
        self._closing: Reply | None = None
        self._scanner: Scanner | None = None
        self._skipping = False  # in the rest of a line that is too long
        self._is_utf8 = False
        self._errors = 0
        self.state = State.READY
        self.helo = b""
        self.is_extended = False

    @property
    def buffered(self) -> int:
        """Bytes fed and not yet looked at."""
        return len(self._buffer) - self._place

    @property
    def is_waiting(self) -> bool:
        """An event has no answer yet."""
        return bool(self._pending)

    @property
    def is_in_data(self) -> bool:
        """A message is under way: between 354 and the reply to it."""
        return self.state is _BODY

    @property
    def is_over(self) -> bool:
        """Nothing more is read: once the replies are written the connection ends."""
        return self.state is _CLOSED

    def greet(self) -> None:
        self._replies.append(self._profile.greeting)

    def feed(self, data: bytes) -> None:
        if self._place < len(self._buffer):
            data = self._buffer[self._place :] + data
        self._buffer = data
        self._place = 0

    def take_replies(self) -> bytes:
        """Return what is to be written now."""
        taken = b"".join(self._replies)
        self._replies.clear()
        return taken

    def next_event(self) -> Event | None:
        """Return the next event, or None: more bytes or an answer are needed, or the session is over."""
        while not self._pending:
            if self._place >= len(self._buffer) and self._closing is None:
                return None
            if self.state is _BODY:
                return self._next_of_body()
            if self.state is _CLOSED:
                return None
            if self._closing is not None:
                self._close(self._closing)
                return None
            line = self._take_line()
            if line is None:
                return None
            event = self._command(line)
            if event is not None:
                return event
        return None

    def answer(self, reply: Reply) -> None:
        """Give the reply to the event that waits for one. A success moves the session on; 421 ends it."""
        pending, self._pending = self._pending, b""
        self._replies.append(reply.encode())
        if reply.code == 421:
            self.state = _CLOSED
        elif reply.code < 400 or pending == END:
            self.state = MOVES[self.state, pending]
            if pending == b"DATA":
                self._scanner = Scanner(self._profile.max_bytes)

    def answer_lines(self, lines: bytes) -> None:
        """Give the reply to a Rare event, complete with line ends."""
        self._pending = b""
        self._replies.append(lines)

    def close_soon(self, reply: Reply) -> None:
        """End the session with this 421 as soon as no message and no question is under way."""
        self._closing = reply

    def _close(self, reply: Reply) -> None:
        self._replies.append(reply.encode())
        self.state = _CLOSED

    def _complain(self, reply: Reply) -> None:
        """Reply to a command that was wrong in itself, and count it."""
        self._errors += 1
        if self._errors > MAX_ERRORS:
            self._close(replies.TOO_MANY_ERRORS)
        else:
            self._replies.append(reply.encode())

    def _take_line(self) -> bytes | None:
        """Return the next command line, None if there is none yet. One too long is dropped to its end."""
        end = self._buffer.find(b"\n", self._place)
        if end < 0:
            if self._skipping or self.buffered > MAX_LINE:
                self._skipping = True
                self._buffer, self._place = b"", 0
            return None
        line = self._buffer[self._place : end + 1]
        self._place = end + 1
        if self._skipping or len(line) > MAX_LINE:
            self._skipping = False
            self._complain(replies.LINE_TOO_LONG)
            return self._take_line() if self.state is not _CLOSED else None
        return line

    def _command(self, line: bytes) -> Event | None:
        text = line[:-2]
        # RFC 5321 2.3.8: CR and LF only ever stand together.
        if not line.endswith(b"\r\n") or b"\r" in text:
            self._complain(replies.BARE_LINE_END)
            return None
        verb, _, argument = text.partition(b" ")
        verb = verb.upper()
        parse = _PARSERS.get(verb)
        if parse is None:
            self._complain(replies.NOT_IMPLEMENTED if verb in _KNOWN_ELSEWHERE else replies.UNKNOWN_COMMAND)
            return None
        if (self.state, verb) not in MOVES:
            self._complain(_OUT_OF_ORDER[verb])
            return None
        event = parse(self, verb, argument.strip(b" \t"))
        if isinstance(event, Reply):
            self._complain(event)
            return None
        if event is None:
            self.state = MOVES[self.state, verb]
        else:
            self._pending = verb
        return event

    def _hello(self, verb: bytes, argument: bytes) -> Reply | None:
        if not argument or b"\0" in argument:
            return replies.HELLO_NEEDS_NAME
        self.helo = argument
        self.is_extended = verb == b"EHLO"
        self._replies.append(self._profile.reply_to_ehlo if self.is_extended else self._profile.reply_to_helo)
        return None

    def _mail(self, verb: bytes, argument: bytes) -> Event | Reply:
        try:
            parsed = addresses.parse(argument, b"FROM:")
        except addresses.PathError:
            return replies.BAD_SENDER
        if parsed is None:
            return replies.MAIL_SYNTAX
        address, rest = parsed
        sender = _sender(address, rest) if rest else Sender(address, 0, False, False)
        if isinstance(sender, Sender):
            if not sender.is_utf8 and not address.isascii():
                return replies.NEEDS_UTF8
            self._is_utf8 = sender.is_utf8
        return sender

    def _rcpt(self, verb: bytes, argument: bytes) -> Event | Reply:
        try:
            parsed = addresses.parse(argument, b"TO:")
        except addresses.PathError:
            return replies.BAD_RECIPIENT
        if parsed is None:
            return replies.RCPT_SYNTAX
        address, rest = parsed
        if rest:
            return replies.UNKNOWN_PARAMETER if addresses.parameters(rest) else replies.BAD_PARAMETER
        if not self._is_utf8 and not address.isascii():
            return replies.NEEDS_UTF8
        return Recipient(address)

    def _data(self, verb: bytes, argument: bytes) -> Event | Reply:
        return replies.NO_ARGUMENT_ALLOWED if argument else Data()

    def _rset(self, verb: bytes, argument: bytes) -> Reply | None:
        if argument:
            return replies.NO_ARGUMENT_ALLOWED
        self._replies.append(replies.OK.encode())
        return None

    def _noop(self, verb: bytes, argument: bytes) -> Reply | None:
        self._replies.append(replies.OK.encode())
        return None

    def _quit(self, verb: bytes, argument: bytes) -> Reply | None:
        if argument:
            return replies.NO_ARGUMENT_ALLOWED
        self._replies.append(self._profile.goodbye)
        return None

    def _rare(self, verb: bytes, argument: bytes) -> Event | Reply:
        return Rare(verb, argument)

    def _next_of_body(self) -> Event | None:
        scanner = self._scanner
        if scanner is None or self._place >= len(self._buffer):
            return None
        data = self._buffer[self._place :] if self._place else self._buffer
        text, taken = scanner.feed(data)
        self._place += taken
        if scanner.is_ended:
            self._scanner = None
            self._pending = END
            return EndOfData(text, scanner.size, scanner.problem)
        return Content(text)


def _sender(address: bytes, rest: bytes) -> Sender | Reply:
    """Return MAIL with its parameters: SIZE (RFC 1870), BODY (RFC 6152), SMTPUTF8 (RFC 6531)."""
    given = addresses.parameters(rest)
    if given is None:
        return replies.BAD_PARAMETER
    size = given.pop(b"SIZE", b"0")
    body = given.pop(b"BODY", b"7BIT")
    is_utf8 = b"SMTPUTF8" in given
    if given.pop(b"SMTPUTF8", None) is not None:
        return replies.BAD_PARAMETER
    if given:
        return replies.UNKNOWN_PARAMETER
    if size is None or not size.isdigit() or len(size) > MAX_SIZE_DIGITS:
        return replies.BAD_PARAMETER
    if body is None or body.upper() not in (b"7BIT", b"8BITMIME"):
        return replies.BAD_PARAMETER
    return Sender(address, int(size), body.upper() == b"8BITMIME", is_utf8)


_Parser = Callable[[Session, bytes, bytes], Event | Reply | None]

_PARSERS: dict[bytes, _Parser] = {
    b"HELO": Session._hello, b"EHLO": Session._hello, b"MAIL": Session._mail, b"RCPT": Session._rcpt,
    b"DATA": Session._data, b"RSET": Session._rset, b"NOOP": Session._noop, b"QUIT": Session._quit,
    b"VRFY": Session._rare, b"HELP": Session._rare,
}  # fmt: skip

VERBS = frozenset(_PARSERS)
