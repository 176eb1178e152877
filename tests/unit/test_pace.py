"""The manager's pace: a lone message goes out at once, a burst in batches. Real store, real socket, a clock of ours."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmaild.protocol import frames, netstring
from qmaild.queue.commits import Commits
from qmaild.queue.manager import Manager
from qmaild.queue.pacing import PACE_SECONDS

from .store_client import Client


class Loop(asyncio.SelectorEventLoop):
    """A loop whose time stands still until the test moves it."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    def turn(self) -> None:
        """Do everything that can be done at this time."""
        for _ in range(5):
            self.run_until_complete(asyncio.sleep(0))


class House:
    """A manager between a store and a socket that stands for send."""

    def __init__(self, directory: Path) -> None:
        self.loop = Loop()
        self.client = Client(directory / "queue")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / "manage.sock"))
        self._listener.listen()
        self._sock: socket.socket | None = None
        self._reader = netstring.Reader(frames.MAX_FRAME)
        commits = Commits(self.loop, self.client.store)
        path = str(directory / "manage.sock")
        self.manager = Manager(self.loop, self.client.store, commits, lambda: 1, path, lambda birth: birth)

    def accept(self) -> int:
        """Make a message durable and tell the manager, as the service does."""
        number = self.client.add()
        self.client.settle()
        self.manager.wake()
        return number

    def handed(self) -> list[int]:
        """Numbers of the messages that send has got since it was last asked."""
        self.loop.turn()
        if self._sock is None:
            self._sock, _ = self._listener.accept()
            self._sock.setblocking(False)
        try:
            data = self._sock.recv(1 << 20)
        except BlockingIOError:
            return []
        found = [frames.decode(payload) for payload in self._reader.feed(data)]
        return [frame.number for frame in found if isinstance(frame, frames.Job)]

    def close(self) -> None:
        self.manager.close(5)
        self.loop.turn()
        self.loop.close()
        self.client.store.close()
        self._listener.close()
        if self._sock:
            self._sock.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.close()


def test_a_lone_message_waits_for_nothing(house: House) -> None:
    for _ in range(3):
        number = house.accept()
        assert house.handed() == [number]
        house.loop.now += 10 * PACE_SECONDS


def test_what_comes_within_the_pace_leaves_as_one_batch(house: House) -> None:
    first = house.accept()
    assert house.handed() == [first]
    rest = []
    for _ in range(5):
        house.loop.now += PACE_SECONDS / 10
        rest.append(house.accept())
        assert house.handed() == []
    house.loop.now += PACE_SECONDS
    assert house.handed() == rest
