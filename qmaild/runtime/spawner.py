"""The connection to a unit that makes children. Knows how to ask for one; not what it is asked."""

from __future__ import annotations

import asyncio
import socket
import struct

IDLE_SECONDS = 5.0  # rule 11: only the client closes
_REQUEST = struct.Struct("!II")
_VERSION = 1


class Spawner:
    """The unit whose socket is at path."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: str) -> None:
        self._loop = loop
        self._path = path
        self._sock: socket.socket | None = None
        self._used = 0.0

    @property
    def is_connected(self) -> bool:
        return self._sock is not None

    def request(self, uid: int, end: socket.socket) -> bool:
        """Ask for a child of this uid at this end of a pair. A spawner that was restarted is connected to anew."""
        self._used = self._loop.time()
        for _ in range(2):
            try:
                if self._sock is None:
                    self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                    self._sock.connect(self._path)
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", end.fileno()))]
                return self._sock.sendmsg([_REQUEST.pack(_VERSION, uid)], rights, socket.MSG_NOSIGNAL) == _REQUEST.size
            except OSError:
                self.close()
        return False

    def rest(self) -> None:
        """Close the connection if nothing was asked over it for a while."""
        if self._loop.time() - self._used >= IDLE_SECONDS:
            self.close()

    def close(self) -> None:
        """Close the connection; the next request makes another."""
        if self._sock:
            self._sock.close()
            self._sock = None
