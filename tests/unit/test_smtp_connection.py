"""One SMTP connection over a real socket pair, told what is ready in the orders in which a loop may find it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from qmaild.delivery import contents
from qmaild.delivery import smtp as subject
from qmaild.delivery.smtp import Connection, Content, Where
from qmaild.protocol import frames
from qmaild.protocol.smtp_body import END
from qmaild.protocol.smtp_transaction import Transaction

WHERE = Where(b"smtp", b"mx.b.test", b"192.0.2.1", 25, False)
CHUNK = 100


class Readiness:
    """Stands for the loop: keeps what it would call, and the test says when."""

    def __init__(self) -> None:
        self.readable: Callable[[], None] | None = None
        self.writable: Callable[[], None] | None = None

    def time(self) -> float:
        return 0.0

    def add_reader(self, number: int, call: Callable[[], None]) -> None:
        self.readable = call

    def add_writer(self, number: int, call: Callable[[], None]) -> None:
        self.writable = call

    def remove_reader(self, number: int) -> None:
        self.readable = None

    def remove_writer(self, number: int) -> None:
        self.writable = None


class Broken(socket.socket):
    """A socket for which the kernel once finds no room, after so many calls."""

    calls_left = 1 << 30

    def send(self, data: Any, flags: int = 0) -> int:
        self.calls_left -= 1
        if not self.calls_left:
            raise OSError(errno.ENOBUFS, "No buffer space available")
        return super().send(data, flags)


class Meeting:
    """A connection with one message of so many chunks, begun, and its peer."""

    def __init__(self, ours: socket.socket, peer: socket.socket, content: Content) -> None:
        self.peer = peer
        self.loop = Readiness()
        self.results: list[Transaction] = []
        self.content = content
        self.is_closed = False
        peer.setblocking(False)
        self.connection = Connection(cast(asyncio.AbstractEventLoop, self.loop), ours, WHERE, b"host.test", 10, self)
        self.says(b"220 b\r\n")
        self.says(b"250-b\r\n250 PIPELINING\r\n")

    def says(self, reply: bytes) -> None:
        """The peer says this, and it is what the loop finds first."""
        self.peer.sendall(reply)
        assert self.loop.readable
        self.loop.readable()

    def taken(self) -> bytes:
        """All that the peer has been sent until now."""
        try:
            return self.peer.recv(1 << 20)
        except BlockingIOError:
            return b""

    def ready(self, connection: Connection) -> None:
        self.taken()
        connection.begin(Transaction(b"s@a.test", [b"r@b.test"], self.content.size, False, False), self.content)

    def ended(self, connection: Connection, transaction: Transaction) -> None:
        self.results.append(transaction)

    def closed(self, connection: Connection) -> None:
        self.is_closed = True


@contextmanager
def meeting(chunks: int, kind: type[socket.socket] = socket.socket) -> Iterator[Meeting]:
    descriptor = os.memfd_create("body")
    os.write(descriptor, (b"x" * (CHUNK - 1) + b"\n") * chunks)
    ours, theirs = socket.socketpair()
    with theirs, kind(fileno=ours.detach()) as sock:
        found = Meeting(sock, theirs, Content(b"", descriptor))
        yield found
        found.content.close()


@pytest.mark.parametrize("chunks", range(1, 3 * subject.PIECES_A_TURN))
def test_an_answer_found_before_the_socket_takes_more_is_an_answer_to_the_whole(
    monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    monkeypatch.setattr(contents, "CHUNK_BYTES", CHUNK)
    with meeting(chunks) as here:
        here.taken()
        here.says(b"250 b\r\n250 b\r\n354 b\r\n")
        taken = here.taken()
        while not taken.endswith(b"\n" + END):
            assert here.loop.writable
            here.loop.writable()
            taken += here.taken()
        here.says(b"250 2.0.0 taken\r\n")
        (transaction,) = here.results
        assert [result and result.outcome for result in transaction.results] == [frames.SUCCESS]
        assert len(taken) == chunks * (CHUNK + 1) + len(END) and not here.is_closed


@pytest.mark.parametrize("calls", range(1, 18))
def test_nothing_leaves_behind_a_piece_that_could_not(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    monkeypatch.setattr(contents, "CHUNK_BYTES", CHUNK)
    with meeting(16, Broken) as here:
        here.taken()
        cast(Broken, here.connection._sock).calls_left = calls
        here.says(b"250 b\r\n250 b\r\n354 b\r\n")
        for _ in range(10):
            if here.loop.writable:
                here.loop.writable()
        assert not here.taken().endswith(END)
        here.peer.close()
        if here.loop.readable:
            here.loop.readable()
        (transaction,) = here.results
        assert [result and result.outcome for result in transaction.results] == [frames.TEMPORARY] and here.is_closed
