"""The TCP stream under the doors: what is written arrives, what cannot be written waits, the end comes once."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from qmaild.runtime import poller
from qmaild.runtime.stream import HIGH_WATER, READ_BYTES, Stream

from .processes import SECONDS


class Owner:
    """Notes everything it is told."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.told: list[str] = []
        self.error: Exception | None = None
        self.keeps_open = False

    def data_received(self, data: bytes) -> None:
        self.data.append(data)

    def eof_received(self) -> bool:
        self.told.append("eof")
        return self.keeps_open

    def connection_lost(self, error: Exception | None) -> None:
        self.told.append("lost")
        self.error = error

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")


class Bench:
    """A stream with its owner, and the peer's blocking socket."""

    def __init__(self) -> None:
        self.loop = asyncio.SelectorEventLoop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.peer = socket.create_connection(listener.getsockname())
            sock, _ = listener.accept()
        self.peer.settimeout(SECONDS)
        self.owner = Owner()
        self.poller = poller.of(self.loop)
        self.stream = Stream(self.poller, sock, self.owner)

    def until(self, is_so: Callable[[], bool]) -> None:
        async def wait() -> None:
            while not is_so():
                await asyncio.sleep(0)

        self.loop.run_until_complete(asyncio.wait_for(wait(), SECONDS))

    def until_lost(self) -> None:
        self.until(lambda: "lost" in self.owner.told)
        assert self.owner.told.count("lost") == 1


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.stream.abort()
    made.until_lost()
    made.peer.close()
    made.loop.close()


def test_bytes_come_and_go(bench: Bench) -> None:
    bench.stream.write(b"hello")
    assert bench.peer.recv(100) == b"hello"
    bench.peer.sendall(b"x" * 3 * READ_BYTES)
    bench.until(lambda: sum(map(len, bench.owner.data)) == 3 * READ_BYTES)
    assert max(map(len, bench.owner.data)) <= READ_BYTES
    assert bench.stream.get_extra_info("peername") == bench.peer.getsockname()


def test_what_the_peer_does_not_read_waits_and_the_owner_is_told(bench: Bench) -> None:
    total = 0
    while bench.stream.get_write_buffer_size() <= HIGH_WATER:
        bench.stream.write(b"x" * 100_000)
        total += 100_000
    assert bench.owner.told == ["pause"]
    bench.stream.close()
    assert bench.stream.is_closing()
    bench.stream.write(b"too late")
    bench.peer.settimeout(0)
    received = 0

    def is_all_read() -> bool:
        nonlocal received
        try:
            more = len(bench.peer.recv(1 << 20))
        except BlockingIOError:
            return False
        received += more
        return more == 0

    bench.until(is_all_read)
    assert received == total
    bench.until_lost()
    assert bench.owner.error is None


def test_writing_resumes_when_the_peer_has_read(bench: Bench) -> None:
    while not bench.owner.told:
        bench.stream.write(b"x" * 100_000)
    bench.peer.settimeout(0)

    def has_resumed() -> bool:
        with contextlib.suppress(BlockingIOError):
            bench.peer.recv(1 << 20)
        return bench.owner.told == ["pause", "resume"]

    bench.until(has_resumed)
    assert bench.stream.get_write_buffer_size() == 0


def test_nothing_is_read_while_paused(bench: Bench) -> None:
    bench.stream.pause_reading()
    bench.peer.sendall(b"x")
    bench.loop.run_until_complete(asyncio.sleep(0.05))
    assert bench.owner.data == []
    bench.stream.resume_reading()
    bench.until(lambda: bench.owner.data == [b"x"])


def test_an_owner_may_keep_a_half_closed_connection(bench: Bench) -> None:
    bench.owner.keeps_open = True
    bench.peer.shutdown(socket.SHUT_WR)
    bench.until(lambda: bench.owner.told == ["eof"])
    bench.stream.write(b"still here")
    assert bench.peer.recv(100) == b"still here"
    bench.stream.close()
    assert bench.peer.recv(100) == b""
    bench.until_lost()


def test_the_end_of_the_peer_is_the_end(bench: Bench) -> None:
    bench.peer.close()
    bench.until_lost()
    assert bench.owner.told == ["eof", "lost"]


def test_a_reset_is_told_with_its_error(bench: Bench) -> None:
    bench.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    bench.peer.close()
    bench.until_lost()
    assert isinstance(bench.owner.error, ConnectionResetError)


def test_the_owner_is_not_called_from_within_a_close(bench: Bench) -> None:
    bench.stream.close()
    bench.stream.abort()
    assert bench.owner.told == []
    bench.until_lost()
