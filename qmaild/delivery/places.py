"""Connections by what they are used for: an order of their lane, or idle until the next. Knows no bytes and no time."""

from __future__ import annotations

from qmaild.delivery.orders import Work
from qmaild.delivery.smtp import Connection


class Place:
    """A connection in use or idle, and the order it serves."""

    __slots__ = ("connection", "is_stale", "lane", "work")

    def __init__(self, lane: bytes, work: Work) -> None:
        self.lane = lane
        self.work: Work | None = work
        self.is_stale = False  # the server had left before it saw the transaction
        self.connection: Connection | None = None


class Idle:
    """The places of connections that wait for the next order of their lane."""

    def __init__(self) -> None:
        self._lanes: dict[bytes, list[Place]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def keep(self, place: Place) -> None:
        self._lanes.setdefault(place.lane, []).append(place)
        self._count += 1

    def take(self, lane: bytes) -> Place | None:
        """Return the one of this lane that was used last, which is idle no more: the others may end. None if there is none."""
        places = self._lanes.get(lane)
        if not places:
            return None
        place = places[-1]
        self.leave(place)
        return place

    def leave(self, place: Place) -> None:
        """This one is idle no more, if it was."""
        places = self._lanes.get(place.lane)
        if places and place in places:
            places.remove(place)
            self._count -= 1
            if not places:
                del self._lanes[place.lane]

    def first(self) -> Place:
        """Return one of the lane that has had an idle connection for longest."""
        return next(iter(self._lanes.values()))[0]

    def all(self) -> list[Place]:
        return [place for places in self._lanes.values() for place in places]
