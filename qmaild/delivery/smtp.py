"""One SMTP or LMTP session on a connected socket: moves bytes between the socket, the session and a content.

Knows readiness and deadlines, not what replies mean (protocol/smtp_client.py) and not which message comes
next (delivery/lanes.py, the owner). Nothing here blocks; the owner's sweep calls expire().
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from qmaild.delivery.contents import Contents
from qmaild.protocol.smtp_body import END, Stuffer, stuff
from qmaild.protocol.smtp_client import Event, Session
from qmaild.protocol.smtp_transaction import Transaction

READ_BYTES = 16 << 10  # replies are short
PIECES_A_TURN = 8  # a fast peer does not keep the loop from the others
GREETING_SECONDS = 120.0  # a host that has not greeted us by then is as good as down


class Content:
    """A message as it is sent, once a transaction. The descriptor, if any, is this object's to close."""

    __slots__ = ("_contents", "_whole", "is_8bit", "size")

    def __init__(self, prefix: bytes, descriptor: int = -1) -> None:
        self._contents = Contents(prefix, descriptor)
        self._whole = b""
        if descriptor < 0:
            self._whole = stuff(prefix)
            self.size = len(self._whole) - len(END)  # RFC 1870 5: without the final dot
            self.is_8bit = not prefix.isascii()
        else:
            self.size = self._contents.size  # RFC 1870 6.1 allows an estimate
            self.is_8bit = True  # not looked at; a 7-bit message is as well declared so

    def pieces(self) -> Iterator[bytes]:
        """Yield what goes behind DATA, final dot included. OSError: the content cannot be read to its end."""
        if self._whole:
            yield self._whole
            return
        stuffer = Stuffer()
        for chunk in self._contents.chunks():
            yield stuffer.feed(chunk)
        yield stuffer.end()

    def close(self) -> None:
        if self._contents.descriptor >= 0:
            os.close(self._contents.descriptor)
            self._contents.descriptor = -1


class Where(NamedTuple):
    """The other end of a connection; more: other addresses could be tried instead."""

    protocol: bytes
    host: bytes
    address: bytes
    port: int
    more: bool

    @property
    def text(self) -> bytes:
        """host[address]:port, or the path of a unix socket."""
        if not self.port:
            return self.address
        host = b"" if self.host.strip(b"[]") == self.address else self.host
        return b"%b[%b]:%d" % (host, self.address, self.port)


class Owner(Protocol):
    """Who decides what a connection does next. closed() comes last, once, whoever ended the connection."""

    def ready(self, connection: Connection) -> None: ...
    def ended(self, connection: Connection, transaction: Transaction) -> None: ...
    def closed(self, connection: Connection) -> None: ...


class Connection:
    """One session. deadline is in the loop's time; the owner's sweep calls expire() when it is over."""

    __slots__ = (
        "_content", "_loop", "_owner", "_pieces", "_sock", "_timeout", "_transaction", "_unsent", "_writing",
        "deadline", "session", "where",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, where: Where, helo: bytes,
                 timeout: float, owner: Owner) -> None:  # fmt: skip
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._owner = owner
        self._timeout = timeout
        self._content: Content | None = None
        self._pieces: Iterator[bytes] | None = None
        self._transaction: Transaction | None = None
        self._unsent = b""
        self._writing = False
        self.where = where
        self.session = Session(helo, where.address, where.protocol == b"lmtp")
        self.deadline = loop.time() + min(timeout, GREETING_SECONDS)
        loop.add_reader(sock.fileno(), self._readable)

    @property
    def is_open(self) -> bool:
        return self._sock.fileno() >= 0

    def begin(self, transaction: Transaction, content: Content) -> None:
        """Send this message; the owner hears ended() when every recipient has its result."""
        self._transaction = transaction
        self._content = content
        self.deadline = self._loop.time() + self._timeout
        self._after(self.session.begin(transaction))

    def expire(self) -> None:
        """The deadline has passed."""
        self._after(self.session.lost(b"it fell silent"))

    def drop(self) -> None:
        """Give up whatever is under way."""
        self._after(self.session.lost(b"I gave up"))

    def quit(self) -> None:
        """End an idle session."""
        self.session.quit()
        self._send(self.session.take())
        self._shut()

    def _readable(self) -> None:
        try:
            data = self._sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._after(self.session.lost(_because(error)))
            return
        if not data:
            self._after(self.session.lost(b"it closed the connection"))
            return
        session = self.session
        replies = session.replies
        events = session.feed(data)
        if session.transaction and session.replies > replies:  # whole ones: bytes that trickle gain no time
            self.deadline = self._loop.time() + self._timeout
        self._after(events)

    def _after(self, events: list[Event]) -> None:
        self._send(self.session.take())
        for event in events:
            if event is Event.BODY:
                if self._content:
                    self._pieces = self._content.pieces()
                    self._pump()
            elif event is Event.ENDED:
                transaction, self._transaction = self._transaction, None
                self._content = self._pieces = None
                if transaction:
                    self._owner.ended(self, transaction)
            elif event is Event.READY:
                self._owner.ready(self)
            else:
                self._shut()

    def _send(self, data: bytes) -> bool:
        """Send, or keep for later what the socket does not take now. Returns whether all has left."""
        if self._unsent:
            self._unsent += data
            return False
        if not data or not self.is_open:
            return not data
        try:
            sent = self._sock.send(data, socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            # The reading side tells what became of the connection, after any last reply that waits there. Nothing more
            # may leave: what came behind a gap would be taken for the whole.
            self._pieces = None
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
            return False
        if sent == len(data):
            return True
        self._unsent = data[sent:]
        self._await_writable()
        return False

    def _await_writable(self) -> None:
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._sock.fileno(), self._writable)

    def _writable(self) -> None:
        data, self._unsent = self._unsent, b""
        self.deadline = self._loop.time() + self._timeout
        if self._send(data):
            self._pump()
        if self._writing and not self._unsent and self._pieces is None and self.is_open:
            self._writing = False
            self._loop.remove_writer(self._sock.fileno())

    def _pump(self) -> None:
        """Send pieces of the content while the socket takes them.

        That the last one has left is said at once: its answer may be the next thing that the loop sees.
        """
        if self._pieces is None:
            return
        try:
            for number, piece in enumerate(self._pieces):
                if number == PIECES_A_TURN:
                    self._unsent = piece
                    self._await_writable()
                    return
                if not self._send(piece):
                    return
        except OSError as error:
            self._after(self.session.lost(b"the message could not be read (%b)" % _because(error)))
            return
        self._pieces = None
        self.session.body_sent()

    def _shut(self) -> None:
        if not self.is_open:
            return
        number = self._sock.fileno()
        self._loop.remove_reader(number)
        if self._writing:
            self._loop.remove_writer(number)
        self._sock.close()
        self._content = self._pieces = None
        self._owner.closed(self)


def _because(error: OSError) -> bytes:
    return (error.strerror or str(error)).encode()
