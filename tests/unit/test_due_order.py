"""Whose turn it is: new before old, lanes in turn, none beyond its limit. On a real store, beside a model of it."""

from __future__ import annotations

import pathlib
import random
from collections import deque
from collections.abc import Iterator

import pytest

from qmaild.queue.store import FRESH, RETRY
from qmaild.queue.values import StoreError

from .store_client import FOREVER, Client

LANES = 7
MESSAGES = 60
STEPS = 4000


@pytest.fixture
def client(tmp_path: pathlib.Path) -> Iterator[Client]:
    client = Client(tmp_path / "queue", segment_bytes=4 << 20)
    yield client
    client.store.close()


def deferred(client: Client, *lanes: tuple[bytes, int]) -> list[int]:
    """A message for each (lane, due), which waits there."""
    numbers = [client.add() for _ in lanes]
    client.settle()
    client.due(classes=(FRESH,))
    for number, (lane, due) in zip(numbers, lanes, strict=True):
        client.store.defer(number, lane, due, [0])
    return numbers


def retried(client: Client, now: int = FOREVER, limit: int = 1000) -> list[int]:
    return [job.number for job in client.due(now, limit, (RETRY,))]


def test_new_messages_and_deferred_ones_fall_due_each_by_themselves(client: Client) -> None:
    (old,) = deferred(client, (b"lane", 5))
    new = client.add()
    client.settle()
    assert (client.store.next_due(FRESH), client.store.next_due(RETRY)) == (0, 5)
    assert retried(client) == [old]
    assert client.store.next_due(RETRY) is None
    assert [job.number for job in client.due(classes=(FRESH,))] == [new]
    assert client.store.next_due(FRESH) is None


def test_lanes_take_turns_a_message_each_and_serve_their_earliest_first(client: Client) -> None:
    a1, a2, a3, b1, b2, c1 = deferred(
        client, (b"a", 3), (b"a", 1), (b"a", 2), (b"b", 4), (b"b", 5), (b"c", 6))  # fmt: skip
    assert retried(client, now=6) == [a2, b1, c1, a3, b2, a1]


def test_a_lane_that_becomes_due_later_stands_behind(client: Client) -> None:
    a1, a2, b1, c1 = deferred(client, (b"a", 1), (b"a", 1), (b"b", 9), (b"c", 1))
    assert retried(client, now=5, limit=1) == [a1]
    assert client.store.next_due(RETRY) == 1
    assert retried(client, now=9) == [c1, a2, b1]


def test_when_the_clock_goes_back_nothing_is_early_and_nothing_is_lost(client: Client) -> None:
    a1, a2, b1 = deferred(client, (b"a", 10), (b"a", 20), (b"b", 30))
    assert retried(client, now=30, limit=1) == [a1]
    assert retried(client, now=15) == []
    assert client.store.next_due(RETRY) == 20
    assert retried(client, now=30) == [a2, b1]


def test_a_dead_destination_of_a_hundred_thousand_messages_delays_nobody(tmp_path: pathlib.Path) -> None:
    client = Client(tmp_path / "queue", segment_bytes=32 << 20)
    many = 100_000
    dead = [client.add(b"") for _ in range(many)]
    alive = [client.add(b"") for _ in range(3)]
    client.settle()
    client.due(limit=many + 3)
    for number in dead:
        client.store.defer(number, b"remote:dead.test", 1, [0])
    for at, number in enumerate(alive):
        client.store.defer(number, b"remote:alive%d.test" % at, 2, [0])
    client.store.limit(300)
    first = retried(client, limit=8)
    assert set(alive) <= set(first)
    assert len(retried(client, limit=many)) == 300 - 5
    assert client.store.next_due(RETRY) is None, "a lane with its limit out is due to nobody"
    client.store.defer(first[0], b"remote:dead.test", FOREVER, [0])
    assert client.store.next_due(RETRY) == 1
    assert len(retried(client)) == 1
    client.store.close()


def test_a_limit_that_is_raised_or_lifted_lets_go(client: Client) -> None:
    numbers = deferred(client, *[(b"lane", 1)] * 10)
    client.store.limit(2)
    assert retried(client) == numbers[:2]
    client.store.limit(3)
    assert retried(client) == numbers[2:3]
    client.store.limit(0)
    assert retried(client) == numbers[3:]


def test_given_back_and_ended_messages_make_room_in_their_lane(client: Client) -> None:
    numbers = deferred(client, *[(b"lane", at) for at in range(1, 6)])
    client.store.limit(2)
    assert retried(client) == numbers[:2]
    client.store.end(numbers[0])
    assert retried(client) == numbers[2:3]
    client.store.give_back(numbers[1])
    assert retried(client) == [numbers[1]], "what comes back is due before what has waited"
    client.store.done(numbers[2], [0])
    client.store.fail(numbers[1], 0, b"why")
    assert retried(client) == numbers[3:]


