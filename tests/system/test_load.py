"""The load's own counting: what is lost, doubled or damaged is seen as that, or no test that uses it means anything."""

from __future__ import annotations

from .load import Copy, Kind, Load, Outcomes, Plan, Sink, compare
from .machines import Network

LINES = "1.0\taccepted\ta-1.1\tjoe@one.test,x@two.test\n2.0\taccepted\ta-2.2\tjoe@one.test\n2.5\tcut\ta-2.1\tbody:reset\n"


def test_a_sender_counts_its_acknowledgements_and_a_sink_what_it_took() -> None:
    with Network("load") as network, Sink(network.plug("sink")) as sink:
        kinds = [Kind(9, ["joe@one.test"]), Kind(1, ["sue@one.test", "x@two.test"], 1 << 20)]
        plan = Plan("out", 200, kinds, host=sink.place.ipv4, sessions=10, most=7)
        outcomes = Load.outside(network.plug("client"), plan).wait(60)
        found = compare([outcomes], sink.copies())
    assert found.sent == found.accepted == 200 and found.delivered == found.deliveries > 200
    assert (found.lost, found.doubled, found.damaged, found.unacknowledged) == ([], [], [], 0)
    assert set(outcomes.sessions) == {"quit quit"}


def test_a_sender_says_that_nobody_listens() -> None:
    with Network("load") as network:
        plan = Plan("out", 2, [Kind(1, ["joe@one.test"])], host="127.0.0.1", sessions=1, seconds=0.5)
        outcomes = Load.outside(network.plug("client"), plan).wait(60)
    assert not outcomes.accepted and set(outcomes.sessions) == {"refused connect"}


def test_what_is_lost_doubled_damaged_or_unacknowledged_is_told_apart() -> None:
    twice = [Copy("a-1.1", "joe@one.test", time, True) for time in (1.5, 9.0)]
    others = [Copy("a-1.1", "x@two.test", 2.0, False), Copy("a-2.1", "joe@one.test", 3.0, True)]
    found = compare([Outcomes(LINES)], [*twice, *others])
    assert (found.sent, found.accepted, found.deliveries, found.delivered, found.unacknowledged) == (3, 2, 3, 2, 1)
    assert found.lost == ["a-2.2 joe@one.test"]
    assert found.doubled == [twice[1]] and found.damaged == ["a-1.1 x@two.test"]
