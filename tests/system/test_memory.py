"""A service that may take no more memory, and is killed for it: clients try again, and nothing that was accepted is lost."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from qmaild.protocol import frames

from ..unit.processes import SECONDS
from ..unit.whole_house import Said, WholeHouse, whole_house
from .cgroups import MemoryGroup

SHORT_SECONDS = 1.0  # the shortage lasts so long, and until somebody has been killed
PATIENCE = 2.0  # a client's, meanwhile
MORE_BYTES = 64 << 10  # that a service may take beside what it has
SENDERS = 4
SIZES = (100, 400_000, 3000, 60_000)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeHouse]:
    with whole_house(tmp_path_factory.mktemp("h")) as house:
        yield house


class Senders:
    """Clients that send all the time, and what each of their messages was answered."""

    def __init__(self, house: WholeHouse) -> None:
        self._house = house
        self._is_over = threading.Event()
        self.said: list[Said] = []
        self._threads = [threading.Thread(target=self._send, args=[place]) for place in range(SENDERS)]

    def _send(self, place: int) -> None:
        while not self._is_over.is_set():
            self.said.append(self._house.submit(SIZES[place % len(SIZES)], seconds=PATIENCE))
            place += 1

    def __enter__(self) -> Senders:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()


class Held:
    """A service in a group of little memory. It is started again whenever it has ended, as systemd would."""

    def __init__(self, house: WholeHouse, service: str) -> None:
        self.group = MemoryGroup(service, MORE_BYTES)
        self._house = house
        self._service = service
        self._killed = 0
        self.group.hold(house.pid(service))

    def until_ended(self, seconds: float) -> None:
        """Wait for its end, and start it again; or wait so long."""
        try:
            status = self._house.services[self._service].process.wait(seconds)
        except subprocess.TimeoutExpired:
            return
        assert status in (-9, 111)
        self._killed += status == -9
        self._house.start(self._service)
        self._house.ask(self._service, "status")
        self.group.hold(self._house.pid(self._service))

    def lift(self) -> None:
        """Give it all the memory it wants, and see that it runs."""
        self.group.lift()
        while self._killed < self.group.kills:
            self.until_ended(SECONDS)


@pytest.mark.parametrize("service", ["smtpd", "queue", "send", "local"])
def test_a_service_held_to_its_memory_under_load_is_killed_and_loses_nothing(house: WholeHouse, service: str) -> None:
    house.until_arrived({house.submit().number})
    held = Held(house, service)
    try:
        begun = time.monotonic()
        with Senders(house) as senders:
            while time.monotonic() < begun + SHORT_SECONDS or not held.group.kills:
                assert time.monotonic() < begun + SECONDS, "its limit was never met"
                held.until_ended(0.2)
            held.lift()
        assert not [said for said in senders.said if said.outcome == frames.PERMANENT]
        last = house.submit()
        assert last.outcome == frames.SUCCESS, last
        house.until_arrived({said.number for said in [*senders.said, last] if said.outcome == frames.SUCCESS})
    finally:
        held.group.remove()
