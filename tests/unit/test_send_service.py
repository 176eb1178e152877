"""send as a process: the queue, local and remote around it are small peers of this test that speak frames."""

from __future__ import annotations

import asyncio
import email
import json
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from qmaild.protocol import frames
from qmaild.runtime.channel import Channel

from .processes import SECONDS, Running


class Peer:
    """One end of a connection: frames come out of receive(), with their descriptors."""

    def __init__(self, channel_of: Callable[[Any, Any], Channel]) -> None:
        self.arrived: asyncio.Queue[tuple[Any, int]] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.channel = channel_of(
            lambda channel, frame, descriptor: self.arrived.put_nowait((frame, descriptor)),
            lambda channel: self.closed.set(),
        )

    async def receive(self) -> tuple[Any, int]:
        return await asyncio.wait_for(self.arrived.get(), SECONDS)

    async def frame(self) -> Any:
        return (await self.receive())[0]

    def send(self, frame: Any, descriptor: int = -1) -> None:
        self.channel.send(frame, descriptor)


class Server:
    """local or remote: each connection becomes a Peer whose Hello has been read."""

    def __init__(self, path: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.setblocking(False)
        self.listener.bind(str(path))
        self.listener.listen(8)

    async def accept(self) -> Peer:
        loop = asyncio.get_running_loop()
        sock, _ = await asyncio.wait_for(loop.sock_accept(self.listener), SECONDS)
        peer = Peer(lambda on_frame, on_close: Channel(loop, sock, on_frame, on_close, takes_descriptors=True))
        assert await peer.frame() == frames.Hello(frames.VERSION, b"send")
        peer.send(frames.Hello(frames.VERSION, b"server"))
        return peer


class House:
    """A running send with the sockets around it, and its journal."""

    def __init__(self, directory: Path, **control: str) -> None:
        (directory / "run").mkdir()
        self._directory = directory
        self.local = Server(directory / "run" / "local.sock")
        self.remote = Server(directory / "run" / "remote.sock")
        self._running = Running("send", ["manage", "control"], directory, idleexit="0", **control)
        self.process = self._running.process

    def control(self, name: str, content: str) -> None:
        (self._running.control / name).write_text(content + "\n")

    async def connect(self, name: str) -> Peer:
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(str(self._directory / "run" / name) + ".sock")
        peer = Peer(lambda on_frame, on_close: Channel(loop, sock, on_frame, on_close, takes_descriptors=True))
        peer.send(frames.Hello(frames.VERSION, b"queue"))
        assert await peer.frame() == frames.Hello(frames.VERSION, b"send")
        return peer

    async def command(self, *words: bytes) -> frames.Answer:
        peer = await self.connect("control/send")
        peer.send(frames.Command(1, list(words)))
        answer: frames.Answer = await peer.frame()
        peer.channel.close()
        return answer

    def journal(self, event: str) -> list[dict[str, str]]:
        path = self._directory / "journal"
        records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [record for record in records if record.get("QMAILD_EVENT") == event]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.local.listener.close()
        self.remote.listener.close()


def run(house: House, scene: Callable[[House], Awaitable[None]]) -> None:
    async def whole() -> None:
        await asyncio.wait_for(scene(house), SECONDS)

    asyncio.run(whole())


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., House]]:
    """Call it with control files to get the house."""
    monkeypatch.setenv("QMAILD_STANDALONE", str(tmp_path))  # its journal is a file there
    made: list[House] = []

    def begin(**control: str) -> House:
        made.append(House(tmp_path, **control))
        return made[0]

    yield begin
    for each in made:
        each.close()


@pytest.fixture
def house(start: Callable[..., House]) -> House:
    return start()


def job(
    number: int,
    *recipients: bytes,
    content: bytes = b"Subject: x\n\nhello\n",
    descriptor: int = 0,
    sender: bytes = b"sender@away.example",
    birth: int = 0,
) -> frames.Job:
    return frames.Job(
        number,
        birth or time.time_ns() // 1000,
        0,
        b"smtp",
        sender,
        list(range(len(recipients))),
        list(recipients),
        len(content),
        content,
        descriptor,
    )


