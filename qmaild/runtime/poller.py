"""The sockets of a service in one epoll set, which the loop watches as one, and what is done at the end of a turn.

asyncio makes a handle, a key and a call through a context for each socket that is ready, and another pass through the
loop for what is put off to the end. Here a turn serves all sockets that are ready with one plain call each, and then
does what they have put off: frames leave, appended records are committed. A lone message saves a pass a hop.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Protocol

READ, WRITE, HUNG_UP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP
A_TURN = 256  # sockets served before the loop looks at its other work
_PLACE = "qmaild_poller"  # in the loop's own dictionary: it goes when the loop goes


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
        self._ending: list[Callable[[], None]] = []
        self._is_turning = False
        self.ready = 0  # for whom is called now: all that his descriptor is ready for, HUNG_UP included
        loop.add_reader(self._epoll.fileno(), self._turn)

    def watch(self, number: int, who: Watched, events: int) -> None:
        """Call who when the descriptor is ready for events: READ, WRITE or both; 0 forgets it."""
        if not events:
            self.forget(number)
            return
        if number in self._watched:
            self._epoll.modify(number, events)
        else:
            self._epoll.register(number, events)
        self._watched[number] = who, events

    def forget(self, number: int) -> None:
        """Watch this descriptor no more."""
        if self._watched.pop(number, None) is not None:
            self._epoll.unregister(number)

    def at_end(self, call: Callable[[], None]) -> None:
        """Call once when everything that is ready now has been served, but before anything new is waited for."""
        if self._is_turning:
            self._ending.append(call)
        else:
            self.loop.call_soon(call)

    def _turn(self) -> None:
        watched = self._watched
        self._is_turning = True
        for number, ready in self._epoll.poll(0, A_TURN):
            if number not in watched:
                continue  # forgotten in this very turn
            who, events = watched[number]
            self.ready = ready
            if ready & ~WRITE and events & READ:
                self._call(who.readable)
            if ready & ~READ and events & WRITE and number in watched:
                self._call(who.writable)
        while self._ending:
            ending, self._ending = self._ending, []
            for call in ending:
                self._call(call)
        self._is_turning = False

    def _call(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # a fault of ours costs whom it is about, not those that stand behind
            self.loop.call_exception_handler({"message": "what a socket brought came to nothing", "exception": error})


def of(loop: asyncio.AbstractEventLoop) -> Poller:
    """Return the loop's poller."""
    found: Poller | None = loop.__dict__.get(_PLACE)
    if found is None:
        found = loop.__dict__[_PLACE] = Poller(loop)
    return found
