"""Who waits for which lane, and who is next. Knows limits and turns, not orders.

A lane serves its messages, and a channel its lanes, in the order of their tags (fairness.py): a message with 100,000
recipients delays a small one behind it by an order or two. What may hold its place for long leaves some to the others:
the last quarter of concurrencyremote is for new mail to lanes with nothing in flight, and half of that quarter for
messages with nothing in flight.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from heapq import heappop, heappush, heapreplace
from typing import Any

from qmaild.control.settings import Settings
from qmaild.policy.routes import LOCAL_LANE
from qmaild.scheduler.channels import ANYONE, IDLE_LANE, IDLE_MESSAGE, Channel, Lane
from qmaild.scheduler.fairness import Flow, Share, Stake
from qmaild.scheduler.paces import Paces, Told

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
LAG = 1.0  # a share whose tag is this far behind has waited for its lane: its message has no claim to the turns it missed


class Lanes:
    """All that waits, how much is in flight, and what was learnt about destinations."""

    def __init__(self, settings: Settings) -> None:
        self._lanes: dict[bytes, Lane] = {}
        self._serial = itertools.count(1)
        self.paces = Paces()
        self.local = Channel(True)
        self.remote = Channel(False)
        self.limit(settings)

    def limit(self, settings: Settings) -> None:
        """Use these settings' limits from now on."""
        self.local.bound(settings.concurrencylocal, settings.concurrencylocal)
        self.remote.bound(settings.concurrencyremote, settings.destinationconcurrency)
        for lane in self._lanes.values():
            self._queue_up(lane)

    def _channel(self, name: bytes) -> Channel:
        return self.local if name == LOCAL_LANE else self.remote

    def add(self, name: bytes, job: Any, positions: list[int], is_single: bool, is_retry: bool = False, size: int = 0) -> bool:
        """Let recipients wait in the lane; False if no more of them are kept: the channel is on hold, or too many wait.

        is_single: each recipient needs an order of its own (a VERP sender). is_retry: the message was tried before.
        size: bytes of it in memory.
        """
        channel = self._channel(name)
        lane = self._lanes.get(name)
        stake = channel.stakes.get(job)
        if not _has_room(channel, lane, stake, len(positions)):
            return False
        if lane is None:
            lane = self._lanes[name] = Lane(name, channel, self.paces.use(name))
        if stake is None:
            stake = channel.stakes[job] = Stake(job, channel.retries if is_retry else Flow(), is_retry, size)
        batch = 1 if is_single else LOCAL_BATCH if channel.is_local else REMOTE_BATCH
        share = Share(stake, positions, batch)
        heappush(lane.shares, (stake.flow.tag(channel.clock), next(self._serial), share))
        lane.size += stake.size
        channel.waiting += len(positions)
        if not stake.shares:
            channel.messages += 1
            channel.fresh += not stake.is_retry
            channel.size += stake.size
        stake.shares += 1
        self._queue_up(lane)
        return True

    def is_held(self, name: bytes) -> bool:
        """Whether this lane's channel is on hold."""
        return not self._channel(name).limit

    @property
    def is_ready(self) -> bool:
        """Whether a lane stands in turn (it may still find no room)."""
        return self.local.has_turns or self.remote.has_turns

    def take(self) -> Iterator[tuple[Lane, Any, list[int]]]:
        """Yield (lane, job, positions) of every order that may begin; each counts as in flight from then."""
        for channel in (self.local, self.remote):
            while channel.has_turns and (lane := channel.pop()):
                if (not lane.level or _level(lane) >= lane.level) and not self._catch_up(lane):
                    yield self._begin(lane)
                self._queue_up(lane)

    def _catch_up(self, lane: Lane) -> bool:
        """Give the lane's first share a tag of now if it has waited long while its flow went on elsewhere."""
        tag, _, share = lane.shares[0]
        clock, flow = lane.channel.clock, share.stake.flow
        if tag >= clock - LAG or tag >= flow.clock - 1:
            return False
        heapreplace(lane.shares, (flow.tag(clock), next(self._serial), share))
        return True

    def _begin(self, lane: Lane) -> tuple[Lane, Any, list[int]]:
        channel = lane.channel
        tag, _, share = lane.shares[0]
        stake = share.stake
        key = max(tag, lane.clock)
        lane.clock = key + 1
        positions = share.take(channel.limit - channel.busy if channel.is_local else REMOTE_BATCH)
        cost = len(positions) if channel.is_local else 1
        lane.busy += cost
        channel.busy += cost
        channel.waiting -= len(positions)
        stake.busy += 1
        channel.go_on()
        if share.left:
            heapreplace(lane.shares, (stake.flow.tag(channel.clock), next(self._serial), share))
        else:
            heappop(lane.shares)
            lane.size -= stake.size
            _leave(channel, stake)
        return lane, stake.job, positions

    def ended(self, lane: Lane, job: Any, recipients: int) -> None:
        """An order of this lane for so many of the job's recipients is over."""
        channel = lane.channel
        cost = recipients if channel.is_local else 1
        lane.busy -= cost
        channel.busy -= cost
        stake = channel.stakes[job]
        stake.busy -= 1
        if not stake.busy and not stake.shares:
            del channel.stakes[job]
        self._queue_up(lane)
        self._drop_if_idle(lane)

    def learn(self, lane: Lane, told: Told, order: int, newest: int, now: int) -> bool:
        """An order of this lane told something, before it ended; return whether nothing goes there for a while."""
        if lane.channel.is_local:
            return False
        was_full = lane.is_full
        return lane.pace.learn(told, order, newest, was_full, now)

    def drain(self, lane: Lane) -> list[tuple[Any, list[int]]]:
        """Return (job, positions) of what waits in the lane, which has mail or an order in flight; it waits no more."""
        waiting = [(share.stake.job, share.positions[share.next :]) for _, _, share in sorted(lane.shares)]
        for _, _, share in lane.shares:
            lane.channel.waiting -= share.left
            _leave(lane.channel, share.stake)
        lane.shares.clear()
        lane.size = 0
        lane.channel.void(lane)
        self._drop_if_idle(lane)
        return waiting

    def clear(self) -> list[tuple[Any, list[int]]]:
        """Return (job, positions) of all that waits; it waits no more. What is in flight stays."""
        return list(itertools.chain.from_iterable([self.drain(lane) for lane in list(self._lanes.values())]))

    @property
    def waiting(self) -> int:
        """Recipients that wait for their turn."""
        return self.local.waiting + self.remote.waiting

    def _drop_if_idle(self, lane: Lane) -> None:
        if not lane.busy and not lane.shares:
            del self._lanes[lane.name]
            self.paces.rest(lane.name)

    def _queue_up(self, lane: Lane) -> None:
        """Give the lane its place in its channel's heaps, if it may begin an order."""
        if not lane.shares or lane.is_full:
            lane.channel.void(lane)
            return
        key, level = max(lane.shares[0][0], lane.clock), _level(lane)
        if not lane.entry or key != lane.key or level != lane.level:
            lane.channel.push(lane, next(self._serial), key, level)


def _has_room(channel: Channel, lane: Lane | None, stake: Stake | None, recipients: int) -> bool:
    if not channel.limit and channel.waiting + recipients > MAX_HELD:
        return False
    if lane is not None and (len(lane.shares) >= MAX_LANE or lane.size >= MAX_LANE_BYTES):
        return False
    if channel.is_local or (stake and stake.shares):  # a message that waits in several lanes is in memory once
        return True
    return channel.messages < MAX_REMOTE and channel.size < MAX_REMOTE_BYTES


def _leave(channel: Channel, stake: Stake) -> None:
    """The message waits in one lane less."""
    stake.shares -= 1
    if not stake.shares:
        channel.messages -= 1
        channel.fresh -= not stake.is_retry
        channel.size -= stake.size
        if channel.messages == channel.fresh:
            channel.retries.clock = 0.0  # the next retry stands behind nobody
        if not stake.busy:
            del channel.stakes[stake.job]


def _level(lane: Lane) -> int:
    """Return up to which bound the lane's next order may begin."""
    stake = lane.shares[0][2].stake
    if lane.channel.is_local or lane.busy or stake.is_retry or lane.pace.is_doubtful:
        return ANYONE
    return IDLE_LANE if stake.busy else IDLE_MESSAGE
