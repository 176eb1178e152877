"""Send's brain before a simulated world: 10,000 destinations, some dead, some tarpits, and who waits how long.

The world is an event queue with a clock of its own; the queue around the brain hands out again what was deferred.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import random
import time
from collections import Counter
from typing import Any

import pytest

from qmaild.control.settings import parse
from qmaild.policy.retry import SECOND
from qmaild.protocol import frames
from qmaild.scheduler.brain import Brain
from qmaild.scheduler.moves import NO_TOKEN, Arrived, Continued, Event, More, Place, Reported

START = 1_700_000_000 * SECOND
DESTINATIONS = 10_000
ANSWERS = {
    "well": (b"K", 250, b"2.0.0", b"192.0.2.1 accepted message. Remote host said: 250 ok"),
    "tarpit": (b"K", 250, b"2.0.0", b"192.0.2.1 accepted message. Remote host said: 250 ok"),
    "dead": (b"Z", 0, b"4.4.1", b"I could not establish a connection."),
}


class World:
    """seed decides everything. kinds: what becomes of mail for each destination."""

    def __init__(self, seed: int, dead: int = 0, tarpits: int = 0, **files: bytes) -> None:
        settings, problems = parse({"me": b"host.example", **files}, b"host.example")
        assert not problems
        self.chance = random.Random(seed)
        self.send = Brain(settings, self.chance.random)
        self.now = START
        self.future: list[tuple[int, int, Event]] = []
        self.serial = itertools.count()
        kinds = ["dead"] * dead + ["tarpit"] * tarpits
        self.kinds = kinds + ["well"] * (DESTINATIONS - len(kinds))
        self.chance.shuffle(self.kinds)
        self.of_kind = {each: [number for number, kind in enumerate(self.kinds) if kind == each] for each in ANSWERS}
        self.arrived: dict[int, int] = {}
        self.waited: dict[int, int] = {}  # until a message's first order
        self.busy: Counter[bytes] = Counter()
        self.most: Counter[bytes] = Counter()
        self.attempts: Counter[bytes] = Counter()
        self.answered = 0
        self.longest = 0.0  # seconds of this processor's for one event

    def some(self, kind: str, count: int = 1) -> list[int]:
        return self.chance.sample(self.of_kind[kind], count)

    def at(self, when: int, event: Event) -> None:
        heapq.heappush(self.future, (when, next(self.serial), event))

    def mail(self, number: int, when: int, destinations: list[int], birth: int = 0) -> None:
        recipients = [b"u%d@d%d.example" % (place, each) for place, each in enumerate(destinations)]
        indexes = list(range(len(recipients)))
        frame = frames.Job(number, birth or when, 0, b"smtp", b"s@host.example", indexes, recipients, 5, b"\nx\n", 0)
        self.arrived[number] = when
        self.at(when, Arrived(frame, NO_TOKEN))

    def run(self, until: int) -> None:
        while self.future and self.future[0][0] <= until:
            self.now, _, event = heapq.heappop(self.future)
            begun = time.thread_time()
            commands = self.send.handle(event, self.now)
            self.longest = max(self.longest, time.thread_time() - begun)
            for command in commands:
                self.obey(command)

    def obey(self, command: Any) -> None:
        if isinstance(command, Place):
            self.begin(command.order)
        elif isinstance(command, More):
            self.at(self.now, Continued())
        elif isinstance(command, frames.Done):
            self.answered += len(command.indexes)

    def begin(self, order: frames.Order) -> None:
        self.waited.setdefault(order.number, self.now - self.arrived[order.number])
        self.busy[order.lane] += 1
        self.most[order.lane] = max(self.most[order.lane], self.busy[order.lane])
        self.attempts[order.lane] += 1
        kind = self.kind_of(order.lane)
        took = {"well": self.chance.expovariate(5), "dead": 60, "tarpit": self.chance.uniform(120, 600)}[kind]
        outcome, code, status, text = ANSWERS[kind]
        count = len(order.recipients)
        peer = [b"" if kind == "dead" else b"peer"] * count
        columns = ([code] * count, [status] * count, [text] * count, peer)
        when = self.now + int(took * SECOND)
        self.at(when, Reported(order.tag, frames.Report(order.tag, outcome * count, *columns)))

    def kind_of(self, lane: bytes) -> str:
        return self.kinds[int(lane.removeprefix(b"remote:d").removesuffix(b".example"))] if lane != b"local" else "well"

    def waits(self, numbers: range) -> list[float]:
        """How long these messages waited, in seconds, the longest first."""
        return sorted([self.waited[number] / SECOND for number in numbers], reverse=True)


def world_with_busy_lanes_counted(world: World) -> None:
    """Take the order's end into account where the world counts what is in flight."""
    handle = world.send.handle
    lanes: dict[int, bytes] = {}

    def counting(event: Event, now: int) -> list[Any]:
        if isinstance(event, Reported):
            world.busy[lanes.pop(event.order)] -= 1
        commands = handle(event, now)
        lanes.update({command.order.tag: command.order.lane for command in commands if isinstance(command, Place)})
        return commands

    world.send.handle = counting  # type: ignore[method-assign]