def report(order: frames.Order, outcomes: bytes, text: bytes = b"said") -> frames.Report:
    count = len(outcomes)
    codes = [{75: 250, 90: 450, 68: 550}[byte] for byte in outcomes]
    return frames.Report(
        order.tag,
        outcomes,
        codes,
        [b"%d.1.1" % (code // 100) for code in codes],
        [text] * count,
        [b"192.0.2.1"] * count,
    )


def memfd(content: bytes) -> int:
    descriptor = os.memfd_create("body")
    os.write(descriptor, content)
    return descriptor


def test_served_recipients_of_both_channels_are_done_and_recorded(house: House) -> None:
    async def scene(house: House) -> None:
        queue = await house.connect("manage")
        queue.send(job(7, b"user@host.test", b"a@Far.example", b"b@far.example"))
        local, remote = await house.local.accept(), await house.remote.accept()
        first, second = await local.frame(), await remote.frame()
        assert (first.lane, first.recipients, first.indexes) == (b"local", [b"user@host.test"], [0])
        assert (second.lane, second.recipients, second.indexes) == (
            b"remote:far.example",
            [b"a@Far.example", b"b@far.example"],
            [1, 2],
        )
        assert second.content == b"Subject: x\n\nhello\n"
        local.send(report(first, b"K"))
        assert await queue.frame() == frames.Done(7, [0])
        remote.send(report(second, b"KK"))
        assert await queue.frame() == frames.Done(7, [1, 2])
        records = house.journal("delivery")
        assert [record["QMAILD_RECIPIENT"] for record in records] == [
            "user@host.test",
            "a@Far.example",
            "b@far.example",
        ]
        assert {record["QMAILD_OUTCOME"] for record in records} == {"success"}

    run(house, scene)


def test_a_descriptor_rides_with_every_order_and_none_stays_open(house: House) -> None:
    async def scene(house: House) -> None:
        held = f"/proc/{house.process.pid}/fd"
        queue = await house.connect("manage")
        queue.send(
            job(8, b"user@host.test", b"a@far.example", descriptor=1, content=b"Prefix: 1\n"),
            memfd(b"Subject: big\n\nbody\n"),
        )
        local, remote = await house.local.accept(), await house.remote.accept()
        for peer in (local, remote):
            order, descriptor = await peer.receive()
            assert order.content == b"Prefix: 1\n"
            assert os.pread(descriptor, 100, 0) == b"Subject: big\n\nbody\n"
            os.close(descriptor)
            peer.send(report(order, b"K"))
            await queue.frame()
        assert not [name for name in os.listdir(held) if "memfd" in os.readlink(f"{held}/{name}")]

    run(house, scene)


def test_a_temporary_failure_is_deferred_with_its_lane_and_a_permanent_one_noted(house: House) -> None:
    async def scene(house: House) -> None:
        queue = await house.connect("manage")
        now = time.time_ns() // 1000
        queue.send(job(9, b"a@far.example", b"b@far.example", birth=now))
        remote = await house.remote.accept()
        order = await remote.frame()
        remote.send(report(order, b"ZD", b"no such user"))
        answers = {type(frame): frame for frame in (await queue.frame(), await queue.frame())}
        deferred = answers[frames.Deferred]
        assert (deferred.number, deferred.lane, deferred.indexes) == (9, b"remote:far.example", [0])
        assert now + 398_000_000 < deferred.due < now + 500_000_000  # a slow machine may answer seconds later
        assert answers[frames.Failed] == frames.Failed(9, 1, b"5.1.1 550 192.0.2.1\nno such user\n")

    run(house, scene)


@pytest.mark.parametrize("how", ["lost", "another frame"])
def test_a_lost_service_defers_its_orders_for_a_minute_at_most_and_is_asked_again(house: House, how: str) -> None:
    async def scene(house: House) -> None:
        queue = await house.connect("manage")
        queue.send(job(10, b"a@far.example"))
        remote = await house.remote.accept()
        order = await remote.frame()
        if how == "another frame":
            remote.send(frames.Is(order.tag, b"K", b""))
        else:
            remote.channel.close()
        deferred = await queue.frame()
        assert (deferred.number, deferred.indexes) == (10, [0])
        assert deferred.due <= time.time_ns() // 1000 + 60_000_000
        queue.send(job(10, b"a@far.example"))
        remote = remote if how == "another frame" else await house.remote.accept()
        remote.send(report(await remote.frame(), b"K"))
        assert await queue.frame() == frames.Done(10, [0])

    run(house, scene)


def test_finish_is_answered_by_a_bounce_and_its_commit_is_recorded(house: House) -> None:
    async def scene(house: House) -> None:
        queue = await house.connect("manage")
        original = b"Subject: lost\n\nhello\n"
        queue.send(
            frames.Finish(
                11,
                1_000_000,
                0,
                b"smtp",
                b"sender@away.example",
                [b"a@far.example"],
                [b"5.1.1 550 192.0.2.1\nno such user\n"],
                len(original),
                original,
                0,
            )
        )
        bounce = await queue.frame()
        assert (bounce.number, bounce.sender, bounce.recipients) == (11, b"", [b"sender@away.example"])
        assert email.message_from_bytes(bounce.content).get_payload(2).get_payload(0)["Subject"] == "lost"
        queue.send(frames.Bounced(11, 12))
        await house.command(b"status")
        record = house.journal("bounced")[0]
        assert (record["QMAILD_MESSAGE"], record["QMAILD_BOUNCE"]) == ("11", "12")

    run(house, scene)


def test_a_large_message_goes_back_as_its_header_section(start: Callable[..., House]) -> None:
    async def scene(house: House) -> None:
        queue = await house.connect("manage")
        body = b"Subject: large\n\n" + b"x" * 70 * 1024
        prefix = b"Received: from x\n"
        queue.send(
            frames.Finish(
                13,
                1_000_000,
                0,
                b"smtp",
                b"sender@away.example",
                [b"a@far.example"],
                [b"5.1.1 550 \nno\n"],
                len(prefix) + len(body),
                prefix,
                1,
            ),
            memfd(body),
        )
        bounce = await queue.frame()
        part = email.message_from_bytes(bounce.content).get_payload(2)
        assert part.get_content_type() == "text/rfc822-headers"
        assert part.get_payload() == "Return-Path: <sender@away.example>\nReceived: from x\nSubject: large\n"

    run(start(), scene)


def test_a_reload_holds_and_frees_a_channel(house: House) -> None:
    async def scene(house: House) -> None:
        queue = await house.connect("manage")
        house.control("concurrencyremote", "0")
        assert (await house.command(b"reload")).code == 0
        queue.send(job(14, b"a@far.example"))
        while b" 1 recipients waiting" not in (await house.command(b"status")).text:
            pass
        house.control("concurrencyremote", "many")
        answer = await house.command(b"reload")
        assert answer.code == 1 and b"concurrencyremote:1" in answer.text
        house.control("concurrencyremote", "5")
        house.control("smtproutes", ":relay.example")
        assert (await house.command(b"reload")).code == 0
        remote = await house.remote.accept()
        order = await remote.frame()
        assert order.lane == b"remote:@"
        remote.send(report(order, b"K"))
        assert await queue.frame() == frames.Done(14, [0])

    run(house, scene)


def test_sigterm_lets_what_is_in_flight_end_and_leaves_the_rest_unanswered(
    start: Callable[..., House],
) -> None:
    async def scene(house: House) -> None:
        queue = await house.connect("manage")
        queue.send(job(15, b"a@far.example", b"b@other.example"))
        remote = await house.remote.accept()
        order = await remote.frame()
        house.process.send_signal(signal.SIGTERM)
        queue.send(job(16, b"c@third.example"))
        loop = asyncio.get_running_loop()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(queue.arrived.get(), 0.2)
        remote.send(report(order, b"K"))
        assert await queue.frame() == frames.Done(15, [order.indexes[0]])
        await asyncio.wait_for(queue.closed.wait(), SECONDS)
        assert await loop.run_in_executor(None, house.process.wait) == 0
        assert queue.arrived.empty() and remote.arrived.empty()

    run(start(concurrencyremote="1"), scene)


def test_a_queue_that_leaves_is_told_what_was_in_flight_and_nothing_is_begun(start: Callable[..., House]) -> None:
    async def scene(house: House) -> None:
        queue = await house.connect("manage")
        queue.send(job(15, b"a@far.example", b"b@other.example"))
        remote = await house.remote.accept()
        order = await remote.frame()
        queue.send(frames.Leaving(5))
        successor = await house.connect("control/send")
        successor.send(frames.Command(1, [b"status"]))
        while b" 0 recipients waiting" not in (answer := await successor.frame()).text:
            successor.send(frames.Command(1, [b"status"]))
        assert b" 1 orders in flight" in answer.text and not queue.closed.is_set()
        remote.send(report(order, b"K"))
        assert await queue.frame() == frames.Done(15, [order.indexes[0]])
        await asyncio.wait_for(queue.closed.wait(), SECONDS)
        assert remote.arrived.empty()
        after = await house.connect("manage")
        after.send(job(15, b"b@other.example"))
        order = await remote.frame()
        remote.send(report(order, b"K"))
        assert await after.frame() == frames.Done(15, order.indexes)

    run(start(concurrencyremote="1"), scene)


def test_a_queue_that_leaves_and_reads_slowly_is_told_everything(house: House) -> None:
    async def scene(house: House) -> None:
        count = 200
        queue, control = await house.connect("manage"), await house.connect("control/send")
        queue.send(job(15, *[b"r%d@far.example" % number for number in range(count)]))
        remote = await house.remote.accept()
        orders = [await remote.frame() for _ in range(count // 100)]
        queue.channel.pause()
        for order in orders:
            places = len(order.indexes)
            remote.send(frames.Report(order.tag, b"D" * places, [550] * places, [b"5.0.0"] * places, [b"x" * 4000] * places,
                                      [b"peer"] * places))  # fmt: skip
        queue.send(frames.Leaving(5))
        text = b""
        while b"0 messages" not in text:  # then the reports are read, and at the second question what stood behind them
            control.send(frames.Command(1, [b"status"]))
            text = (await control.frame()).text
        control.send(frames.Command(2, [b"status"]))
        await control.frame()
        queue.channel.resume()
        assert {(await queue.frame()).index for _ in range(count)} == set(range(count))
        await asyncio.wait_for(queue.closed.wait(), SECONDS)

    run(house, scene)


def test_a_new_queue_connection_replaces_the_old_one(house: House) -> None:
    async def scene(house: House) -> None:
        before = await house.connect("manage")
        before.send(job(17, b"a@far.example"))
        remote = await house.remote.accept()
        stale = await remote.frame()
        after = await house.connect("manage")
        remote.send(report(stale, b"D"))
        await asyncio.wait_for(before.closed.wait(), SECONDS)
        after.send(job(17, b"a@far.example"))
        remote = await house.remote.accept()
        remote.send(report(await remote.frame(), b"K"))
        assert await after.frame() == frames.Done(17, [0])
        assert after.arrived.empty()

    run(house, scene)


def test_a_dead_destination_is_told_about_and_revived_on_demand(house: House) -> None:
    async def scene(house: House) -> None:
        queue = await house.connect("manage")
        number = 100
        queue.send(job(number, b"a@far.example"))
        remote = await house.remote.accept()
        while b"left alone" not in (await house.command(b"destinations")).text:
            order = await remote.frame()
            columns = ([0], [b"4.4.1"], [b"I could not establish a connection."], [b""])
            remote.send(frames.Report(order.tag, b"Z", *columns))
            assert isinstance(await queue.frame(), frames.Deferred)
            number += 1
            queue.send(job(number, b"a@far.example"))
        assert await queue.frame() == frames.Deferred(number, b"remote:far.example", ANY, [0])
        assert "could not be reached lately" in house.journal("delivery")[-1]["QMAILD_TEXT"]
        assert remote.arrived.empty()
        assert (await house.command(b"revive")).text == b"1 destinations are tried again"
        queue.send(job(200, b"a@far.example"))
        assert (await remote.frame()).number == 200

    run(house, scene)


def test_a_huge_message_is_routed_while_others_go_on(house: House) -> None:
    async def scene(house: House) -> None:
        queue = await house.connect("manage")
        queue.send(job(1, *[b"u%d@host.test" % place for place in range(50_000)]))
        queue.send(job(2, b"a@far.example"))
        remote = await house.remote.accept()
        assert (await remote.frame()).number == 2
        local = await house.local.accept()
        assert len((await local.frame()).recipients) == 50

    run(house, scene)


@pytest.mark.parametrize(
    "frame",
    [
        job(18, b"a@far.example")._replace(indexes=[1, 2]),
        frames.Finish(18, 1, 0, b"smtp", b"", [b"a@far.example"], [], 0, b"", 0),
        frames.Done(18, [0]),
    ],
)
def test_a_frame_that_makes_no_sense_costs_its_connection_only(house: House, frame: Any) -> None:
    async def scene(house: House) -> None:
        queue = await house.connect("manage")
        queue.send(frame)
        await asyncio.wait_for(queue.closed.wait(), SECONDS)
        queue = await house.connect("manage")
        queue.send(job(19, b"a@far.example"))
        remote = await house.remote.accept()
        remote.send(report(await remote.frame(), b"K"))
        assert await queue.frame() == frames.Done(19, [0])

    run(house, scene)


def test_when_the_queue_is_lost_what_it_ordered_is_taken_back(house: House) -> None:
    """local and remote see their connections end, and begin nothing more: the next queue hands the same mail out again."""

    async def scene(house: House) -> None:
        queue = await house.connect("manage")
        queue.send(job(7, b"user@host.test", b"a@far.example"))
        local, remote = await house.local.accept(), await house.remote.accept()
        await local.frame()
        await remote.frame()
        queue.channel.close()
        await asyncio.wait_for(local.closed.wait(), SECONDS)
        await asyncio.wait_for(remote.closed.wait(), SECONDS)
        queue = await house.connect("manage")
        queue.send(job(7, b"user@host.test", b"a@far.example"))
        local, remote = await house.local.accept(), await house.remote.accept()
        for peer, index in ((local, 0), (remote, 1)):
            peer.send(report(await peer.frame(), b"K"))
            assert await queue.frame() == frames.Done(7, [index])

    run(house, scene)
