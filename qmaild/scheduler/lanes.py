"""Who waits for which lane, and who is next. Knows limits and turns, not orders.

A lane serves its jobs in turn, an order at a time, and a channel serves its lanes in turn: a message with
100,000 recipients delays a small one behind it by one order, and a slow destination delays nobody else.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from typing import Any

from qmaild.control.settings import Settings
from qmaild.policy.routes import LOCAL_LANE

LOCAL_BATCH = 50  # recipients of one order: local answers when the slowest of them has ended
MAX_HELD = 1000  # recipients of a channel on hold in memory; more would fill the queue's window for the other
# Messages of one lane, and of all remote lanes, that wait in memory: the queue hands out 10,000 at a time, and slow
# destinations must leave room for what can be delivered at once.
MAX_LANE = 4000
MAX_REMOTE = 8000
# Bytes of their contents, likewise: the queue hands out 64 MiB at a time.
MAX_LANE_BYTES = 12 << 20
MAX_REMOTE_BYTES = 24 << 20
REMOTE_BATCH = 100  # what RFC 5321 4.5.3.1.8 obliges every server to take in one transaction


@dataclasses.dataclass(slots=True, eq=False)
class Share:
    """Positions of one job that wait in one lane; those before `next` are taken. batch bounds one order."""

    job: Any
    positions: list[int]
    batch: int
    size: int
    next: int = 0

    def take(self, room: int) -> list[int]:
        begin = self.next
        self.next = min(begin + room, begin + self.batch, len(self.positions))
        return self.positions[begin : self.next]

    @property
    def left(self) -> int:
        return len(self.positions) - self.next


@dataclasses.dataclass(slots=True, eq=False)
class Lane:
    """size: bytes of what waits; busy: orders in flight (recipients in the local lane); is_in_turn: it stands in its
    channel's round.
    """

    name: bytes
    channel: Channel
    shares: deque[Share] = dataclasses.field(default_factory=deque)
    size: int = 0
    busy: int = 0
    is_in_turn: bool = False


@dataclasses.dataclass(slots=True, eq=False)
class Channel:
    """local or remote: limit and lane_limit bound what is in flight: recipients if local, else orders.

    waiting counts recipients that wait for their turn, shares the messages they are of, once for each lane; size is
    the bytes of these.
    """

    is_local: bool
    limit: int = 0
    lane_limit: int = 0
    busy: int = 0
    waiting: int = 0
    shares: int = 0
    size: int = 0
    turns: deque[Lane] = dataclasses.field(default_factory=deque)


class Lanes:
    """All that waits, and how much is in flight."""

    def __init__(self, settings: Settings) -> None:
        self._lanes: dict[bytes, Lane] = {}
        self.local = Channel(True)
        self.remote = Channel(False)
        self.limit(settings)

    def limit(self, settings: Settings) -> None:
        """Use these settings' limits from now on."""
        self.local.limit = self.local.lane_limit = settings.concurrencylocal
        self.remote.limit = settings.concurrencyremote
        self.remote.lane_limit = max(1, settings.destinationconcurrency)
        for lane in self._lanes.values():
            self._queue_up(lane)

    def add(self, name: bytes, job: Any, positions: list[int], is_single: bool, size: int = 0) -> bool:
        """Let recipients wait in the lane; False if no more of them are kept: the channel is on hold, or too many wait.

        is_single: each recipient needs an order of its own (a VERP sender). size: bytes of the message in memory.
        """
        channel = self.local if name == LOCAL_LANE else self.remote
        if not channel.limit and channel.waiting + len(positions) > MAX_HELD:
            return False
        lane = self._lanes.get(name)
        if lane is not None and (len(lane.shares) >= MAX_LANE or lane.size >= MAX_LANE_BYTES):
            return False
        if not channel.is_local and (channel.shares >= MAX_REMOTE or channel.size >= MAX_REMOTE_BYTES):
            return False
        if lane is None:
            lane = self._lanes[name] = Lane(name, channel)
        batch = 1 if is_single else LOCAL_BATCH if channel.is_local else REMOTE_BATCH
        lane.shares.append(Share(job, positions, batch, size))
        lane.size += size
        channel.waiting += len(positions)
        channel.shares += 1
        channel.size += size
        self._queue_up(lane)
        return True

    def is_held(self, name: bytes) -> bool:
        """Whether this lane's channel is on hold."""
        return not (self.local if name == LOCAL_LANE else self.remote).limit

    @property
    def is_ready(self) -> bool:
        """Whether a lane stands in turn (its channel may still have no room)."""
        return bool(self.local.turns or self.remote.turns)

    def take(self) -> Iterator[tuple[Lane, Any, list[int]]]:
        """Yield (lane, job, positions) of every order that may start; each counts as in flight from then."""
        for channel in (self.local, self.remote):
            while channel.turns and channel.busy < channel.limit:
                lane = channel.turns.popleft()
                lane.is_in_turn = False
                share = lane.shares.popleft()
                positions = share.take(channel.limit - channel.busy if channel.is_local else REMOTE_BATCH)
                if share.left:
                    lane.shares.append(share)
                else:
                    lane.size -= share.size
                    channel.shares -= 1
                    channel.size -= share.size
                cost = len(positions) if channel.is_local else 1
                lane.busy += cost
                channel.busy += cost
                channel.waiting -= len(positions)
                self._queue_up(lane)
                yield lane, share.job, positions

    def ended(self, lane: Lane, recipients: int) -> None:
        """An order of this lane for so many recipients is over."""
        cost = recipients if lane.channel.is_local else 1
        lane.busy -= cost
        lane.channel.busy -= cost
        self._queue_up(lane)
        if not lane.busy and not lane.shares:
            del self._lanes[lane.name]

    def clear(self) -> list[tuple[Any, list[int]]]:
        """Return (job, positions) of all that waits; it waits no more. What is in flight stays."""
        waiting = [(share.job, share.positions[share.next :]) for lane in self._lanes.values() for share in lane.shares]
        for lane in self._lanes.values():
            lane.shares.clear()
            lane.size = 0
            lane.is_in_turn = False
        for channel in (self.local, self.remote):
            channel.turns.clear()
            channel.waiting = channel.shares = channel.size = 0
        self._lanes = {name: lane for name, lane in self._lanes.items() if lane.busy}
        return waiting

    @property
    def waiting(self) -> int:
        """Recipients that wait for their turn."""
        return self.local.waiting + self.remote.waiting

    def _queue_up(self, lane: Lane) -> None:
        if lane.shares and not lane.is_in_turn and lane.busy < lane.channel.lane_limit:
            lane.is_in_turn = True
            lane.channel.turns.append(lane)
