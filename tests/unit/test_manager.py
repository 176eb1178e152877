"""The manager between a real store and a send that the test plays, in one loop."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qmaild.protocol import frames
from qmaild.queue import answers, manager, pacing
from qmaild.queue.commits import Commits
from qmaild.queue.manager import LANE_MESSAGES, Manager
from qmaild.queue.pacing import BATCH, RETRY_BESIDE, RETRY_SHARE
from qmaild.queue.store import FRESH, Store
from qmaild.queue.values import StoreError
from qmaild.queue.window import RETRY_MESSAGES
from qmaild.runtime.channel import Channel

from .processes import no_descriptor_free

NOW = 1_000_000_000
SECONDS = 30.0


class House:
    """Queue and send. `handed`: numbers in the order they came to send; is_deaf: it reads nothing at first."""

    def __init__(self, directory: Path) -> None:
        self.loop = asyncio.SelectorEventLoop()
        self.store = Store.open(str(directory / "queue"))
        self.commits = Commits(self.loop, self.store)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(directory / "manage"))
        self.listener.listen()
        self.listener.setblocking(False)
        self.loop.add_reader(self.listener.fileno(), self._accept)
        self.channel: Channel | None = None
        self.handed: list[int] = []
        self.is_deaf = False
        self.manager = Manager(self.loop, self.store, self.commits, lambda: NOW, str(directory / "manage"), int)
        self.commits.on_durable = self.manager.wake

    def _accept(self) -> None:
        sock, _ = self.listener.accept()
        self.channel = Channel(self.loop, sock, self._frame, lambda channel: None, takes_descriptors=True)
        if self.is_deaf:
            self.channel.pause()

    def _frame(self, channel: Channel, frame: Any, descriptor: int) -> None:
        if descriptor >= 0:
            os.close(descriptor)
        if isinstance(frame, frames.Job | frames.Finish):
            self.handed.append(frame.number)

    def answer(self, *answers: frames.Frame) -> None:
        assert self.channel is not None
        for answer in answers:
            self.channel.send(answer)

    def add(self, count: int, content: bytes = b"") -> list[int]:
        return [
            self.store.add(birth=1, flags=0, origin=b"", sender=b"", recipients=[b"r@x.test"], content=content)
            for _ in range(count)
        ]

    def deferred(self, *lanes: bytes, content: bytes = b"") -> list[int]:
        """A message for each lane, due now; send has not heard of them."""
        numbers = self.add(len(lanes), content)
        self.settle()
        while self.store.due(NOW, FRESH):
            pass
        for number, lane in zip(numbers, lanes, strict=True):
            self.store.defer(number, lane, NOW - 1, [0])
        return numbers

    def settle(self) -> None:
        """Commit and wait for it; the manager does not hear of it."""
        ticket = self.store.commit()
        while self.store.collect().durable < ticket:
            select.select([self.store.eventfd], [], [], SECONDS)

    def until(self, condition: Callable[[], bool]) -> None:
        async def wait() -> None:
            while not condition():
                await asyncio.sleep(0.005)

        self.loop.run_until_complete(asyncio.wait_for(wait(), SECONDS))

    def quiet(self, seconds: float = 0.2) -> None:
        """Let the loop run, to see that nothing happens."""
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def close(self) -> None:
        self.manager.close(0.0)
        if self.channel:
            self.channel.close()
        self.loop.remove_reader(self.listener.fileno())
        self.listener.close()
        self.store.close()
        self.loop.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.close()


def test_what_was_deferred_has_a_part_of_the_window_and_new_messages_the_rest(house: House) -> None:
    house.deferred(*[b"lane %d" % (n % 100) for n in range(RETRY_MESSAGES + 500)])
    house.manager.wake()
    house.until(lambda: len(house.handed) == RETRY_MESSAGES)
    house.quiet()
    assert len(house.handed) == RETRY_MESSAGES
    new = house.add(700)
    house.commits.kick()
    house.until(lambda: len(house.handed) == RETRY_MESSAGES + 700)
    assert house.handed[RETRY_MESSAGES:] == new


def test_while_new_messages_come_what_was_deferred_has_a_small_part_of_each_look(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "BESIDE_SECONDS", SECONDS)
    old = set(house.deferred(*[b"lane %d" % (n % 100) for n in range(200)]))
    new = set(house.add(1500))
    house.settle()
    house.manager.wake()
    house.until(lambda: new.issubset(house.handed))
    looks = len(new) / (BATCH - RETRY_SHARE) + 1
    before = max(map(house.handed.index, new))
    assert 0 < len(old.intersection(house.handed[:before])) <= RETRY_SHARE + looks * RETRY_BESIDE
    house.until(lambda: old.issubset(house.handed))


def test_a_new_message_waits_for_no_turn_of_what_was_deferred(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "PACE_SECONDS", 10 * SECONDS)
    old = house.deferred(*[b"lane %d" % n for n in range(RETRY_SHARE + 10)])
    house.manager.wake()
    house.until(lambda: len(house.handed) == RETRY_SHARE)
    house.quiet()
    assert house.handed == old[:RETRY_SHARE], "the rest has its turn later"
    (new,) = house.add(1)
    house.commits.kick()
    house.until(lambda: house.handed[RETRY_SHARE:] == [new])


def test_new_mail_does_not_stand_behind_retries_that_send_has_not_read(house: House) -> None:
    house.deferred(*[b"lane %d" % (n % 100) for n in range(1500)], content=bytes(4096))
    house.is_deaf = True
    house.manager.wake()
    house.until(lambda: house.channel is not None)
    house.quiet()
    behind = house.manager.outstanding
    assert behind < 300, "a socket's buffer and a few looks"
    (new,) = house.add(1)
    house.commits.kick()
    house.until(lambda: house.manager.outstanding > behind)
    assert house.manager.outstanding == behind + 1
    assert house.channel
    house.channel.resume()
    house.until(lambda: len(house.handed) == 1501)
    assert house.handed.index(new) == behind


def test_what_send_has_not_read_of_new_mail_is_bounded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "UNREAD_FRESH_BYTES", 100_000)
    house.is_deaf = True
    numbers = house.add(1500, content=bytes(4096))
    house.commits.kick()
    house.until(lambda: house.channel is not None)
    house.quiet()
    assert house.manager.outstanding < 300, "a socket's buffer and so many bytes"
    assert house.channel
    house.channel.resume()
    house.until(lambda: len(house.handed) == 1500)
    assert house.handed == numbers


def test_a_destination_with_its_limit_out_keeps_no_other_waiting_and_nobody_busy(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = house.deferred(*[b"remote:dead.test"] * (LANE_MESSAGES + 200))
    (other,) = house.deferred(b"remote:alive.test")
    house.manager.wake()
    house.until(lambda: len(house.handed) == LANE_MESSAGES + 1)
    assert other in house.handed[:3]
    looks = []
    looked = house.store.due
    monkeypatch.setattr(house.store, "due", lambda now, which: looks.append(which) or looked(now, which))
    house.quiet()
    assert looks == [], "it waits for an answer"
    house.answer(frames.Deferred(dead[0], b"remote:dead.test", NOW + 10**9, [0]))
    house.until(lambda: len(house.handed) == LANE_MESSAGES + 2)
    house.quiet()
    assert house.handed[-1] == dead[LANE_MESSAGES]


def test_a_partial_answer_makes_room_in_its_lane(house: House) -> None:
    """A message in two lanes is answered in one: the next of that lane goes out although the message stays out."""
    both = house.store.add(birth=1, flags=0, origin=b"", sender=b"", recipients=[b"a@x.test", b"b@y.test"], content=b"")
    house.deferred(*[b"remote:x.test"] * LANE_MESSAGES)
    house.store.limit(1)
    house.store.defer(both, b"remote:x.test", NOW - 3, [0])
    house.store.defer(both, b"remote:y.test", NOW - 3, [1])
    house.manager.wake()
    house.until(lambda: house.handed == [both])
    house.answer(frames.Done(both, [0]))
    house.until(lambda: len(house.handed) == 2)
    assert house.manager.outstanding == 2


def test_what_cannot_be_handed_out_brings_nothing_back_that_send_has(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "TROUBLE_SECONDS", 0.05)
    both = house.store.add(birth=1, flags=0, origin=b"", sender=b"", recipients=[b"a@x.test", b"b@y.test"],
                           content=bytes(frames.INLINE_BYTES + 1))  # fmt: skip
    house.settle()
    house.store.defer(both, b"remote:x.test", NOW - 1, [0])
    house.store.defer(both, b"remote:y.test", NOW + 10**9, [1])
    house.manager.wake()
    house.until(lambda: house.handed == [both])
    troubles: list[str] = []
    house.manager.on_trouble = troubles.append
    with no_descriptor_free(os.getpid()):
        house.store.retry(both)
        house.manager.wake()
        house.until(lambda: bool(troubles))
    house.quiet()
    assert house.handed == [both], "its other recipient is still at send"
    house.answer(frames.Done(both, [0]))
    house.until(lambda: house.handed == [both, both])
    assert house.store.is_out(both, 1)


@pytest.mark.parametrize("reason", ["memory", "io"])
def test_an_answer_that_cannot_be_recorded_is_recorded_later(
    house: House, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    monkeypatch.setattr(answers, "RECORD_SECONDS", 0.05)
    served, waits = house.add(2)
    house.commits.kick()
    house.until(lambda: len(house.handed) == 2)
    refusing(house.store, "done", reason, 2, monkeypatch)
    refusing(house.store, "defer", reason, 2, monkeypatch)
    house.answer(frames.Done(served, [0]), frames.Deferred(waits, b"remote:x.test", NOW + 10**9, [0]))
    house.until(lambda: house.store.counts()[:4] == (1, 0, 1, 0))
    assert house.manager.outstanding == 0
    assert house.handed == [served, waits], "nobody tried them again"


def test_what_could_not_be_recorded_is_recorded_before_a_lost_send_gives_it_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, other = house.add(2)
    house.commits.kick()
    house.until(lambda: len(house.handed) == 2)
    calls = refusing(house.store, "done", "memory", 1, monkeypatch)
    house.answer(frames.Done(served, [0]))
    house.until(lambda: len(calls) == 1)
    assert house.channel is not None
    house.channel.close()
    house.until(lambda: len(house.handed) == 3)
    assert house.handed[2] == other
    assert house.store.counts().messages == 1


def test_a_lane_with_a_monstrous_name_is_waited_for_under_a_part_of_it(house: House) -> None:
    (number,) = house.add(1)
    house.commits.kick()
    house.until(lambda: house.handed == [number])
    house.answer(frames.Deferred(number, b"remote:" + b"x" * 5000, NOW + 10**9, [0]))
    house.until(lambda: house.store.counts().waiting == 1)
    assert house.manager.outstanding == 0


def refusing(store: Store, name: str, reason: str, times: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on this method of the store refuses so many times; the answer counts the calls."""
    works, calls = getattr(store, name), []

    def method(*arguments: Any) -> Any:
        calls.append(arguments[0])
        if len(calls) <= times:
            raise StoreError(reason, "as the test wants it")
        return works(*arguments)

    monkeypatch.setattr(store, name, method)
    return calls
