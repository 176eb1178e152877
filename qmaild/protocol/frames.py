"""Every message the components exchange: its letter, its fields, its version. Knows bytes, not sockets.

A frame on the wire is one netstring: a letter, then each field as a netstring. A list is a run of netstrings
inside its field. A frame whose class has the field `descriptor` carries that many descriptors (0 or 1)
beside its bytes. `tag` is the asker's own number, given back in the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, get_type_hints

from qmaild.protocol import netstring

VERSION = 1  # raised whenever a field of any frame changes
MAX_FRAME = 16 << 20  # 100,000 recipients of a list message in one envelope fit
INLINE_BYTES = 64 << 10  # a content up to here rides inside its frame, a longer one beside it as a descriptor

SUCCESS, TEMPORARY, PERMANENT = b"K", b"Z", b"D"  # the three outcomes, as qmail wrote them

FLAG_8BIT, FLAG_UTF8 = 1, 2  # of a message: BODY=8BITMIME was declared; SMTPUTF8 was asked for


class FrameError(ValueError):
    """A peer sent what no frame of this version looks like."""


class Hello(NamedTuple):
    """Opens every connection, from the client; a server that speaks another version answers with its own and closes."""

    version: int
    role: bytes


# Intake: doors and local to queue.
class Message(NamedTuple):
    """A whole small message: content is prefix + body. serves: the delivery a forward finishes (number, index), or 0 0."""

    tag: int
    flags: int
    origin: bytes
    sender: bytes
    recipients: list[bytes]
    content: bytes
    serves_number: int
    serves_index: int


class Open(NamedTuple):
    """Starts a large message; Data frames of the same tag follow, then End or Abort."""

    tag: int


class Data(NamedTuple):
    tag: int
    content: bytes


class End(NamedTuple):
    """Ends a large message: what Message has, with only the fields to prepend as prefix."""

    tag: int
    flags: int
    origin: bytes
    sender: bytes
    recipients: list[bytes]
    prefix: bytes
    serves_number: int
    serves_index: int


class Abort(NamedTuple):
    tag: int


class Accepted(NamedTuple):
    """The promise: the message with this number is durable."""

    tag: int
    number: int


class Refused(NamedTuple):
    """No promise. outcome is TEMPORARY or PERMANENT."""

    tag: int
    outcome: bytes
    enhanced: bytes
    text: bytes


class List(NamedTuple):
    """From inject's uid only: what of this origin (empty: any) is queued? Looks at `limit` messages above number `after`."""

    tag: int
    origin: bytes
    after: int
    limit: int


class Listed(NamedTuple):
    """text: lines as `qmailctl queue list` prints them, of those that matched. last: ask on after this number; 0: no more."""

    tag: int
    last: int
    text: bytes


# Manage: queue to send.
class Job(NamedTuple):
    """One message with all its recipients that are due. With descriptor 1 content is the prefix and the descriptor the body."""

    number: int
    birth: int
    flags: int
    origin: bytes
    sender: bytes
    indexes: list[int]
    recipients: list[bytes]
    size: int
    content: bytes
    descriptor: int


class Finish(NamedTuple):
    """A message with no recipient left to try and notes about those that failed: send bounces or ends it."""

    number: int
    birth: int
    flags: int
    origin: bytes
    sender: bytes
    recipients: list[bytes]
    notes: list[bytes]
    size: int
    content: bytes
    descriptor: int


class Done(NamedTuple):
    """These recipients are served. When none is left and nothing failed, queue ends the message itself."""

    number: int
    indexes: list[int]


class Failed(NamedTuple):
    """This recipient failed for good; note is its text for the bounce."""

    number: int
    index: int  # type: ignore[assignment]  # the field hides tuple.index, which nobody asks of a frame
    note: bytes


class Deferred(NamedTuple):
    """These recipients wait in lane until due (microseconds since the epoch)."""

    number: int
    lane: bytes
    due: int
    indexes: list[int]


class Ended(NamedTuple):
    """Nothing more is to be done for this message."""

    number: int


class Bounce(NamedTuple):
    """A bounce about message number: its commit is that message's end too."""

    number: int
    sender: bytes
    recipients: list[bytes]
    content: bytes
    flags: int = 0


class Bounced(NamedTuple):
    """Queue to send: the bounce about number is durable as message bounce."""

    number: int
    bounce: int


# Deliver: send to local and remote.
class Order(NamedTuple):
    """Deliver one message to recipients of one lane; answered by one Report."""

    tag: int
    number: int
    birth: int
    flags: int
    lane: bytes
    sender: bytes
    indexes: list[int]
    recipients: list[bytes]
    size: int
    content: bytes
    descriptor: int


class Report(NamedTuple):
    """One outcome per recipient of the order, in its order: five parallel lists. outcomes: K, Z or D, one byte each."""

    tag: int
    outcomes: bytes
    codes: list[int]
    enhanced: list[bytes]
    texts: list[bytes]
    peers: list[bytes]


# Lookup: doors to local.
class Who(NamedTuple):
    """Is there a recipient of this (rewritten, local) address?"""

    tag: int
    address: bytes


class Is(NamedTuple):
    tag: int
    outcome: bytes
    text: bytes


# Dial: remote to dial.
class Connect(NamedTuple):
    """purpose "mx": mail hosts of the domain name; "route": the smtproutes entry with key name. skip: addresses tried already."""

    tag: int
    purpose: bytes
    name: bytes
    skip: list[bytes]


