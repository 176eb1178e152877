"""Restarts and an upgrade under load, as those see them who send: every unit in turn, then a later version of the packages.

    /usr/bin/python3 -m tests.system.restarts --rounds 5          (make restarts ROUNDS=5)

Promise: no connection is refused, reset or closed without a word; a session ends by its own QUIT or with a 421 between
two commands, a message under way is taken (the doors give it SLOW_SECONDS and more); every acknowledged message arrives;
sendmail succeeds each time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from qmaild.runtime.running import SERVICES

from .hosts import Host
from .load import Comparison, Cut, Kind, Load, Outcomes, Plan, compare, copies_in
from .machines import prepare, unavailable
from .packages import build_packages
from .storm import House, Storm, house

SLOW_SECONDS = 3.0  # that the contents of a slow sender's message take: a door's stop waits for them
ENDLESS = 1_000_000
NOTHING = Storm(messages=0, seed=1, stops=0)


@dataclass(slots=True)
class Result:
    """What the senders saw. `events` are what was done, and when."""

    found: Comparison
    outcomes: dict[str, Outcomes]
    events: list[tuple[float, str]]

    @property
    def sessions(self) -> Counter[str]:
        return sum((each.sessions for each in self.outcomes.values()), Counter())

    @property
    def broken(self) -> list[str]:
        """Sessions that ended in a way that a sender must not see, and what was going on."""
        return [f"{name}: {cut.how} after {cut.state} at {cut.time:.2f} ({self.what_was_on(cut.time)})"
                for name, each in self.outcomes.items() for cut in each.ends if is_broken(cut)]  # fmt: skip

    @property
    def refusals(self) -> list[str]:
        return [f"{name}: {count} times {text}" for name, each in self.outcomes.items()
                for text, count in each.refusals.items()]  # fmt: skip

    @property
    def problems(self) -> list[str]:
        return [*self.broken, *self.refusals, *(f"lost: {each}" for each in self.found.lost),
                *(f"damaged: {each}" for each in self.found.damaged)]  # fmt: skip

    def what_was_on(self, moment: float) -> str:
        begun = [what for at, what in self.events if at <= moment]
        return begun[-1] if begun else "nothing yet"

    def lines(self) -> list[str]:
        """The report: a name and a value each."""
        found, sessions = self.found, self.sessions
        facts = {
            "events": len(self.events), "submissions": found.sent, "acknowledged": found.accepted,
            "deliveries": found.deliveries, "delivered": found.delivered, "lost": len(found.lost),
            "damaged": len(found.damaged), "duplicates": len(found.doubled), "sessions": sum(sessions.values()),
            "sessions-ended-by-421": sum(count for how, count in sessions.items() if how.startswith("421")),
            "sessions-broken": len(self.broken), "messages-refused": sum(
                sum(each.refusals.values()) for each in self.outcomes.values()),
            "longest-wait-for-a-greeting": max(each.longest_greeting for each in self.outcomes.values()),
        }  # fmt: skip
        return [f"restarts {name} {value}" for name, value in facts.items()]


def is_broken(cut: Cut) -> bool:
    return cut.how != "421" or cut.state == "body"


class Senders:
    """Twenty sessions of SMTP and, beside them, slow ones, QMQP's and sendmail's, until they are stopped."""

    def __init__(self, place: House) -> None:
        one, client = place.one, place.client
        kinds = [Kind(60, ["joe@one.test"]), Kind(39, ["x@strange.test"]), Kind(1, ["sue@one.test"], 1 << 20)]
        small, address = kinds[:2], one.place.ipv4
        self.loads = [
            Load.outside(client, Plan("smtp", ENDLESS, kinds, host=address, pause=0.03)),
            Load.outside(client, Plan("slow", ENDLESS, small, host=address, sessions=3, most=2, trickle=SLOW_SECONDS)),
            Load.outside(client, Plan("qmqp", ENDLESS, small, "qmqp", address, 2, pause=0.05)),
            Load.inside(one, Plan("sendmail", ENDLESS, small, "sendmail", sessions=2, pause=0.05)),
        ]  # fmt: skip
        self._place = place
        self._events: list[tuple[float, str]] = []

    def during(self, what: str, act: Callable[[], object], seconds: float) -> None:
        """Do something, and let the senders go on for a while."""
        self._events.append((time.time(), what))
        act()
        time.sleep(seconds)

    def end(self) -> Result:
        outcomes = {load.plan.name: load.stop() for load in self.loads}
        self._place.drain()
        copies = copies_in(self._place.one) + self._place.sink.copies()
        return Result(compare(outcomes.values(), copies), outcomes, self._events)


def restart(one: Host, unit: str) -> Callable[[], object]:
    return lambda: one.run(["systemctl", "restart", unit])


def run(place: House, rounds: int = 1, pause: float = 1.0, upgrade: bool = True) -> Result:
    """Restart each service so many times, then install a later version."""
    later = build_packages(place.one.release, "+1") if upgrade else []
    senders = Senders(place)
    senders.during("before", lambda: None, 1)
    for _ in range(rounds):
        for service in SERVICES:
            senders.during(f"restart of {service}", restart(place.one, f"qmaild-{service}.service"), pause)
    if upgrade:
        senders.during("upgrade", lambda: place.one.install(later), 1)
    return senders.end()


@contextmanager
def under_load(release: str) -> Iterator[House]:
    with house(release, NOTHING) as place:
        yield place


def main() -> None:
    parser = argparse.ArgumentParser(prog="restarts", description="restarts and an upgrade under load")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--release", default="trixie")
    given = parser.parse_args()
    if reason := unavailable():
        sys.exit(f"no test machines: {reason}")
    prepare()
    with house(given.release, NOTHING) as place:
        result = run(place, given.rounds)
    print("\n".join([*result.lines(), *(f"restarts problem {each}" for each in result.problems)]))
    sys.exit(1 if result.problems else 0)


if __name__ == "__main__":
    main()
