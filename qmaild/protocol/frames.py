"""Every message the components exchange: its letter, its fields, its version. How they are written is in codec.py.

A frame whose class has the field `descriptor` carries that many descriptors (0 or 1) beside its bytes. `tag` is the
asker's own number, given back in the answer.
"""

from __future__ import annotations

from typing import NamedTuple

from qmaild.protocol import codec

Frame = codec.Frame
FrameError = codec.FrameError

VERSION = 3  # raised whenever a field of any frame changes
MAX_FRAME = 16 << 20  # 100,000 recipients of a list message in one envelope fit
INLINE_BYTES = 64 << 10  # a content up to here rides inside its frame, a longer one beside it as a descriptor

SUCCESS, TEMPORARY, PERMANENT = b"K", b"Z", b"D"  # the three outcomes, as qmail wrote them

FLAG_8BIT, FLAG_UTF8 = 1, 2  # of a message: BODY=8BITMIME was declared; SMTPUTF8 was asked for


class Hello(NamedTuple):
    """Opens every connection; a server answers with its own when it takes the connection up, and closes if versions differ."""

    version: int
    role: bytes


class Leaving(NamedTuple):
    """From a server that stops: it answers for so many seconds what it is asked; ask anything new over another connection."""

    seconds: int


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
    """Starts a large message; Pieces of the same tag follow, then End or Abort."""

    tag: int


class Piece(NamedTuple):
    """The next bytes of a large message: all that a sealed memfd has. Answered Taken, unless the message was refused."""

    tag: int
    size: int
    descriptor: int


class Taken(NamedTuple):
    """So many bytes of a piece lie in the message's file. It is no answer to Open: that one comes after End."""

    tag: int
    size: int


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
    """Deliver one message to recipients of one lane; answered by one Report. is_probe: see Connect."""

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
    is_probe: int = 0


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
    """purpose "mx": mail hosts of the domain name; "route": the smtproutes entry with key name. skip: addresses tried already.

    is_probe: 1 when send wants to know whether a dead destination is back, or tries for the last time: try in earnest.
    """

    tag: int
    purpose: bytes
    name: bytes
    skip: list[bytes]
    is_probe: int = 0


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


class Explain(NamedTuple):
    """What would Deliver with these fields do? Nothing is delivered and no program runs."""

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


class Explained(NamedTuple):
    """outcome, enhanced, text: what keeps it from the first instruction; K with a text is a warning. source: the file's name,
    empty where it is missing or empty and `instructions` count.

    lines: the instructions in qmail-local's words, numbers: where each stands in its file; of a long file its beginning.
    files, forwards and programs count all of them.
    """

    tag: int
    outcome: bytes
    enhanced: bytes
    text: bytes
    source: bytes
    default: bytes
    new_sender: bytes
    numbers: list[int]
    lines: list[bytes]
    files: int
    forwards: int
    programs: int


# Inject: the C client to inject.
class Data(NamedTuple):
    tag: int
    content: bytes


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


LETTERS: dict[bytes, type[Frame]] = {
    b"v": Hello, b"V": Leaving,
    b"M": Message, b"O": Open, b"p": Piece, b"t": Taken, b"E": End, b"A": Abort,
    b"K": Accepted, b"Z": Refused, b"l": List, b"L": Listed,
    b"J": Job, b"F": Finish, b"d": Done, b"f": Failed, b"z": Deferred, b"e": Ended, b"b": Bounce, b"B": Bounced,
    b"o": Order, b"R": Report, b"w": Who, b"i": Is, b"c": Connect, b"C": Connected, b"N": NotConnected,
    b"D": Deliver, b"X": Delivered, b"P": NeedsProgram, b"?": Exists,
    b"h": Explain, b"H": Explained,
    b"I": Invoke, b"+": Data, b".": EndOfInput, b">": Output, b"x": Exit,
    b"q": Command, b"a": Answer,
}  # fmt: skip

encode, decode = codec.of(LETTERS)