def test_a_mailing_over_many_lanes_is_one_job_but_for_lanes_with_their_limit_out(client: Client) -> None:
    (first,) = deferred(client, (b"lane 3", 1))
    number = client.add(recipients=tuple(b"r%d@example" % at for at in range(50)))
    client.settle()
    client.due(classes=(FRESH,))
    for index in range(50):
        client.store.defer(number, b"lane %d" % (index % 10), 2, [index])
    client.store.limit(1)
    assert retried(client, limit=1) == [first]
    (job,) = client.due(classes=(RETRY,))
    assert [index for index, _ in job.recipients] == [index for index in range(50) if index % 10 != 3]
    client.store.done(first, [0])
    (job,) = client.due(classes=(RETRY,))
    assert [index for index, _ in job.recipients] == [3, 13, 23, 33, 43]


def test_a_large_mailing_takes_along_what_is_due_soon_and_a_small_message_does_not(client: Client) -> None:
    for count, expected in ((99, 1), (200, 101)):
        number = client.add(recipients=tuple(b"r%d@example" % at for at in range(count)))
        client.settle()
        client.due(classes=(FRESH,))
        for index in range(count):
            client.store.defer(number, b"lane %d" % index, 1_000_000 + index * 2_000, [index])
        (job,) = client.due(1_000_000, classes=(RETRY,))
        assert len(job.recipients) == expected
        client.store.end(number)


def test_a_message_to_finish_does_not_wait_behind_new_ones_that_came_later(client: Client) -> None:
    failed = client.add()
    client.settle()
    client.due()
    fresh = client.add()
    client.settle()
    client.store.fail(failed, 0, b"why")
    assert [(job.number, job.kind) for job in client.due(classes=(FRESH,))] == [(failed, "finish"), (fresh, "attempt")]


def test_numbers_are_listed_in_order_whatever_comes_and_goes(client: Client) -> None:
    """The order of numbers, through shelves that fill, part, empty and merge."""
    chance, living = random.Random(1), []
    for _ in range(12):
        living += [client.add(b"") for _ in range(chance.randrange(1, 400))]
        client.settle()
        gone = set(chance.sample(living, len(living) * chance.randrange(100) // 100))
        for number in gone:
            client.store.end(number)
        living = [number for number in living if number not in gone]
        found, after = [], 0
        while True:
            numbers, after = client.store.find(None, after, 100)
            found += numbers
            if not after:
                break
        assert found == living
        for number in gone:
            with pytest.raises(StoreError):
                client.store.retry(number)
    client.reopen()
    assert client.store.find(None, 0, 100_000) == (living, 0)


class Model:
    """The due order, said simply: per lane the groups that wait and the groups that are out."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waiting: dict[bytes, dict[int, int]] = {}  # lane: {number: due}
        self.out: dict[bytes, set[int]] = {}
        self.turns: deque[bytes] = deque()

    def _is_ready(self, lane: bytes, now: int) -> bool:
        waiting = self.waiting.get(lane, {})
        return bool(waiting) and min(waiting.values()) <= now and len(self.out.get(lane, ())) < self.limit

    def tidy(self, now: int) -> None:
        """Lanes that are not ready leave; no others change their place."""
        self.turns = deque(lane for lane in self.turns if self._is_ready(lane, now))

    def take(self, now: int) -> int | None:
        self.tidy(now)
        others = [lane for lane in self.waiting if lane not in self.turns and self._is_ready(lane, now)]
        self.turns.extend(sorted(others, key=self._first))
        if not self.turns:
            return None
        lane = self.turns.popleft()
        _, number = self._first(lane)
        del self.waiting[lane][number]
        self.out.setdefault(lane, set()).add(number)
        if self._is_ready(lane, now):
            self.turns.append(lane)
        return number

    def _first(self, lane: bytes) -> tuple[int, int]:
        return min((due, number) for number, due in self.waiting[lane].items())

    def wait(self, number: int, lane: bytes, due: int) -> None:
        self.gone(number)
        self.waiting.setdefault(lane, {})[number] = due

    def gone(self, number: int) -> None:
        for numbers in (*self.waiting.values(), *self.out.values()):
            numbers.pop(number, None) if isinstance(numbers, dict) else numbers.discard(number)


@pytest.mark.parametrize("seed", range(6))
def test_the_due_order_is_that_of_a_simple_model(client: Client, seed: int) -> None:
    """Time goes on, messages wait, are handed out, given back, deferred again and end: each turn goes to whom the model says."""
    chance = random.Random(seed)
    model = Model(limit := chance.choice([1, 3, 1000]))
    client.store.limit(limit)
    now, living = 100, [client.add(b"") for _ in range(MESSAGES)]
    client.settle()
    client.due(classes=(FRESH,))
    for number in living:
        lane, due = b"lane %d" % chance.randrange(LANES), now + chance.randrange(50)
        client.store.defer(number, lane, due, [0])
        model.wait(number, lane, due)
    taken = 0
    for _ in range(STEPS):
        now += chance.randrange(3)
        out = sorted(number for numbers in model.out.values() for number in numbers)
        if chance.random() < 0.5 or not out:
            job = client.store.due(now, RETRY)
            expected = model.take(now)
            assert (job.number if job else None) == expected
            taken += job is not None
            continue
        number = chance.choice(out)
        if chance.random() < 0.02 and len(living) > 20:
            client.store.done(number, [0])
            model.gone(number)
            living.remove(number)
        else:
            lane, due = b"lane %d" % chance.randrange(LANES), now + chance.randrange(60)
            client.store.defer(number, lane, due, [0])
            model.wait(number, lane, due)
    assert taken > STEPS // 10
