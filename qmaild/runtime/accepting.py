"""Handed-in sockets whose connections a service takes. Knows when to take them; not what comes over them."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from qmaild.runtime import journal

ACCEPTS_A_TICK = 64  # one wake-up takes what waits, but no flood keeps the loop from its other work
REST_SECONDS = 1.0  # before connections are taken again after that could not be done

Made = Callable[[socket.socket], None]


class Acceptors:
    """taken() is called whenever there were connections."""

    def __init__(self, loop: asyncio.AbstractEventLoop, taken: Callable[[], None]) -> None:
        self._loop = loop
        self._taken = taken
        self._all: list[tuple[socket.socket, Made]] = []
        self._is_closed = False

    def add(self, listener: socket.socket, made: Made) -> None:
        """Call made(sock) for each connection to this socket, from now on."""
        self._all.append((listener, made))
        self._watch(listener, made)

    def take_waiting(self) -> bool:
        """Take the connections that wait at this moment, rather than leave them to a fresh start; whether there were any."""
        return any([self._accept(listener, made) for listener, made in self._all])

    def close(self) -> None:
        """Take no more. The sockets stay open: what comes waits there for a successor."""
        self._is_closed = True
        for listener, _ in self._all:
            self._loop.remove_reader(listener.fileno())

    def _watch(self, listener: socket.socket, made: Made) -> None:
        if not self._is_closed:
            self._loop.add_reader(listener.fileno(), self._accept, listener, made)

    def _accept(self, listener: socket.socket, made: Made) -> int:
        taken = 0
        for _ in range(ACCEPTS_A_TICK):
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ECONNABORTED:  # that one is gone, the next may be there
                    self._rest(listener, made, error)
                break
            taken += 1
            made(sock)
        if taken:
            self._taken()
        return taken

    def _rest(self, listener: socket.socket, made: Made, error: OSError) -> None:
        """No descriptor or memory is free: what waits, waits; asking at once again would take the time of all others."""
        journal.note(journal.WARNING, f"cannot accept a connection: {error.strerror}")
        self._loop.remove_reader(listener.fileno())
        self._loop.call_later(REST_SECONDS, self._watch, listener, made)
