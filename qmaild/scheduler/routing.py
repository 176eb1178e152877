"""Recipients on their way into lanes: grouped by lane first, a slice at a time. Knows routes, not who is next.

A message with 100,000 recipients takes hundreds of milliseconds to route; in slices, whatever else happens goes on
between them.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from qmaild.control.settings import Settings
from qmaild.policy import routes
from qmaild.policy.recipients import rewrite
from qmaild.scheduler.attempts import Job

SLICE = 1500  # units of work in one go: about 10 ms
LOOK = 1  # units to find one recipient's lane
PLACE = 3  # to let one lane's recipients wait there
PUT_OFF = 10  # to answer and record one recipient that is not tried now
MAX_PUT_OFF = 500  # of one group that come out of a routing at a time


def lane_of(job: Job, position: int, settings: Settings) -> bytes:
    """Rewrite a recipient and return its lane (rule 12: from the settings of now)."""
    target = rewrite(job.frame.recipients[position], settings)
    job.addresses[position] = target.address
    return routes.lane_of(target, settings.smtproutes)


class Group(NamedTuple):
    """Recipients of one job for one lane."""

    lane: bytes
    positions: list[int]


class Routing:
    """One job's recipients. Everyone is unseen, in a group that waits to be placed, or given out by next_group."""

    def __init__(self, job: Job, positions: list[int]) -> None:
        self.job = job
        self._unseen = deque(positions)
        self._groups: dict[bytes, list[int]] = {}
        self._pending = 0

    @property
    def left(self) -> int:
        """Recipients not given out yet."""
        return len(self._unseen) + self._pending

    def look(self, settings: Settings, count: int) -> int:
        """Find the lanes of so many recipients more; return how many those were."""
        unseen, job, groups = self._unseen, self.job, self._groups
        count = min(count, len(unseen))
        for _ in range(count):
            position = unseen.popleft()
            groups.setdefault(lane_of(job, position, settings), []).append(position)
        self._pending += count
        return count

    def next_group(self) -> Group | None:
        """Return recipients to be placed; None while some are unseen: what goes to one lane shares orders."""
        if self._unseen or not self._groups:
            return None
        lane = next(iter(self._groups))
        positions = self._groups.pop(lane)
        self._pending -= len(positions)
        return Group(lane, positions)

    def put_back(self, group: Group) -> None:
        """These come again with the next group."""
        self._groups[group.lane] = group.positions
        self._pending += len(group.positions)

    def begin_again(self) -> None:
        """The settings have changed."""
        for positions in self._groups.values():
            self._unseen.extend(positions)
        self._groups.clear()
        self._pending = 0
