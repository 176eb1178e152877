"""When a recipient is tried again, and when no more. Knows ages and the channel; no clock, no chance."""

from __future__ import annotations

from math import isqrt

SECOND = 1_000_000  # all times are microseconds since the epoch
LOCAL_SKIP, REMOTE_SKIP = 10, 20
MAX_JITTER = 0.1  # of the interval: what failed together does not come back together
HOLD_SECONDS = 300  # a channel on hold is looked at again after this
CROWD_SECONDS = 30  # a destination with too much waiting is given more after this
TROUBLE_SECONDS = 60  # our own services are back long before the curve would ask them again


def next_attempt(birth: int, now: int, is_local: bool, jitter: float) -> int:
    """Return when to try again: at age (floor(sqrt(age)) + skip)^2 seconds, or a tenth of the wait later.

    jitter is a number from 0 to 1. The floor keeps qmail's sequence: a late attempt does not shift the rest.
    """
    age = max(0, now - birth) // SECOND
    wait = (isqrt(age) + (LOCAL_SKIP if is_local else REMOTE_SKIP)) ** 2 - age
    return max(birth, now - (now - birth) % SECOND) + wait * SECOND + int(wait * SECOND * MAX_JITTER * jitter)


def after_trouble(birth: int, now: int, is_local: bool, jitter: float) -> int:
    """Return when to try again after an attempt that never took place, because a service of ours was lost."""
    return min(next_attempt(birth, now, is_local, jitter), now + TROUBLE_SECONDS * SECOND)


def after_hold(now: int, jitter: float) -> int:
    """Return when to look again whether the channel is still on hold."""
    return now + int(HOLD_SECONDS * SECOND * (1 + MAX_JITTER * jitter))


def after_crowd(now: int, jitter: float) -> int:
    """Return when to try what found too many before it."""
    return now + int(CROWD_SECONDS * SECOND * (1 + MAX_JITTER * jitter))


def is_retry(birth: int, now: int, is_local: bool) -> bool:
    """Return whether a message of this age may have been tried before: the curve's first retry is not earlier."""
    return now - birth >= (LOCAL_SKIP if is_local else REMOTE_SKIP) ** 2 * SECOND


def is_last(birth: int, started: int, lifetime: int) -> bool:
    """Return whether an attempt started then is the last: the lifetime (seconds) was strictly over."""
    return started > birth + lifetime * SECOND