@pytest.mark.parametrize("seed", range(2))
def test_a_mailing_to_everybody_holds_up_no_lone_message(seed: int) -> None:
    world = World(seed, dead=200, tarpits=50)
    world.mail(1, START, [each for each in range(DESTINATIONS) for _ in range(10)])
    lone = range(2, 202)
    for place, number in enumerate(lone):  # to destinations of the mailing, and it goes there now or later
        world.mail(number, START + place * SECOND, world.some("well"))
    world.run(START + 201 * SECOND)
    waits = world.waits(lone)
    assert waits[0] < 2 and waits[len(waits) // 10] < 0.5
    assert world.answered > 20_000


def test_a_mailing_to_one_site_holds_up_no_lone_message_to_it() -> None:
    world = World(3)
    (site,) = world.some("well")
    world.mail(1, START, [site] * 100_000)
    lone = range(2, 22)
    for place, number in enumerate(lone):
        world.mail(number, START + (place + 1) * SECOND // 2, [site])
    world.run(START + 3600 * SECOND)
    assert world.waits(lone)[0] < 1
    assert world.answered == 100_020


def test_a_mailing_to_local_users_holds_up_no_lone_local_message() -> None:
    world = World(4)
    everybody = [b"u%d@host.example" % place for place in range(100_000)]
    frame = frames.Job(1, START, 0, b"smtp", b"s@x.example", list(range(100_000)), everybody, 5, b"\nx\n", 0)
    world.arrived[1] = START
    world.at(START, Arrived(frame, NO_TOKEN))
    lone = range(2, 22)
    for number in lone:
        world.arrived[number] = START + number * SECOND // 4
        single = frame._replace(number=number, indexes=[0], recipients=[b"v@host.example"])
        world.at(world.arrived[number], Arrived(single, NO_TOKEN))
    world.run(START + 3600 * SECOND)
    assert world.waits(lone)[0] < 1
    assert world.answered == 100_020


def test_a_hundred_mailings_hold_up_no_lone_message() -> None:
    world = World(5)
    for number in range(1, 101):
        world.mail(number, START, world.chance.sample(range(DESTINATIONS), 1000))
    lone = range(101, 131)
    for place, number in enumerate(lone):
        world.mail(number, START + place * SECOND, world.some("well"))
    world.run(START + 31 * SECOND)
    assert world.waits(lone)[0] < 2


def test_new_mail_goes_before_thousands_of_retries() -> None:
    world = World(6)
    old = range(1, 5001)
    for number in old:
        world.mail(number, START, world.some("well"), birth=START - 3600 * SECOND)
    new = range(5001, 5021)
    for place, number in enumerate(new):
        world.mail(number, START + SECOND // 10 + place * SECOND // 4, world.some("well"))
    world.run(START + 60 * SECOND)
    assert world.waits(new)[0] < 0.2
    assert world.waits(old)[0] > 5  # there was something to go before


def test_retries_go_on_while_new_mail_never_ceases() -> None:
    world = World(7, concurrencyremote=b"10")  # 50 orders a second
    old = range(1, 51)
    for number in old:
        world.mail(number, START, world.some("well"), birth=START - 3600 * SECOND)
    for number in range(51, 4051):  # 100 a second
        world.mail(number, START + (number - 50) * SECOND // 100, world.some("well"))
    world.run(START + 40 * SECOND)
    assert sum([number in world.waited for number in old]) >= 3


def test_tarpits_with_much_mail_leave_places_for_others() -> None:
    world = World(8, tarpits=20)
    tarpits = world.some("tarpit", 20)
    for number in range(1, 1001):
        world.mail(number, START, [tarpits[number % 20]])
    lone = range(1001, 1201)
    for place, number in enumerate(lone):
        world.mail(number, START + place * SECOND, world.some("well"))
    world.run(START + 300 * SECOND)
    assert world.waits(lone)[0] < 1


def test_a_dead_destination_with_much_mail_is_asked_seldom_and_delays_nobody() -> None:
    world = World(9, dead=1)
    world_with_busy_lanes_counted(world)
    (dead,) = world.some("dead")
    name = b"remote:d%d.example" % dead
    for number in range(1, 3001):
        world.mail(number, START + number * SECOND, [dead])
    lone = range(3001, 4001)
    for place, number in enumerate(lone):
        world.mail(number, START + place * 3 * SECOND, world.some("well"))
    world.run(START + 3600 * SECOND)
    assert world.waits(lone)[0] == 0
    assert world.most[name] == 5  # before anything was known
    assert world.attempts[name] < 30


def test_a_healthy_site_soon_gets_all_the_setting_allows() -> None:
    world = World(10)
    world_with_busy_lanes_counted(world)
    (site,) = world.some("well")
    for number in range(1, 201):
        world.mail(number, START, [site])
    world.run(START + SECOND)
    assert world.busy[b"remote:d%d.example" % site] == 20


def test_no_event_of_a_huge_mailing_takes_long() -> None:
    world = World(11, dead=2000)
    world.mail(1, START, [each for each in range(DESTINATIONS) for _ in range(10)])
    gc.collect()
    gc.freeze()  # as services do: what the tests before have made is not walked
    try:
        world.run(START + 30 * SECOND)
    finally:
        gc.unfreeze()
    assert world.send.jobs == 1 and not world.send._routings
    assert world.longest < 0.05
