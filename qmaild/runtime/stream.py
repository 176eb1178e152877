"""One TCP connection in the loop: reads as they come, writes that wait their turn. Knows bytes, no protocol.

What asyncio's own transport is, without the task, the futures and the passes through the loop which that
takes to begin and to end a connection: a session of one message costs half as much without them.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from typing import Any, Protocol

from qmaild.runtime.poller import READ, WRITE, Poller

READ_BYTES = 64 << 10  # below malloc's mmap limit: a larger buffer costs system calls a read
HIGH_WATER = 64 << 10  # unwritten bytes above which the owner is told to pause

_buffer = bytearray(READ_BYTES)  # shared: every read is taken out of it before the next
_view = memoryview(_buffer)


class Owner(Protocol):
    """Whose connection it is. connection_lost is called once, and never from within write() or close()."""

    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool | None: ...
    def connection_lost(self, error: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Stream(asyncio.Transport):
    """The connection. eof_received() returning a true value keeps it open for writing."""

    __slots__ = ("_is_choked", "_is_closing", "_is_reading", "_number", "_owner", "_poller", "_sock", "_unwritten")

    def __init__(self, poller: Poller, sock: socket.socket, owner: Owner) -> None:
        sock.setblocking(False)
        self._poller = poller
        self._sock = sock
        self._number = sock.fileno()
        self._owner = owner
        self._unwritten = b""
        self._is_closing = self._is_choked = False
        self._is_reading = True
        poller.watch(self._number, self, READ)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what asyncio calls peername, sockname and socket."""
        try:
            if name == "peername":
                return self._sock.getpeername()
            if name == "sockname":
                return self._sock.getsockname()
        except OSError:
            return default
        return self._sock if name == "socket" else default

    def is_closing(self) -> bool:
        return self._is_closing

    def is_reading(self) -> bool:
        return self._is_reading

    def get_write_buffer_size(self) -> int:
        return len(self._unwritten)

    def pause_reading(self) -> None:
        if self._is_reading and not self._is_closing:
            self._is_reading = False
            self._watch()

    def resume_reading(self) -> None:
        if not self._is_reading and not self._is_closing:
            self._is_reading = True
            self._watch()

    def _watch(self) -> None:
        """Wait for what there is to wait for: a client that is not read from may still end its connection."""
        events = (READ if self._is_reading else 0) | (WRITE if self._unwritten else 0)
        self._poller.watch(self._number, self, events)

    def write(self, data: Any) -> None:
        """Send now what the kernel takes, the rest when it takes more. After close() nothing is taken."""
        if self._is_closing:
            return
        if not self._unwritten:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._end(error)
                return
            if sent == len(data):
                return
            self._unwritten = data[sent:]
            self._watch()
        else:
            self._unwritten += data
        if not self._is_choked and len(self._unwritten) > HIGH_WATER:
            self._is_choked = True
            self._owner.pause_writing()

    def close(self) -> None:
        """Send what is unwritten, then end the connection."""
        if self._is_closing:
            return
        if self._unwritten:
            self.pause_reading()
            self._is_closing = True
        else:
            self._end(None)

    def abort(self) -> None:
        """End the connection now."""
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        if self._number < 0:
            return
        self._is_closing = True
        self._poller.forget(self._number)
        self._number = -1
        self._unwritten = b""
        self._sock.close()
        self._poller.at_end(functools.partial(self._owner.connection_lost, error))

    def readable(self) -> None:
        try:
            size = self._sock.recv_into(_buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        if size:
            self._owner.data_received(bytes(_view[:size]))
        elif self._owner.eof_received():
            self.pause_reading()
        else:
            self.close()

    def writable(self) -> None:
        try:
            sent = self._sock.send(self._unwritten)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        self._unwritten = self._unwritten[sent:]
        if self._unwritten:
            return
        if self._is_closing:
            self._end(None)
            return
        self._watch()
        if self._is_choked:
            self._is_choked = False
            self._owner.resume_writing()
