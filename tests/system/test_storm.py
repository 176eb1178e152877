"""A small kill storm: services and the whole machine are killed under mail through every door. `make storm` is the real one."""

from __future__ import annotations

import pytest

from . import storm
from .load import Copy
from .machines import RELEASES
from .storm import Kill, Storm


@pytest.mark.parametrize("release", RELEASES)
def test_a_storm_of_kills_loses_nothing_and_doubles_only_what_was_in_flight(release: str) -> None:
    with storm.house(release, Storm(messages=1000, seed=3, stops=1, pause=(0.3, 0.7), kills=11)) as place:
        result = storm.run(place)
    assert not result.problems, "\n".join([*result.problems, *result.lines(), f"see {storm.KEPT}"])
    assert result.found.delivered == result.found.deliveries > 1000
    assert [kill.victim for kill in result.kills].count("machine") == 1


def test_a_duplicate_needs_a_kill_that_had_it_in_flight() -> None:
    """What this file's first test can see, and what it lets pass."""

    def uncharged(victim: str, orders: int, copies: list[Copy]) -> int:
        kill = Kill(102.0, victim, orders)
        return len(storm.uncharged([kill], copies, copies[1::2]))

    def twice(number: int, recipient: str = "joe@one.test", first: float = 101.0) -> list[Copy]:
        return [Copy(f"a-{number}.1", recipient, time, True) for time in (first, 110.0)]

    assert uncharged("local", 2, twice(1) + twice(2)) == 0
    assert uncharged("local", 1, twice(1) + twice(2)) == 1
    assert uncharged("local", 2, twice(1, "x@strange.test")) == 1
    assert uncharged("smtpd", 2, twice(1)) == 1
    assert uncharged("queue", 0, twice(1, first=101.9)) == 0
    assert uncharged("queue", 0, twice(1)) == 1
    assert uncharged("queue", 5, [Copy("a-1.1", "joe@one.test", time, True) for time in (163.0, 164.0)]) == 1
