"""The lanes of a channel in the order of their turns, and how much is in flight. Knows heaps and bounds; not what waits."""

from __future__ import annotations

import dataclasses
import math
from heapq import heapify, heappop, heappush
from typing import Any

from qmaild.scheduler.fairness import Flow, Share, Stake
from qmaild.scheduler.paces import Pace

MAX_VOIDED = 10_000  # places in the heaps that are not valid any more

ANYONE, IDLE_LANE, IDLE_MESSAGE = range(3)  # who may begin an order: below which of a channel's bounds


@dataclasses.dataclass(slots=True, eq=False)
class Lane:
    """shares: a heap of (tag, serial, share). size: bytes of what waits; busy: orders in flight (recipients in the local
    lane); clock: the tag of its next order at the least. entry: serial of its place in its channel's heaps, 0 for none.
    """

    name: bytes
    channel: Channel
    pace: Pace
    shares: list[tuple[float, int, Share]] = dataclasses.field(default_factory=list)
    size: int = 0
    busy: int = 0
    clock: float = 0.0
    entry: int = 0
    key: float = 0.0
    level: int = ANYONE

    @property
    def is_full(self) -> bool:
        """Whether no further order may begin now."""
        limit = self.channel.limit if self.channel.is_local else min(self.channel.ceiling, int(self.pace.limit))
        return self.busy >= limit


@dataclasses.dataclass(slots=True, eq=False)
class Channel:
    """local or remote: limit and each lane's ceiling bound what is in flight: recipients if local, else orders.

    waiting counts recipients that wait for their turn, messages those they are of, fresh those of these that are no
    retries; size is the bytes of these. heaps has (key, serial, lane) of the lanes that may begin an order, by level.
    """

    is_local: bool
    limit: int = 0
    ceiling: int = 0
    bounds: tuple[int, int, int] = (0, 0, 0)
    busy: int = 0
    waiting: int = 0
    messages: int = 0
    fresh: int = 0
    size: int = 0
    clock: float = 0.0
    voided: int = 0
    retries: Flow = dataclasses.field(default_factory=Flow)
    stakes: dict[Any, Stake] = dataclasses.field(default_factory=dict)
    heaps: tuple[list[tuple[float, int, Lane]], ...] = dataclasses.field(default_factory=lambda: ([], [], []))

    def bound(self, limit: int, ceiling: int) -> None:
        self.limit, self.ceiling = limit, max(1, ceiling)
        self.bounds = (limit,) * 3 if self.is_local else (limit - limit // 4, limit - limit // 8, limit)

    @property
    def has_turns(self) -> bool:
        """Whether a lane stands in turn, and a place is free."""
        below, idle, lone = self.heaps
        return bool(below or idle or lone) and self.busy < self.limit

    def pop(self) -> Lane | None:
        """Return the lane whose turn it is, out of the heaps; None if none may begin an order now."""
        best: list[tuple[float, int, Lane]] | None = None
        for level, heap in enumerate(self.heaps):
            if not heap or self.busy >= self.bounds[level]:
                continue
            if heap[0][2].entry != heap[0][1]:
                self._clean(heap)
            if heap and (best is None or heap[0] < best[0]):
                best = heap
        if best is None:
            return None
        lane = heappop(best)[2]
        lane.entry = 0
        return lane

    def push(self, lane: Lane, serial: int, key: float, level: int) -> None:
        """Give the lane this place in place of any other."""
        self.void(lane)
        lane.entry, lane.key, lane.level = serial, key, level
        heappush(self.heaps[level], (key, serial, lane))

    def void(self, lane: Lane) -> None:
        """The lane has no place in the heaps any more. What stands there of it goes when it comes to the top."""
        if not lane.entry:
            return
        lane.entry = 0
        self.voided += 1
        if self.voided > MAX_VOIDED:
            for heap in self.heaps:
                heap[:] = [entry for entry in heap if entry[2].entry == entry[1]]
                heapify(heap)
            self.voided = 0

    def _clean(self, heap: list[tuple[float, int, Lane]]) -> None:
        while heap and heap[0][2].entry != heap[0][1]:
            heappop(heap)
            self.voided -= 1

    def go_on(self) -> None:
        """An order has begun. Each message that waits has had its part of it; if all are ahead, the clock catches up."""
        self.clock += 1 / (self.fresh + 1)
        least = math.inf
        for heap in self.heaps:
            if heap and heap[0][2].entry != heap[0][1]:
                self._clean(heap)
            if heap and heap[0][0] < least:
                least = heap[0][0]
        if self.clock < least < math.inf:
            self.clock = least
