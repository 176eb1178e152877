"""The sessions of one door: how many, whose, and which have been silent for too long. Knows no protocol."""

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

normal = functools.lru_cache(maxsize=4096)(clients.normal)


class Session(Protocol):
    """What a door's session is to its door."""

    client: bytes
    last_heard: float

    @property
    def is_in_data(self) -> bool:
        """A message is under way: a stop waits for it."""

    def stop(self) -> None:
        """End as soon as no message is under way."""

    def time_out(self) -> None:
        """The client was silent for too long."""

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
        self._by_client: dict[bytes, int] = {}
        self.all: set[Session] = set()
        self._sweep()

    def __len__(self) -> int:
        return len(self.all)

    def of(self, client: bytes) -> int:
        """Return how many sessions this client has."""
        return self._by_client.get(client, 0)

    def begin(self, session: Session) -> None:
        self.all.add(session)
        self._by_client[session.client] = self.of(session.client) + 1
        self._on_count(len(self.all))

    def end(self, session: Session) -> None:
        self.all.discard(session)
        left = self._by_client[session.client] - 1
        if left:
            self._by_client[session.client] = left
        else:
            del self._by_client[session.client]
        self._on_count(len(self.all))

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
        oldest = self._loop.time() - self._timeout()
        for session in [each for each in self.all if each.last_heard < oldest]:
            session.time_out()
        self._loop.call_later(SWEEP_SECONDS, self._sweep)


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
