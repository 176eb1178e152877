"""Kept connections over real socket pairs, with the waiting times made short."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from qmaild.control.settings import parse
from qmaild.delivery import lanes as subject
from qmaild.delivery.smtp import Where
from qmaild.protocol import frames

ORDER = frames.Order(1, 5, 0, 0, b"remote:b.test", b"s@a.test", [0], [b"r@b.test"], 2, b"x\n", 0, is_probe=1)
SETTINGS = parse({}, b"host.test")[0]


class Dial:
    """Stands for dial: gives one end of a socket pair for each question, and keeps the other."""

    def __init__(self) -> None:
        self.questions: list[tuple[Any, ...]] = []
        self.peers: list[socket.socket] = []

    def ask(self, done: Any, kind: Any, *fields: Any) -> int:
        self.questions.append(fields)
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.peers.append(theirs)
        asyncio.get_running_loop().call_soon(
            done, frames.Connected(1, b"smtp", b"mx.b.test", b"192.0.2.1", 25, 0, 1), ours.detach()
        )
        return 1


async def take_message(peer: socket.socket, is_first: bool) -> None:
    """Play the server for one message."""
    loop = asyncio.get_running_loop()
    for reply in [b"220 a\r\n", b"250-a\r\n250 PIPELINING\r\n"] if is_first else []:
        await loop.sock_sendall(peer, reply)
        await loop.sock_recv(peer, 1000)
    if not is_first:
        assert (await loop.sock_recv(peer, 1000)).startswith(b"MAIL")
    await loop.sock_sendall(peer, b"250 a\r\n250 a\r\n354 a\r\n")
    assert await loop.sock_recv(peer, 1000) == b"x\r\n.\r\n"
    await loop.sock_sendall(peer, b"250 a\r\n")


async def delivered(lanes: subject.Lanes, dial: Dial, is_first: bool = True) -> frames.Report:
    done: asyncio.Future[frames.Report] = asyncio.get_running_loop().create_future()
    lanes.deliver("send", ORDER, -1, done.set_result)
    while not dial.peers:
        await asyncio.sleep(0)
    await take_message(dial.peers[-1], is_first)
    return await asyncio.wait_for(done, 10)


def test_a_lane_names_its_question() -> None:
    assert subject.question_of(b"remote:b.test") == (b"mx", b"b.test")
    assert subject.question_of(b"remote:@.b.test") == (b"route", b".b.test")
    assert subject.question_of(b"remote:@") == (b"route", b"")


def test_an_idle_connection_is_kept_for_a_while_then_left_with_quit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(subject, "SWEEP_SECONDS", 0.02)

    async def run() -> None:
        loop, dial = asyncio.get_running_loop(), Dial()
        lanes = subject.Lanes(loop, dial.ask, lambda: SETTINGS)
        assert (await delivered(lanes, dial)).peers == [b"mx.b.test[192.0.2.1]:25"]
        assert (await delivered(lanes, dial, is_first=False)).outcomes == b"K"
        assert (dial.questions, lanes.connections, lanes.orders) == ([(b"mx", b"b.test", [], 1)], 1, 0)
        assert await asyncio.wait_for(loop.sock_recv(dial.peers[0], 1000), 10) == b"QUIT\r\n"
        assert await asyncio.wait_for(loop.sock_recv(dial.peers[0], 1000), 10) == b""
        assert lanes.connections == 0

    asyncio.run(run())


def test_no_more_idle_connections_are_kept_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "IDLE_CONNECTIONS", 0)

    async def run() -> None:
        dial = Dial()
        lanes = subject.Lanes(asyncio.get_running_loop(), dial.ask, lambda: SETTINGS)
        await delivered(lanes, dial)
        assert lanes.connections == 0
        assert await asyncio.get_running_loop().sock_recv(dial.peers[0], 1000) == b"QUIT\r\n"

    asyncio.run(run())


def test_a_peer_that_drops_its_idle_connection_is_asked_anew() -> None:
    async def run() -> None:
        dial = Dial()
        lanes = subject.Lanes(asyncio.get_running_loop(), dial.ask, lambda: SETTINGS)
        await delivered(lanes, dial)
        dial.peers.pop().close()
        while lanes.connections:
            await asyncio.sleep(0)
        assert (await delivered(lanes, dial)).outcomes == b"K"
        assert len(dial.questions) == 2
        lanes.stop()

    asyncio.run(run())


def test_an_asker_that_leaves_while_dial_works_gets_no_message_sent() -> None:
    async def run() -> None:
        dial = Dial()
        lanes = subject.Lanes(asyncio.get_running_loop(), dial.ask, lambda: SETTINGS)
        lanes.deliver("send", ORDER, -1, lambda report: pytest.fail("a report to nobody"))
        lanes.forget("send")
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(dial.peers[0], 1000), 10) == b""
        assert (lanes.connections, lanes.orders) == (0, 0)

    asyncio.run(run())


def test_an_asker_that_leaves_after_the_dot_gets_no_further_transaction_sent() -> None:
    async def run() -> None:
        loop, dial = asyncio.get_running_loop(), Dial()
        lanes = subject.Lanes(loop, dial.ask, lambda: SETTINGS)
        order = ORDER._replace(indexes=list(range(150)), recipients=[b"r@b.test"] * 150)
        lanes.deliver("send", order, -1, lambda report: pytest.fail("a report to nobody"))
        peer = dial.peers[0]
        for reply in (b"220 a\r\n", b"250-a\r\n250 PIPELINING\r\n", b"250 a\r\n" * 101 + b"354 a\r\n"):
            await loop.sock_sendall(peer, reply)
            await loop.sock_recv(peer, 10_000)
        lanes.forget("send")
        await loop.sock_sendall(peer, b"250 a\r\n")
        while not lanes.idle:
            await asyncio.sleep(0)
        lanes.stop()
        assert await asyncio.wait_for(loop.sock_recv(peer, 1000), 10) == b"QUIT\r\n"

    asyncio.run(asyncio.wait_for(run(), 10))


def test_a_reply_that_trickles_gains_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "SWEEP_SECONDS", 0.02)

    async def run() -> None:
        loop, dial = asyncio.get_running_loop(), Dial()
        done: asyncio.Future[frames.Report] = loop.create_future()
        settings, _ = parse({"timeoutremote": b"1"}, b"host.test")
        lanes = subject.Lanes(loop, dial.ask, lambda: settings)
        lanes.deliver("send", ORDER, -1, done.set_result)
        peer = dial.peers[0]
        for reply in (b"220 a\r\n", b"250-a\r\n250 PIPELINING\r\n"):
            await loop.sock_sendall(peer, reply)
            await loop.sock_recv(peer, 1000)
        await loop.sock_sendall(peer, b"250-")
        while not done.done():
            await loop.sock_sendall(peer, b"x")
            await asyncio.wait([done], timeout=0.05)
        assert (done.result().outcomes, done.result().enhanced) == (b"Z", [b"4.4.2"])

    asyncio.run(asyncio.wait_for(run(), 10))


def test_a_peer_is_named_by_host_address_and_port() -> None:
    where = Where(b"smtp", b"mx.b.test", b"192.0.2.1", 25, False)
    assert where.text == b"mx.b.test[192.0.2.1]:25"
    assert where._replace(host=b"[192.0.2.1]").text == b"[192.0.2.1]:25"
    assert where._replace(address=b"/run/lmtp", port=0).text == b"/run/lmtp"
