"""QMQP sessions on sockets: one package each, streamed to intake, one answer."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

from qmaild.control import events
from qmaild.control.settings import Settings
from qmaild.message import trace
from qmaild.policy import qmqp as policy
from qmaild.protocol import frames, netstring, qmqp
from qmaild.runtime import doors, journal, poller
from qmaild.runtime.intake import Draft, Intake
from qmaild.runtime.stream import Stream


class Server:
    """What all sessions share."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, settings: Settings, intake: Intake,
        on_count: Callable[[int], None],
    ) -> None:  # fmt: skip
        self.loop = loop
        self.poller = poller.of(loop)
        self.settings = settings
        self.intake = intake
        self.sessions = doors.Sessions(loop, on_count, lambda: self.settings.timeoutsmtpd)

    def accept(self, sock: socket.socket) -> None:
        """Begin a session on a fresh connection, or refuse it."""
        client = doors.client_of(sock)
        refusal = policy.session(self.settings, client, len(self.sessions), self.sessions.of(client))
        if refusal:
            doors.dismiss(sock, netstring.encode(refusal))
            _note_refusal(client, b"connection", refusal)
            return
        self.sessions.begin(Connection(self, client, sock))


class Connection:
    """One session. Nothing is kept after its answer."""

    def __init__(self, server: Server, client: bytes, sock: socket.socket) -> None:
        self.client = client
        self.last_heard = server.loop.time()
        self._server = server
        self._begun = self.last_heard
        self._reader = qmqp.Reader(server.settings.databytes)
        self._hops = trace.Hops()
        self._draft: Draft | None = server.intake.draft()
        self._package: qmqp.Package | None = None
        self._stream: Stream | None = Stream(server.poller, sock, self)

    @property
    def is_in_data(self) -> bool:
        return True

    @property
    def may_go(self) -> bool:
        return False  # its clients are ours

    def data_received(self, data: bytes) -> None:
        self.last_heard = doors.progress(self.last_heard, self._server.loop.time(), len(data))
        if self._package or not self._draft:
            return
        try:
            found = self._reader.feed(data)
        except qmqp.QmqpError as error:
            _note_refusal(self.client, b"package", b"Z" + str(error).encode())
            self.abort()
            return
        for each in found:
            if isinstance(each, qmqp.Package):
                self._complete(each)
            else:
                self._hops.feed(each.text)
                self._draft.write(each.text)
        self._read_if_possible()

    def eof_received(self) -> bool:
        return self._package is not None  # the answer is still to come

    def connection_lost(self, error: Exception | None) -> None:
        self._stream = None
        if self._draft and not self._package:
            self._draft.abort()
        self._server.sessions.end(self)

    def pause_writing(self) -> None:
        """One answer fits the socket's own buffer."""

    def resume_writing(self) -> None:
        """See pause_writing."""

    def stop(self) -> None:
        """A package that has begun may end; the door's stop is bounded."""

    def time_out(self) -> None:
        if not self._package:
            self.abort()

    def give_way(self) -> None:
        self.abort()

    def abort(self) -> None:
        if self._stream:
            self._stream.abort()

    def _read_if_possible(self) -> None:
        if not self._stream or self._stream.is_closing():
            return
        if self._draft and self._server.intake.is_congested:
            self._stream.pause_reading()
            self._server.intake.when_drained(self._read_if_possible)
        else:
            self._stream.resume_reading()

    def _complete(self, package: qmqp.Package) -> None:
        self._package = package
        draft, settings = self._draft, self._server.settings
        if draft is None:
            return
        refusal = policy.package(settings, package, self._hops.count)
        if refusal:
            draft.abort()
            _note_refusal(self.client, b"package", refusal, sender=package.sender)
            self._answer(refusal)
            return
        prefix = trace.received(b"", self.client, settings.me, b"QMQP", int(time.time()))
        draft.finish(self._stored, prefix, 0, b"qmqp " + self.client, package.sender, package.recipients)

    def _stored(self, answer: frames.Accepted | frames.Refused | None) -> None:
        package = self._package
        assert package is not None  # only a complete one is handed over
        said = policy.stored(answer, int(time.time()))
        if isinstance(answer, frames.Accepted):
            journal.record(
                events.ACCEPTED, message=answer.number, sender=package.sender,
                recipients=len(package.recipients), bytes=package.size, peer=self.client, protocol=b"qmqp",
                took=self._server.loop.time() - self._begun)  # fmt: skip
        else:
            _note_refusal(self.client, b"package", said, sender=package.sender)
        self._answer(said)

    def _answer(self, said: bytes) -> None:
        self._draft = None
        if self._stream:
            self._stream.write(netstring.encode(said))
            self._stream.close()


def _note_refusal(client: bytes, command: bytes, said: bytes, **fields: bytes) -> None:
    outcome = b"permanent" if said[:1] == frames.PERMANENT else b"temporary"
    journal.record(events.REFUSED, peer=client, protocol=b"qmqp", command=command, enhanced=outcome,
                   text=said[1:], **fields)  # fmt: skip
