"""The time of day as the queue believes it: what a clock that was set does to the age of messages, and how it is noticed.

Times are kept in the queue as microseconds since the epoch, so that they survive a reboot. A clock that is set
meanwhile must not make yesterday's message look a month old and bounce, nor one that waits look as if it had to wait
until next month. What a clock does while the machine is suspended is no jump: that time has passed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SECOND = 1_000_000
JUMP = 60 * SECOND  # less changes nothing that matters; a clock that is disciplined stays far below


def wall() -> int:
    return time.time_ns() // 1000


def steady() -> int:
    """What passes however the clock is set, a suspended machine's time included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class Clock:
    """now() gives the time of day; a jump since the last call is told to on_jump(microseconds) first."""

    def __init__(self, wall: Callable[[], int] = wall, steady: Callable[[], int] = steady) -> None:
        self._wall = wall
        self._steady = steady
        self._ahead = wall() - steady()
        self._jumps: list[tuple[int, int]] = []  # forward: (when, by the clock as it was; how far)
        self.on_jump: Callable[[int], None] = lambda jump: None

    def now(self) -> int:
        now, steady = self._wall(), self._steady()
        jump = now - steady - self._ahead
        if abs(jump) >= JUMP:
            if jump > 0:
                self._jumps.append((steady + self._ahead, jump))
            self._ahead += jump
            self.on_jump(jump)
        return now

    def believed(self, birth: int) -> int:
        """Return since when a message is here, by the clock as it is now."""
        for when, jump in self._jumps:
            if birth <= when:
                birth += jump
        return min(birth, self._wall())
