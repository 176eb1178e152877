"""How much each destination takes at a time, learnt from what came of its orders. Knows no order and no message.

A destination begins with few orders at a time. While all of them are in use, each success allows one more; trouble
halves them, and after trouble they grow by one a round. One that fails again and again at a single order is dead
for a while, which doubles as long as the one order that goes then fails too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from qmaild.policy.retry import SECOND
from qmaild.scheduler.evidence import Evidence

FIRST_LIMIT = 5
MAX_LIMIT = 1 << 20  # above any setting: a limit grows only while it is in use
FAILURES = 3  # in a row, one at a time: then the destination is dead
FIRST_DEAD, LONGEST_DEAD = 60 * SECOND, 960 * SECOND
SLOW = 60 * SECOND  # an order that took longer marks its destination as slow
MAX_RESTING = 20_000  # destinations without mail of which something is remembered
MAX_TEXT = 200  # bytes remembered of what went wrong last


class Told(NamedTuple):
    """What one order told, in how many microseconds, and the peer's or dial's words."""

    evidence: Evidence
    took: int
    text: bytes


class Pace:
    """One destination. limit is fractional while it grows by rounds; failures: in a row, with no answer between."""

    __slots__ = ("_deaths", "_growth", "_singles", "dead_since", "dead_until", "failures", "is_slow", "limit", "round", "text")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.limit = float(FIRST_LIMIT)
        self.failures = 0
        self.dead_since = self.dead_until = 0
        self.is_slow = False
        self.round = 0  # orders up to this number began before the last shrinking
        self.text = b""
        self._growth = float(MAX_LIMIT)  # below this limit each success adds one
        self._singles = 0  # failures in a row while only one order was allowed
        self._deaths = 0

    def is_dead(self, now: int) -> bool:
        """Return whether it is too early to try again. A clock that was put back revives the dead."""
        return self.dead_since <= now < self.dead_until

    @property
    def is_probing(self) -> bool:
        """Whether an order that goes now is to find out if a dead destination is back."""
        return self._deaths > 0

    @property
    def is_doubtful(self) -> bool:
        """Whether an order may well hold its place for long: the last ones failed or were slow."""
        return self.failures > 0 or self.is_slow

    @property
    def is_unmarked(self) -> bool:
        """Whether there is nothing to remember."""
        return self.limit == FIRST_LIMIT and not self.is_doubtful

    def learn(self, told: Told, order: int, newest: int, is_full: bool, now: int) -> bool:
        """Take in what an order told; return whether the destination is dead from now on.

        order and newest are numbers of orders: this one's and the last begun. is_full: no further order was allowed
        beside it. What began before the last shrinking tells nothing new about the smaller limit.
        """
        evidence = told.evidence
        if evidence is Evidence.NONE:
            return False
        self.is_slow = told.took > SLOW
        if evidence is not Evidence.BAD:
            self.failures = self._singles = self._deaths = 0
            self.dead_until = 0
        if evidence is Evidence.GOOD and is_full:
            self.limit = min(self.limit + (1 if self.limit < self._growth else 1 / self.limit), MAX_LIMIT)
        if evidence < Evidence.PRESSURE:
            return False
        self.text = told.text[:MAX_TEXT]
        if order <= self.round or self.is_dead(now):
            return False
        if evidence is Evidence.BAD:
            self.failures += 1
            self._singles += self.limit == 1
        self.limit = self._growth = float(max(1, int(self.limit) // 2))
        self.round = newest
        return self._singles >= FAILURES and self._die(now)

    def _die(self, now: int) -> bool:
        self.dead_since = now
        self.dead_until = now + min(FIRST_DEAD << min(self._deaths, 10), LONGEST_DEAD)
        self._deaths += 1
        return True


class Paces:
    """Every destination's pace: of those in use, and of as many others as fit, the longest unused forgotten first."""

    def __init__(self) -> None:
        self._used: dict[bytes, Pace] = {}
        self._resting: OrderedDict[bytes, Pace] = OrderedDict()

    def use(self, name: bytes) -> Pace:
        """Return the pace of a destination that has mail from now on."""
        pace = self._used.get(name) or self._resting.pop(name, None) or Pace()
        self._used[name] = pace
        return pace

    def rest(self, name: bytes) -> None:
        """This destination has no mail any more."""
        pace = self._used.pop(name)
        if pace.is_unmarked:
            return
        self._resting[name] = pace
        if len(self._resting) > MAX_RESTING:
            self._resting.popitem(last=False)

    def is_dead(self, name: bytes, now: int) -> bool:
        """Return whether nothing goes to this destination now."""
        pace = self._used.get(name)
        if pace is None:
            pace = self._resting.get(name)
            if pace is None:
                return False
            self._resting.move_to_end(name)
        return pace.is_dead(now)

    def forget(self, name: bytes) -> None:
        """What was learnt under this name is about another host."""
        self._resting.pop(name, None)
        if name in self._used:
            self._used[name].reset()

    def revive(self) -> int:
        """Let every dead destination be tried at once; return how many there were."""
        dead = [pace for _, pace in self if pace.dead_until]
        for pace in dead:
            pace.dead_until = 0
        return len(dead)

    def lines(self, now: int, count: int) -> list[str]:
        """Return one line for each of the destinations that take least, as people read it."""
        marked = [(not pace.is_dead(now), pace.limit, name, pace) for name, pace in self if pace.text]
        return [_line(name, pace, now) for _, _, name, pace in sorted(marked, key=lambda each: each[:3])[:count]]

    def __iter__(self) -> Iterator[tuple[bytes, Pace]]:
        yield from self._used.items()
        yield from self._resting.items()


def _line(name: bytes, pace: Pace, now: int) -> str:
    what = f"{int(pace.limit)} at a time"
    if pace.is_dead(now):
        what = f"left alone for {-((now - pace.dead_until) // SECOND)} seconds"
    failed = f", {pace.failures} failures in a row" if pace.failures else ""
    name, text = name.partition(b":")[2], pace.text.replace(b"\n", b"/")
    return f"{name.decode(errors='replace')}: {what}{failed}; lately: {text.decode(errors='replace')}"
