"""Which session gives way when every place is taken, by sessions that are told what they do and a clock of the test's."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from qmaild.runtime import doors


class Clock(asyncio.AbstractEventLoop):
    """A loop that only knows the time and keeps what should be called later."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.later: list[Callable[[], None]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Any, *words: Any, context: Any = None) -> Any:
        self.later.append(callback)

    def pass_time(self, seconds: float) -> None:
        """Let a sweep find that so much time has passed."""
        self.now += seconds
        due, self.later = self.later, []
        for each in due:
            each()


@dataclasses.dataclass(eq=False)
class Session:
    """One session and what became of it."""

    client: bytes
    last_heard: float
    may_go: bool = True
    is_in_data: bool = False
    ended: str = ""
    on_end: Callable[[Any], None] = lambda session: None

    def stop(self) -> None:
        self.ended = "stopped"

    def time_out(self) -> None:
        self.ended = "timed out"

    def give_way(self) -> None:
        self.ended = "gave way"
        self.on_end(self)

    def abort(self) -> None:
        self.ended = "aborted"


class Door:
    def __init__(self) -> None:
        self.clock = Clock()
        self.sessions = doors.Sessions(self.clock, lambda count: None, lambda: 300.0)

    def begin(self, client: bytes, ago: float = 0.0, **what: Any) -> Session:
        session = Session(client, self.clock.now - ago, **what)
        session.on_end = self.sessions.end
        self.sessions.begin(session)
        return session


@pytest.fixture
def door() -> Door:
    return Door()


def test_who_got_nowhere_for_longest_gives_way(door: Door) -> None:
    at_work, older, newer = door.begin(b"a"), door.begin(b"b", 60), door.begin(b"c", 30)
    assert door.sessions.make_room(b"z")
    assert (at_work.ended, older.ended, newer.ended) == ("", "gave way", "")
    assert door.sessions.make_room(b"z")
    assert not door.sessions.make_room(b"z")
    assert at_work.ended == ""


def test_of_those_that_got_nowhere_a_client_with_many_places_gives_way_first(door: Door) -> None:
    alone, many = door.begin(b"a", 60), [door.begin(b"b", 20) for _ in range(3)]
    assert door.sessions.make_room(b"z")
    assert alone.ended == ""
    assert [each.ended for each in many].count("gave way") == 1


def test_with_all_at_work_the_client_with_most_places_gives_way(door: Door) -> None:
    few, many = [door.begin(b"a") for _ in range(2)], [door.begin(b"b") for _ in range(5)]
    assert door.sessions.make_room(b"z")
    assert {each.ended for each in few} == {""}
    assert [each.ended for each in many].count("gave way") == 1


def test_no_client_takes_from_one_that_has_no_more(door: Door) -> None:
    for client in (b"a", b"b"):
        door.begin(client), door.begin(client)
    assert not door.sessions.make_room(b"a")
    assert not door.sessions.make_room(b"b")


def test_a_client_with_many_places_does_not_push_out_one_that_pauses(door: Door) -> None:
    pausing = door.begin(b"a", 60)
    for _ in range(3):
        door.begin(b"b")
    assert not door.sessions.make_room(b"b")
    assert pausing.ended == ""
    assert door.sessions.make_room(b"z"), "the refusal has cost nobody else a place"


def test_one_that_waits_for_us_or_may_relay_stays(door: Door) -> None:
    session = door.begin(b"a", 200, may_go=False)
    assert not door.sessions.make_room(b"z")
    assert session.ended == ""


def test_one_that_went_on_meanwhile_or_has_ended_is_passed_over(door: Door) -> None:
    first, second, third = door.begin(b"a", 90), door.begin(b"b", 60), door.begin(b"c", 30)
    fourth = door.begin(b"d", 20)
    assert door.sessions.make_room(b"z") and first.ended
    second.last_heard = door.clock.now
    door.sessions.end(third)
    assert door.sessions.make_room(b"z")
    assert (second.ended, third.ended, fourth.ended) == ("", "", "gave way")


def test_a_flood_of_newcomers_costs_one_look_in_a_sweep(door: Door) -> None:
    session = door.begin(b"a")
    assert not door.sessions.make_room(b"z")
    session.last_heard -= 60
    assert not door.sessions.make_room(b"z")
    door.clock.pass_time(1)
    assert door.sessions.make_room(b"z")


def test_ipv6_clients_count_with_their_network(door: Door) -> None:
    for number in range(3):
        door.begin(b"2001:db8::%d" % number)
    other = door.begin(b"2001:db8:0:1::1")
    assert [door.sessions.of(each) for each in (b"2001:db8::ffff", other.client, b"192.0.2.1")] == [3, 1, 0]
    assert door.sessions.make_room(b"192.0.2.1")
    assert door.sessions.of(b"2001:db8::") == 2 and other.ended == ""


def test_a_message_below_the_slowest_rate_uses_up_its_time() -> None:
    heard = now = 1000.0
    for _ in range(100):
        now += 10
        heard = doors.progress(heard, now, 10 * doors.SLOWEST_RATE)
    assert heard == now
    for _ in range(30):
        now += 10
        heard = doors.progress(heard, now, 1)
    assert now - heard > 290
