"""Many sockets in an epoll set of their own, which the loop watches as one. Knows descriptors and readiness.

asyncio makes a handle, a key and a call through a context for each socket that is ready. A door's sessions get one of
each between them, and a call of their own.
"""

from __future__ import annotations

import asyncio
import select
from typing import Protocol

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
A_TURN = 256  # sockets served before the loop looks at its other work


class Watched(Protocol):
    """What a poller calls. A connection that breaks is ready for whatever is waited for."""

    def readable(self) -> None: ...
    def writable(self) -> None: ...


class Poller:
    """The set. watch() again changes what is waited for; forget() must come before the descriptor is closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[Watched, int]] = {}
        loop.add_reader(self._epoll.fileno(), self._turn)

    def watch(self, number: int, who: Watched, events: int) -> None:
        """Call who when the descriptor is ready for events: READ, WRITE or both."""
        if number in self._watched:
            self._epoll.modify(number, events)
        else:
            self._epoll.register(number, events)
        self._watched[number] = who, events

    def forget(self, number: int) -> None:
        """Watch this descriptor no more."""
        if self._watched.pop(number, None) is not None:
            self._epoll.unregister(number)

    def close(self) -> None:
        """Let go of the set itself."""
        self.loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _turn(self) -> None:
        watched = self._watched
        for number, ready in self._epoll.poll(0, A_TURN):
            if number not in watched:
                continue  # forgotten in this very turn
            who, events = watched[number]
            if ready & ~WRITE and events & READ:
                who.readable()
            if ready & ~READ and events & WRITE and number in watched:
                who.writable()
