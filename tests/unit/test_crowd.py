"""Crowds at the SMTP door: clients that say nothing or a byte now and then, and an honest one among them.

CROWD=5000 in the environment makes it that many (`make crowd`); `make test` has some hundreds.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmaild.protocol import frames
from qmaild.runtime.intake import MAX_HELD, MAX_WHOLE, ROOM

from .peers import Client, Peer, knowing
from .processes import SECONDS, Running

COUNT = int(os.environ.get("CROWD", "500"))
EACH = 50  # sessions from one address: clientconcurrency's default
BATCH = 50  # connections at once, below the backlog
HONEST = 9  # sessions of the honest client, one after the other
BYTES_A_SESSION = 60_000
LARGE = MAX_WHOLE - 4096  # of a message that fits into memory
BEGIN = b"EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<bob@host.test>\r\nDATA\r\n"


class Door:
    """smtpd before a real queue, and what is known of both."""

    def __init__(self, smtpd: Running, place: Path) -> None:
        self.smtpd = smtpd
        self.place = place

    def resident(self) -> int:
        rollup = Path(f"/proc/{self.smtpd.process.pid}/smaps_rollup").read_text()
        return 1024 * int(next(line.split()[1] for line in rollup.splitlines() if line.startswith("Rss:")))

    def put_out(self) -> int:
        """How many messages had to leave its memory."""
        return int(self.status().split()[2])

    def large(self) -> int:
        """How many messages have a file of their own at the queue, complete or not."""
        return len(os.listdir(self.place / "queue/large"))

    def sessions(self) -> int:
        return int(self.status().split()[0])

    def status(self) -> str:
        control = self.smtpd.client("control")
        control.send(frames.Command(1, [b"status"]))
        answer, _ = control.receive()
        control.close()
        assert isinstance(answer, frames.Answer)
        return answer.text.decode()

    def connect(self, number: int) -> socket.socket:
        source = f"127.{1 + number // EACH // 250}.{1 + number // EACH % 250}.1"
        return socket.create_connection(("127.0.0.1", self.smtpd.ports["smtp"]), SECONDS, (source, 0))

    def crowd(self, count: int, stack: contextlib.ExitStack) -> list[socket.socket]:
        """So many greeted sessions, EACH from an address."""
        clients: list[socket.socket] = []
        for begin in range(0, count, BATCH):
            fresh = [stack.enter_context(self.connect(number)) for number in range(begin, min(count, begin + BATCH))]
            for each in fresh:
                assert each.recv(1000).startswith(b"220 ")
            clients += fresh
        return clients

    def honest(self) -> list[float]:
        """How long each of some honest sessions took, from the connection to the 250 of its message."""
        took = []
        for _ in range(HONEST):
            begun = time.monotonic()
            with Client(self.smtpd.ports["smtp"], "127.99.0.1") as client:
                assert client.reply()[:3] == b"220"
                assert client.ask(b"EHLO honest.test")[:3] == b"250"
                assert client.message(b"Subject: x\r\n\r\nhello\r\n")[:3] == b"250"
                took.append(time.monotonic() - begun)
                assert client.ask(b"QUIT")[:3] == b"221"
        return took


@contextlib.contextmanager
def serving(place: Path, **settings: str) -> Iterator[Door]:
    with Peer(place, "lookup", knowing), Running("queue", ["intake", "control"], place), \
         Running("smtpd", ["smtp", "control"], place, smtpdworkers="1", relayclients="", **settings) as smtpd:  # fmt: skip
        door = Door(smtpd, place)
        door.honest()  # what a first session makes is not the crowd's
        yield door


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("QMAILD_STANDALONE", str(tmp_path))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "queue"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], min(limits[1], COUNT + 1000)), limits[1]))
    yield tmp_path
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def shown(what: str, took: list[float], more: str = "", count: int = COUNT) -> None:
    print(f"\n{count} {what}: an honest session takes {statistics.median(took) * 1000:.1f} ms, "
          f"at most {max(took) * 1000:.1f}{more}", end=" ")  # fmt: skip


def test_a_crowd_that_says_nothing_costs_little_memory_and_delays_nobody(place: Path) -> None:
    with serving(place, concurrencyincoming=str(COUNT + 100)) as door, contextlib.ExitStack() as stack:
        before = door.resident()
        door.crowd(COUNT, stack)
        assert door.sessions() == COUNT
        each = (door.resident() - before) / COUNT
        took = door.honest()
        shown("idle sessions", took, f"; {each / 1000:.1f} kB each")
        assert each < BYTES_A_SESSION
        assert statistics.median(took) < 1.0
        one_more = stack.enter_context(door.connect(0))
        assert one_more.recv(1000).startswith(b"421 4.7.0 too many sessions from your address")


def test_a_crowd_that_trickles_into_every_place_keeps_nobody_out(place: Path) -> None:
    with serving(place, concurrencyincoming=str(COUNT)) as door, contextlib.ExitStack() as stack:
        crowd = door.crowd(COUNT, stack)
        for client in crowd[::2]:  # of all addresses: half of their sessions are in DATA
            client.sendall(BEGIN)
        took: list[float] = []
        for _ in range(3):
            for number, client in enumerate(crowd):
                with contextlib.suppress(ConnectionError):
                    client.sendall(b"x" if number % 3 else b"NOOP\r\n")
            took += door.honest()
            assert door.sessions() <= COUNT
        shown("trickling sessions", took)
        assert statistics.median(took) < 1.0
        assert door.sessions() >= COUNT - 3 * HONEST, "only as many gave way as were needed"


def test_a_crowd_that_ends_none_of_its_large_messages_has_no_small_one_take_the_long_way(place: Path) -> None:
    count = MAX_HELD // LARGE + 20
    with serving(place, concurrencyincoming=str(count + 10), clientconcurrency=str(EACH)) as door, \
         contextlib.ExitStack() as stack:  # fmt: skip
        line = b"x" * 1022 + b"\r\n"
        for client in door.crowd(count, stack):
            client.sendall(BEGIN + line * (LARGE // len(line)))
        least = (count * LARGE - MAX_HELD) // LARGE + 1
        deadline = time.monotonic() + SECONDS
        while door.put_out() < least or door.large() < door.put_out():
            assert time.monotonic() < deadline, (door.status(), door.large())
        put_out = door.put_out()
        took = door.honest()
        shown("large messages that are not ended", took, f"; {put_out} put out of memory", count)
        assert put_out <= ROOM // LARGE + least
        assert (door.put_out(), door.large()) == (put_out, put_out), "no honest message was"
        assert statistics.median(took) < 1.0
