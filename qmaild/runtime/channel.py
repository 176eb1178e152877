"""Frames over an AF_UNIX stream, descriptors beside them. Knows one connection; not who asks or answers what.

Writes are collected and leave together at the end of a loop tick, or before that when many have come. Descriptors
ride by SCM_RIGHTS, one per frame, sent and received by this module's own sendmsg and recvmsg (asyncio's streams
drop them).
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from qmaild.protocol import frames, netstring
from qmaild.runtime import poller, strangers
from qmaild.runtime.poller import HUNG_UP, READ, WRITE

EARLY_BYTES = 16 << 10  # a burst leaves in pieces of this size, so that the peer works beside us and not after us
READ_BYTES = 64 << 10  # below malloc's mmap limit: a larger buffer costs system calls a read
MAX_DESCRIPTORS = 16  # that wait for the frames that announce them; a peer that sends more loses its connection
_ANCILLARY = socket.CMSG_SPACE(253 * 4)  # as many as can come in one call: the kernel would close the rest, and we wait for it
_CUT, _CLOEXEC, _NO_SIGNAL = int(socket.MSG_CTRUNC), int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_NOSIGNAL)  # enums are slow
_PEEK = int(socket.MSG_PEEK)

OnFrame = Callable[["Channel", Any, int], None]
OnClose = Callable[["Channel"], None]


class Peer(NamedTuple):
    """Who made the connection, by SO_PEERCRED."""

    pid: int
    uid: int
    gid: int


def peer_of(sock: socket.socket) -> Peer:
    """Return the credentials the kernel noted when this AF_UNIX connection was made."""
    return Peer(*struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))


class Channel:
    """One connection. on_frame(channel, frame, descriptor) gets each frame; descriptor is -1 or now the callee's to close.

    takes_descriptors: whether the peer has any to give. One that sends some where none belongs is cut off.
    ends_with_peer: nothing that a peer has said is acted on once it has hung up. Who has asked and is gone was told
    that nothing came of it, or asks again: it may have waited in the socket of a service that could not serve.

    on_close is called once, whoever ended the connection. A frame that cannot be decoded, or a descriptor
    that was not announced, ends the connection: the peer is out of step.
    """

    __slots__ = (
        "_descriptors", "_ends_with_peer", "_flushing", "_loop", "_max_descriptors", "_on_close", "_on_frame", "_paused",
        "_poller", "_queue", "_reader", "_sock", "_writing", "on_drained", "peer", "queued", "state",
    )  # fmt: skip

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, on_frame: OnFrame, on_close: OnClose,
        limit: int = frames.MAX_FRAME, takes_descriptors: bool = False, ends_with_peer: bool = False,
    ) -> None:  # fmt: skip
        sock.setblocking(False)
        # Urgent bytes stand among the others: else no look at what is unread finds them, or the descriptors beside them.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self._loop = loop
        self._sock = sock
        self._on_frame = on_frame
        self._on_close = on_close
        self._reader = netstring.Reader(limit)
        self._queue: deque[tuple[bytes, int]] = deque()
        self._descriptors: deque[int] = deque()
        self._max_descriptors = MAX_DESCRIPTORS if takes_descriptors else 0
        self._ends_with_peer = HUNG_UP if ends_with_peer else 0
        self._flushing = self._writing = self._paused = False
        self.queued = 0  # bytes written by us that the peer has not taken: owners bound it
        self.peer = peer_of(sock)
        self.state: Any = None  # whatever the owner keeps for this connection
        self.on_drained: Callable[[], None] | None = None  # the peer has taken everything: writers may go on
        self._poller = poller.of(loop)
        self._watch()

    @property
    def is_open(self) -> bool:
        return self._sock.fileno() >= 0

    def send(self, frame: frames.Frame, descriptor: int = -1) -> None:
        """Queue one frame; descriptor, if any, is the channel's from here on and is closed once sent."""
        self.send_encoded(frames.encode(frame), descriptor)

    def send_encoded(self, data: bytes, descriptor: int = -1) -> None:
        """Queue bytes that frames.encode made."""
        if not self.is_open:
            if descriptor >= 0:
                os.close(descriptor)
            return
        self._queue.append((data, descriptor))
        self.queued += len(data)
        if self._writing:
            return
        if not self._flushing:
            self._flushing = True
            self._poller.at_end(self._flush)
        elif self.queued >= EARLY_BYTES:
            self._write()

    @property
    def is_paused(self) -> bool:
        return self._paused

    def rewire(self, on_frame: OnFrame) -> None:
        """From the next frame on, call on_frame: a handshake gives way to the service proper."""
        self._on_frame = on_frame

    def pause(self) -> None:
        """Read nothing more until resume(): how an owner with a full window pushes back."""
        if not self._paused and self.is_open:
            self._paused = True
            self._watch()

    def resume(self) -> None:
        if self._paused and self.is_open:
            self._paused = False
            self._watch()

    def _watch(self) -> None:
        self._poller.watch(self._sock.fileno(), self, (0 if self._paused else READ) | (WRITE if self._writing else 0))

    def close(self) -> None:
        """End the connection now; what was not yet taken is dropped. on_close runs once."""
        if not self.is_open:
            return
        if self._queue and not self._writing:
            self._flush()
            if not self.is_open:
                return
        self._poller.forget(self._sock.fileno())
        strangers.close_socket(self._sock)
        for _, descriptor in self._queue:
            if descriptor >= 0:
                os.close(descriptor)
        if self._descriptors:
            strangers.close(list(self._descriptors))
        self._queue.clear()
        self._descriptors.clear()
        self.queued = 0
        self._on_close(self)

    def readable(self) -> None:
        if self._poller.ready & self._ends_with_peer:
            self.close()
            return
        try:
            data = self._receive()
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        if not data or len(self._descriptors) > self._max_descriptors:
            self.close()
            return
        try:
            for payload in self._reader.feed(data):
                if not self._deliver(frames.decode(payload)):
                    return
        except (frames.FrameError, netstring.NetstringError):
            self.close()

    def _receive(self) -> bytes:
        """Return what the peer has said; nothing if it has ended, or has sent a descriptor where none belongs."""
        if not self._max_descriptors:
            # A look first: they never reach our table, and are closed with the connection, not by reading past them.
            data, _, flags, _ = self._sock.recvmsg(READ_BYTES, 0, _PEEK)
            return b"" if flags & _CUT else self._sock.recv(len(data))
        data, ancillary, flags, _ = self._sock.recvmsg(READ_BYTES, _ANCILLARY, _CLOEXEC)
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(content[: len(content) - len(content) % received.itemsize])
                self._descriptors.extend(received)
        return b"" if flags & _CUT else data

    def _deliver(self, frame: Any) -> bool:
        descriptor = -1
        if getattr(frame, "descriptor", 0):
            if not self._descriptors:
                raise frames.FrameError("a frame announced a descriptor that did not come")
            descriptor = self._descriptors.popleft()
        try:
            self._on_frame(self, frame, descriptor)
        except frames.FrameError:
            raise
        except Exception as error:  # a fault of ours costs this frame, not those that came with it
            self._loop.call_exception_handler({"message": f"a {type(frame).__name__} came to nothing", "exception": error})
        return self.is_open

    def writable(self) -> None:
        self._flush()

    def _flush(self) -> None:
        """What a tick has collected leaves; then, and never from within send(), the owner hears that all is gone."""
        self._flushing = False
        self._write()
        if not self._queue and self.on_drained is not None and self.is_open:
            self.on_drained()

    def _write(self) -> None:
        while self._queue and self.is_open:
            batch, descriptor = self._next_batch()
            try:
                if descriptor >= 0:
                    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
                    sent = self._sock.sendmsg([batch], rights, _NO_SIGNAL)
                    os.close(descriptor)
                    descriptor = -1
                else:
                    sent = self._sock.send(batch, _NO_SIGNAL)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                if descriptor >= 0:
                    os.close(descriptor)
                # Not closed from within send(), whose caller counts on the connection. But nothing more may leave:
                # what came behind a gap would be taken for the whole.
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)
                self._loop.call_soon(self.close)
                return
            self.queued -= sent
            if sent < len(batch):
                self._queue.appendleft((batch[sent:], descriptor))
                self._wait_until_writable()
                return
        if self._writing and self.is_open:
            self._writing = False
            self._watch()

    def _next_batch(self) -> tuple[bytes, int]:
        """Take the frames that may leave together: all up to one with a descriptor, which leaves alone."""
        if self._queue[0][1] >= 0 or len(self._queue) == 1:
            return self._queue.popleft()
        parts: list[bytes] = []
        size = 0
        while self._queue and self._queue[0][1] < 0 and size < 4 * READ_BYTES:
            data = self._queue.popleft()[0]
            parts.append(data)
            size += len(data)
        return b"".join(parts), -1

    def _wait_until_writable(self) -> None:
        if not self._writing:
            self._writing = True
            self._watch()
