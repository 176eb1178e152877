"""Whose turn it is: start-time fair queueing over messages. Knows clocks that count orders; no lane, no limit.

Each message is a flow, and all retries of a channel together are one: their number never holds up new mail. A flow's
clock counts the orders it was promised; the channel's clock follows the orders that begin. What waits is served in the
order of its tags, so a message with 100,000 recipients has the same turn as one that has a single recipient.
"""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(slots=True, eq=False)
class Flow:
    """clock: the tag of its next order, unless the channel's clock is ahead of it."""

    clock: float = 0.0

    def tag(self, clock: float) -> float:
        """Return the tag of one more order, with the channel's clock as it stands."""
        tag = max(clock, self.clock)
        self.clock = tag + 1
        return tag


@dataclasses.dataclass(slots=True, eq=False)
class Stake:
    """One message in one channel. shares: lanes it waits in; busy: its orders in flight; size: bytes it has in memory."""

    job: Any
    flow: Flow
    is_retry: bool
    size: int
    shares: int = 0
    busy: int = 0


@dataclasses.dataclass(slots=True, eq=False)
class Share:
    """Positions of one job that wait in one lane; those before `next` are taken. batch bounds one order."""

    stake: Stake
    positions: list[int]
    batch: int
    next: int = 0

    def take(self, room: int) -> list[int]:
        begin = self.next
        self.next = min(begin + room, begin + self.batch, len(self.positions))
        return self.positions[begin : self.next]

    @property
    def left(self) -> int:
        return len(self.positions) - self.next
