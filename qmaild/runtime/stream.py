"""One TCP connection in the loop: reads as they come, writes that wait their turn. Knows bytes, no protocol.

What asyncio's own transport is, without the task, the futures and the passes through the loop which that
takes to begin and to end a connection: a session of one message costs half as much without them.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Protocol

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

    __slots__ = ("_is_choked", "_is_closing", "_is_reading", "_loop", "_owner", "_sock", "_unwritten")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, owner: Owner) -> None:
        super().__init__()
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._owner = owner
        self._unwritten = b""
        self._is_closing = self._is_choked = False
        self._is_reading = True
        loop.add_reader(sock.fileno(), self._readable)

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
            self._loop.remove_reader(self._sock.fileno())

    def resume_reading(self) -> None:
        if not self._is_reading and not self._is_closing:
            self._is_reading = True
            self._loop.add_reader(self._sock.fileno(), self._readable)

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
            data = data[sent:]
            self._loop.add_writer(self._sock.fileno(), self._writable)
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
        number = self._sock.fileno()
        if number < 0:
            return
        self._is_closing = True
        self._loop.remove_reader(number)
        if self._unwritten:
            self._loop.remove_writer(number)
            self._unwritten = b""
        self._sock.close()
        self._loop.call_soon(self._owner.connection_lost, error)

    def _readable(self) -> None:
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

    def _writable(self) -> None:
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
        self._loop.remove_writer(self._sock.fileno())
        if self._is_closing:
            self._end(None)
        elif self._is_choked:
            self._is_choked = False
            self._owner.resume_writing()
