"""Group commit as the loop sees it: who waits for which commit, and telling them when it is durable or lost."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from qmaild.queue.store import Store
from qmaild.runtime import poller

Decided = Callable[[bool], None]


class Commits:
    """One commit for all that was appended in a loop tick. on_durable runs after each round of decisions."""

    def __init__(self, loop: asyncio.AbstractEventLoop, store: Store) -> None:
        self._store = store
        self._fresh: list[Decided] = []
        self._waiting: deque[tuple[int, list[Decided]]] = deque()
        self._decided = 0  # the last ticket whose waiters were told
        self._kicked = False
        self.staged: dict[int, Decided] = {}  # large files whose own sync is under way
        self.on_durable: Callable[[], None] = lambda: None
        self.on_failure: Callable[[], None] = lambda: None
        self._poller = poller.of(loop)
        self._poller.watch(store.eventfd, self, poller.READ)

    @property
    def is_waiting(self) -> bool:
        return bool(self._fresh or self._waiting or self.staged)

    def kick(self) -> None:
        """Something was appended: commit at the end of this tick, with all else the tick brings."""
        if not self._kicked:
            self._kicked = True
            self._poller.at_end(self._commit)

    def wait(self, decided: Decided) -> None:
        """Call decided(is_durable) for what was just appended."""
        self._fresh.append(decided)
        self.kick()

    def _commit(self) -> None:
        self._kicked = False
        ticket = self._store.commit()
        if self._fresh:
            self._waiting.append((ticket, self._fresh))
            self._fresh = []

    def writable(self) -> None:
        """Nobody waits for that."""

    def readable(self) -> None:
        """The core has decided something."""
        collected = self._store.collect()
        while self._waiting and self._waiting[0][0] <= collected.durable:
            ticket, waiting = self._waiting.popleft()
            # I1: one lost record fails the tick it came in; what of it was durable after all comes twice at worst.
            is_durable = not any(self._decided < lost <= ticket for lost in collected.failed)
            self._decided = ticket
            for decided in waiting:
                decided(is_durable)
        for number in collected.staged:
            self.staged.pop(number, _ignore)(True)
        for number in collected.staged_failed:
            self.staged.pop(number, _ignore)(False)
        if collected.failed or collected.staged_failed:
            self.on_failure()
        self.on_durable()


def _ignore(is_durable: bool) -> None:
    return None