class Connected(NamedTuple):
    """A connected socket rides beside it. protocol: smtp or lmtp; more: 1 if other addresses could be tried after this one."""

    tag: int
    protocol: bytes
    host: bytes
    address: bytes
    port: int
    more: int
    descriptor: int


class NotConnected(NamedTuple):
    tag: int
    outcome: bytes
    enhanced: bytes
    text: bytes


# Child: local to the process that has become the recipient.
class Deliver(NamedTuple):
    """One delivery by dot-qmail rules. instructions: the default delivery, or an alias's own lines when fixed is 1."""

    tag: int
    user: bytes
    home: bytes
    local: bytes
    dash: bytes
    extension: bytes
    domain: bytes
    sender: bytes
    instructions: bytes
    fixed: int
    size: int
    content: bytes
    descriptor: int


class Delivered(NamedTuple):
    """What came of it. forwards are for local to inject with new_sender; did counts files, forwards, programs."""

    tag: int
    outcome: bytes
    enhanced: bytes
    text: bytes
    new_sender: bytes
    forwards: list[bytes]


class NeedsProgram(NamedTuple):
    """The instructions hold a program line: this delivery belongs to the program unit. Nothing was done."""

    tag: int


class Exists(NamedTuple):
    """Is there a dot-qmail file for this extension? Answered by Is."""

    tag: int
    home: bytes
    dash: bytes
    extension: bytes


# Inject: the C client to inject.
class Invoke(NamedTuple):
    """Run as this program with these arguments and variables; its input follows as Data frames and EndOfInput of the same tag.

    qmail-queue has two inputs: tag is the message's, tag + 1 the envelope's. QMAILMFTFILE carries the file's content.
    """

    tag: int
    program: bytes
    arguments: list[bytes]
    environment: list[bytes]


class EndOfInput(NamedTuple):
    tag: int


class Output(NamedTuple):
    """For the client's descriptor stream (1 or 2)."""

    tag: int
    stream: int
    content: bytes


class Exit(NamedTuple):
    tag: int
    code: int


# Control: qmailctl to a service.
class Command(NamedTuple):
    tag: int
    words: list[bytes]


class Answer(NamedTuple):
    """code: an exit status; text: what to print (an error text when code is not 0)."""

    tag: int
    code: int
    text: bytes


Frame = tuple[Any, ...]

LETTERS: dict[bytes, type[Frame]] = {
    b"v": Hello, b"M": Message, b"O": Open, b"+": Data, b"E": End, b"A": Abort, b"K": Accepted, b"Z": Refused,
    b"l": List, b"L": Listed,
    b"J": Job, b"F": Finish, b"d": Done, b"f": Failed, b"z": Deferred, b"e": Ended, b"b": Bounce, b"B": Bounced,
    b"o": Order, b"R": Report, b"w": Who, b"i": Is, b"c": Connect, b"C": Connected, b"N": NotConnected,
    b"D": Deliver, b"X": Delivered, b"P": NeedsProgram, b"?": Exists, b"I": Invoke, b".": EndOfInput, b">": Output, b"x": Exit,
    b"q": Command, b"a": Answer,
}  # fmt: skip


def _integer(field: bytes) -> int:
    digits = field[1:] if field[:1] == b"-" else field
    if not digits.isdigit() or len(digits) > 20:
        raise FrameError("expected an integer of at most 20 digits")
    return int(field)


_WRITE: dict[object, Callable[[Any], bytes]] = {
    int: lambda value: b"%d" % value,
    bytes: bytes,
    list[int]: lambda value: b",".join([b"%d" % each for each in value]),
    list[bytes]: netstring.encode_all,
}
_READ: dict[object, Callable[[bytes], Any]] = {
    int: _integer,
    bytes: lambda field: field,
    list[int]: lambda field: [_integer(each) for each in field.split(b",")] if field else [],
    list[bytes]: netstring.split,
}


def _compile() -> tuple[dict[type, tuple[bytes, tuple[Any, ...]]], dict[bytes, tuple[Any, tuple[Any, ...]]]]:
    writers: dict[type, tuple[bytes, tuple[Any, ...]]] = {}
    readers: dict[bytes, tuple[Any, tuple[Any, ...]]] = {}
    for letter, kind in LETTERS.items():
        hints = list(get_type_hints(kind).values())
        writers[kind] = (letter, tuple(_WRITE[hint] for hint in hints))
        readers[letter] = (kind, tuple(_READ[hint] for hint in hints))
    return writers, readers


_WRITERS, _READERS = _compile()


def encode(frame: Frame) -> bytes:
    """Return the frame as the bytes of one netstring."""
    letter, writers = _WRITERS[type(frame)]
    parts = [letter]
    for write, value in zip(writers, frame, strict=True):
        field = write(value)
        parts.append(b"%d:" % len(field))
        parts.append(field)
        parts.append(b",")
    payload = b"".join(parts)
    return b"%d:%b," % (len(payload), payload)


def decode(payload: bytes) -> Any:
    """Return the frame in one netstring's content. Anything that is not a frame of this version raises FrameError."""
    known = _READERS.get(payload[:1])
    if known is None:
        raise FrameError(f"no frame begins with {payload[:1]!r}")
    kind, readers = known
    try:
        fields = netstring.split(payload[1:])
        if len(fields) != len(readers):
            raise FrameError(f"{kind.__name__} has {len(readers)} fields, not {len(fields)}")
        return kind(*[read(field) for read, field in zip(readers, fields, strict=True)])
    except ValueError as error:
        raise FrameError(f"{kind.__name__}: {error}") from None
