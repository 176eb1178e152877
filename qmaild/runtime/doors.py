"""The sessions of one door: how many, whose, which get nowhere, and which gives way to a newcomer. Knows no protocol."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Callable
from typing import Protocol

from qmaild.policy import clients

SWEEP_SECONDS = 1.0  # one timer for all sessions
CLOSE_SECONDS = 3.0  # at a stop, for clients that do not read what was said to them
SLOWEST_RATE = 100  # bytes a second of a message: slower ones use up the timeout, so drops of it gain no time
SPARE_SECONDS = 10.0  # with every place taken, a session that got nowhere for so long is the first to go

normal = functools.lru_cache(maxsize=4096)(clients.normal)
holder = functools.lru_cache(maxsize=4096)(clients.holder)


class Session(Protocol):
    """What a door's session is to its door."""

    client: bytes
    last_heard: float  # when it last got on: a command was complete, or a message as much as progress() says

    @property
    def may_go(self) -> bool:
        """A newcomer may have its place: it waits for nothing of ours, and is nobody's who may relay."""

    @property
    def is_in_data(self) -> bool:
        """A message is under way: a stop waits for it."""

    def stop(self) -> None:
        """End as soon as no message is under way."""

    def time_out(self) -> None:
        """The client was silent for too long."""

    def give_way(self) -> None:
        """End now, for a newcomer."""

    def abort(self) -> None:
        """End now."""


class Sessions:
    """All sessions of this process. on_count gets their number when it changes; each sweep asks timeout."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_count: Callable[[int], None], timeout: Callable[[], float]
    ) -> None:
        self._loop = loop
        self._on_count = on_count
        self._timeout = timeout
        self._by_holder: dict[bytes, int] = {}
        self.all: set[Session] = set()
        self._candidates: tuple[list[Session], list[Session]] | None = None  # as of now; a flood costs one look a sweep
        self._sweep()

    def __len__(self) -> int:
        return len(self.all)

    def of(self, client: bytes) -> int:
        """Return how many sessions this client has; an IPv6 client together with its /64."""
        return self._by_holder.get(holder(client), 0)

    def begin(self, session: Session) -> None:
        self.all.add(session)
        self._by_holder[holder(session.client)] = self.of(session.client) + 1
        self._on_count(len(self.all))

    def end(self, session: Session) -> None:
        self.all.discard(session)
        left = self.of(session.client) - 1
        if left:
            self._by_holder[holder(session.client)] = left
        else:
            del self._by_holder[holder(session.client)]
        self._on_count(len(self.all))

    def make_room(self, newcomer: bytes) -> bool:
        """With every place taken, have one session give way: one that gets nowhere, else one of who has most places.

        False: the newcomer must come back later. A client never takes a place from one that has fewer.
        """
        if self._candidates is None:
            self._candidates = self._find_candidates()
        idle, working = self._candidates
        held = self.of(newcomer)
        return self._end_last(idle, held, self._gets_nowhere) or self._end_last(working, held + 2, lambda session: True)

    def _end_last(self, candidates: list[Session], places: int, is_still: Callable[[Session], bool]) -> bool:
        """End the last of these that may go still, if its client has at least so many places; whether it was done."""
        while candidates:
            session = candidates[-1]
            is_good = session in self.all and session.may_go and is_still(session)
            if is_good and self.of(session.client) < places:
                return False
            candidates.pop()
            if is_good:
                session.give_way()
                return True
        return False

    def _gets_nowhere(self, session: Session) -> bool:
        return session.last_heard < self._loop.time() - SPARE_SECONDS

    def _find_candidates(self) -> tuple[list[Session], list[Session]]:
        """Return who gets nowhere and who works, of those that may go, each list with the first to go last."""
        found = [each for each in self.all if each.may_go]
        found.sort(key=lambda each: (self.of(each.client), -each.last_heard))
        idle = [each for each in found if self._gets_nowhere(each)]
        return idle, [each for each in found if not self._gets_nowhere(each)]

    def is_in_data(self) -> bool:
        """Return whether any message is under way."""
        return any(session.is_in_data for session in self.all)

    def stop(self) -> None:
        """End all sessions, each as soon as it may."""
        for session in list(self.all):
            session.stop()
        self._loop.call_later(CLOSE_SECONDS, self._abort_rest)

    def _abort_rest(self) -> None:
        for session in [each for each in self.all if not each.is_in_data]:
            session.abort()

    def _sweep(self) -> None:
        self._candidates = None
        oldest = self._loop.time() - self._timeout()
        for session in [each for each in self.all if each.last_heard < oldest]:
            session.time_out()
        self._loop.call_later(SWEEP_SECONDS, self._sweep)


def progress(last_heard: float, now: float, size: int) -> float:
    """Return when a session got on that was given this many bytes of a message."""
    return min(now, last_heard + size / SLOWEST_RATE)


def client_of(sock: socket.socket) -> bytes:
    """Return the address of the other end; empty if it is gone already."""
    try:
        return normal(sock.getpeername()[0])
    except OSError:
        return b""


def dismiss(sock: socket.socket, last_words: bytes) -> None:
    """Close a connection that gets no session."""
    sock.setblocking(False)
    with contextlib.suppress(OSError):  # it is dismissed all the same
        sock.send(last_words)
    sock.close()
