"""Turns: how much of a service one user may have at a time. Knows uids and counts, not what a turn is for."""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """At most `limit` turns of one uid at a time; `waiting` more wait in the order they came."""

    def __init__(self, limit: int, waiting: int) -> None:
        self._limit = limit
        self._most_waiting = waiting
        self._active: dict[int, int] = {}
        self._waiting: dict[int, deque[asyncio.Future[None]]] = {}

    @property
    def active(self) -> int:
        return sum(self._active.values())

    async def take(self, uid: int) -> bool:
        """Wait for a turn. False: too many wait already."""
        active = self._active.get(uid, 0)
        if active < self._limit:
            self._active[uid] = active + 1
            return True
        queue = self._waiting.setdefault(uid, deque())
        if len(queue) >= self._most_waiting:
            return False
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        await turn  # the turn is handed over: the count stays
        return True

    def give(self, uid: int) -> None:
        """A turn is over: the next in line has it."""
        queue = self._waiting.get(uid)
        if queue:
            queue.popleft().set_result(None)
            if not queue:
                del self._waiting[uid]
            return
        self._active[uid] -= 1
        if not self._active[uid]:
            del self._active[uid]
