"""Turns: how much of a service one user may have at a time. Knows uids and counts, not what a turn is for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

Begin = Callable[[], None]


class Turns:
    """At most `limit` turns of one uid at a time; the others wait in the order they came."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._active: dict[int, int] = {}
        self._waiting: dict[int, deque[Begin]] = {}

    @property
    def active(self) -> int:
        return sum(self._active.values())

    def take(self, uid: int, begin: Begin) -> None:
        """Call begin when it is this one's turn: now, or when others have given theirs back."""
        active = self._active.get(uid, 0)
        if active < self._limit:
            self._active[uid] = active + 1
            begin()
        else:
            self._waiting.setdefault(uid, deque()).append(begin)

    def give(self, uid: int) -> None:
        """A turn is over: the next in line has it."""
        queue = self._waiting.get(uid)
        if queue:
            begin = queue.popleft()
            if not queue:
                del self._waiting[uid]
            begin()
            return
        self._active[uid] -= 1
        if not self._active[uid]:
            del self._active[uid]

    def withdraw(self, uid: int, begin: Begin) -> None:
        """This one waits no longer."""
        queue = self._waiting[uid]
        queue.remove(begin)
        if not queue:
            del self._waiting[uid]
