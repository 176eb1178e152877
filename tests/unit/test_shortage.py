"""Every service in turn finds no free descriptor, or no memory: it stays, it refuses politely, and it recovers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qmaild.protocol import frames
from qmaild.runtime.caller import Caller

from .peers import Peer, knowing
from .processes import SECONDS, Running, no_descriptor_free
from .whole_house import SOCKETS, WholeHouse, whole_house

DOORS = ("smtpd", "qmqpd", "inject")
LARGE = 400_000  # streamed to a file of its own, and handed on by descriptors
SHORT_SECONDS = 1.2  # the shortage lasts
WAITING_SECONDS = 1.0  # a client's patience meanwhile


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeHouse]:
    with whole_house(tmp_path_factory.mktemp("h")) as house:
        yield house


def door_of(service: str) -> str:
    """The door that this shortage is seen through."""
    return service if service in DOORS else "smtpd"


def promised_now(house: WholeHouse, door: str) -> set[int]:
    """Submit small and large messages while a shortage lasts: what was accepted, whatever else was said."""
    promised = set()
    end = time.monotonic() + SHORT_SECONDS
    sizes = [100, LARGE, 100_000]
    while time.monotonic() < end:
        sizes.append(sizes.pop(0))
        said = house.submit(sizes[0], door, WAITING_SECONDS)
        assert said.outcome != frames.PERMANENT, said
        if said.outcome == frames.SUCCESS:
            promised.add(said.number)
    return promised


def promised_at_last(house: WholeHouse, door: str = "smtpd") -> set[int]:
    deadline = time.monotonic() + SECONDS
    while True:
        said = house.submit(LARGE, door)
        if said.outcome == frames.SUCCESS:
            return {said.number}
        assert said.outcome != frames.PERMANENT and time.monotonic() < deadline, said


@pytest.mark.parametrize("service", SOCKETS)
def test_a_service_without_a_free_descriptor_stays_and_recovers_and_loses_nothing(house: WholeHouse, service: str) -> None:
    door = door_of(service)
    promised = promised_at_last(house, door)
    house.until_arrived(promised)
    with no_descriptor_free(house.pid(service)):
        promised = promised_now(house, door)
    assert not promised or service not in DOORS, "nobody can come in"
    promised |= promised_at_last(house, door)
    house.until_arrived(promised)
    assert house.is_alive(service)


# All have one uid here: who has a program is first asked of the same deliverer as who has none.
@pytest.mark.parametrize(("service", "receivers"), [("spawn", ("joe", "ann")), ("program", ("ann",))])
def test_a_deliverer_without_a_free_descriptor_delivers_when_it_has_one(
    house: WholeHouse, service: str, receivers: tuple[str, ...]
) -> None:
    house.until_arrived(promised_at_last(house))
    (deliverer,) = house.children(service)
    with no_descriptor_free(deliverer):
        promised = {house.submit().number for _ in range(2)}
        house.until_arrived(promised, but=receivers)
        house.until_waiting(len(promised) * len(receivers))
        assert not any(house.arrived()[each] & promised for each in receivers)
    house.until_arrived(promised)
    assert house.children(service) == [deliverer]


@pytest.mark.parametrize("service", ["spawn", "program"])
def test_a_deliverer_that_cannot_take_a_descriptor_gives_way_to_another(house: WholeHouse, service: str) -> None:
    house.until_arrived(promised_at_last(house))
    (deliverer,) = house.children(service)
    with no_descriptor_free(deliverer):
        promised = promised_at_last(house)
        house.until_arrived(promised)
    assert deliverer not in house.children(service)


def size_of(process: int) -> int:
    """Its address space, in bytes."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[0]) * resource.getpagesize()


@pytest.mark.parametrize("service", ["queue", "send", "smtpd", "local", "remote"])
def test_a_service_without_memory_refuses_or_starts_again_and_loses_nothing(house: WholeHouse, service: str) -> None:
    promised = promised_at_last(house)
    house.until_arrived(promised)
    process = house.pid(service)
    limits = resource.prlimit(process, resource.RLIMIT_AS)
    resource.prlimit(process, resource.RLIMIT_AS, (size_of(process), limits[1]))
    promised = promised_now(house, door_of(service))
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(process, resource.RLIMIT_AS, limits)
    if not house.is_alive(service):
        assert house.services[service].process.returncode == 111
        house.start(service)
    promised |= promised_at_last(house)
    house.until_arrived(promised)


def test_a_question_that_finds_no_descriptor_is_answered_none_and_the_next_one_asks(tmp_path: Path) -> None:
    async def run() -> list[Any]:
        loop = asyncio.get_running_loop()
        caller = Caller(loop, str(tmp_path / "run/lookup.sock"), b"test")
        answers: asyncio.Queue[Any] = asyncio.Queue()
        found = []
        with no_descriptor_free(os.getpid()):
            caller.ask(lambda frame, descriptor: answers.put_nowait(frame), frames.Who, b"bob@host.test")
            found.append(await asyncio.wait_for(answers.get(), SECONDS))
        caller.ask(lambda frame, descriptor: answers.put_nowait(frame), frames.Who, b"bob@host.test")
        found.append(await asyncio.wait_for(answers.get(), SECONDS))
        caller.close()
        return found

    with Peer(tmp_path, "lookup", knowing):
        assert asyncio.run(run()) == [None, frames.Is(2, frames.SUCCESS, b"")]


def test_the_watchdog_is_fed_without_a_free_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QMAILD_STANDALONE", str(tmp_path))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(SECONDS)
        with Running("dial", ["control"], tmp_path) as service:
            while systemd.recv(1000) != b"READY=1":
                pass
            with no_descriptor_free(service.process.pid):
                systemd.recv(1000)  # may have been on its way
                for _ in range(2):
                    assert systemd.recv(1000).startswith(b"WATCHDOG=1\n")
