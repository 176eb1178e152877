"""Channels over real socket pairs: frames, descriptors, back-pressure, and peers that misbehave."""

from __future__ import annotations

import array
import asyncio
import errno
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qmaild.protocol import frames
from qmaild.runtime import poller
from qmaild.runtime.channel import Channel

from .peers import lingering


class End:
    """One end of a channel that notes what it gets."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, takes_descriptors: bool = True) -> None:
        self.got: list[tuple[Any, int]] = []
        self.closed = 0
        self.channel = Channel(loop, sock, self._frame, self._closed, takes_descriptors=takes_descriptors)

    def _frame(self, channel: Channel, frame: Any, descriptor: int) -> None:
        self.got.append((frame, descriptor))

    def _closed(self, channel: Channel) -> None:
        self.closed += 1


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.SelectorEventLoop()
    poller.of(loop)  # made once, before descriptors are counted
    yield loop
    loop.close()


def until(loop: asyncio.AbstractEventLoop, condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0)

    loop.run_until_complete(asyncio.wait_for(wait(), 10))


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def test_frames_arrive_in_order(loop: asyncio.AbstractEventLoop) -> None:
    one, other = (End(loop, sock) for sock in pair())
    for number in range(1000):
        one.channel.send(frames.Accepted(number, number))
    until(loop, lambda: len(other.got) == 1000)
    assert [frame.tag for frame, _ in other.got] == list(range(1000))


def test_each_descriptor_arrives_with_the_frame_that_announced_it(loop: asyncio.AbstractEventLoop) -> None:
    one, other = (End(loop, sock) for sock in pair())
    for number in range(20):
        descriptor = os.memfd_create("test")
        os.write(descriptor, b"%d" % number)
        one.channel.send(frames.Accepted(number, 0))
        one.channel.send(frames.Connected(number, b"smtp", b"", b"", 25, 0, 1), descriptor)
    until(loop, lambda: len(other.got) == 40)
    carried = [(frame, descriptor) for frame, descriptor in other.got if isinstance(frame, frames.Connected)]
    for frame, descriptor in carried:
        assert os.pread(descriptor, 10, 0) == b"%d" % frame.tag
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)
    assert all(descriptor == -1 for frame, descriptor in other.got if isinstance(frame, frames.Accepted))


def test_more_than_the_socket_holds_arrives_whole(loop: asyncio.AbstractEventLoop) -> None:
    one, other = (End(loop, sock) for sock in pair())
    content = os.urandom(60000)
    for number in range(50):
        one.channel.send(frames.Data(number, content))
    until(loop, lambda: len(other.got) == 50)
    assert all(frame.content == content for frame, _ in other.got)
    assert one.channel.queued == 0


def test_a_paused_channel_reads_nothing_until_it_is_resumed(loop: asyncio.AbstractEventLoop) -> None:
    one, other = (End(loop, sock) for sock in pair())
    other.channel.pause()
    one.channel.send(frames.Open(1))
    until(loop, lambda: one.channel.queued == 0)
    assert other.got == []
    other.channel.resume()
    until(loop, lambda: len(other.got) == 1)


def test_closing_flushes_what_the_peer_can_take_and_tells_both_ends_once(loop: asyncio.AbstractEventLoop) -> None:
    one, other = (End(loop, sock) for sock in pair())
    one.channel.send(frames.Open(1))
    one.channel.close()
    one.channel.close()
    until(loop, lambda: other.closed == 1)
    assert one.closed == 1
    assert [frame for frame, _ in other.got] == [frames.Open(1)]


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.0\r\n", b"4:Knot,", b"3:v1:,", b"99999999:", b"0:,"])
def test_garbage_ends_the_connection(loop: asyncio.AbstractEventLoop, garbage: bytes) -> None:
    ours, theirs = pair()
    end = End(loop, ours)
    theirs.send(garbage)
    until(loop, lambda: end.closed == 1)
    assert end.got == []


def test_an_announced_descriptor_that_does_not_come_ends_the_connection(loop: asyncio.AbstractEventLoop) -> None:
    ours, theirs = pair()
    end = End(loop, ours)
    theirs.send(frames.encode(frames.Connected(1, b"smtp", b"", b"", 25, 0, 1)))
    until(loop, lambda: end.closed == 1)


def test_a_peer_that_sends_many_descriptors_unasked_is_cut_off_and_none_stays_open(loop: asyncio.AbstractEventLoop) -> None:
    before = set(os.listdir("/proc/self/fd"))
    ours, theirs = pair()
    end = End(loop, ours)
    extra = [os.memfd_create("test") for _ in range(20)]
    theirs.sendmsg([frames.encode(frames.Open(1))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", extra))])
    for descriptor in extra:
        os.close(descriptor)
    until(loop, lambda: end.closed == 1)
    theirs.close()
    until(loop, lambda: set(os.listdir("/proc/self/fd")) <= before)


def test_a_descriptor_where_none_belongs_ends_the_connection_and_does_not_stay_open(loop: asyncio.AbstractEventLoop) -> None:
    before = set(os.listdir("/proc/self/fd"))
    ours, theirs = pair()
    end = End(loop, ours, takes_descriptors=False)
    socket.send_fds(theirs, [frames.encode(frames.Connected(1, b"smtp", b"", b"", 25, 0, 1))], [theirs.fileno()])
    until(loop, lambda: end.closed == 1)
    theirs.close()
    assert end.got == []
    until(loop, lambda: set(os.listdir("/proc/self/fd")) <= before)


@pytest.mark.parametrize("takes_descriptors", [False, True])
@pytest.mark.parametrize("garbage", [b"", b"99999999:"])  # which ends the connection before the descriptor is come to
def test_nobody_waits_until_a_strangers_descriptor_is_closed(
    loop: asyncio.AbstractEventLoop, takes_descriptors: bool, garbage: bytes
) -> None:
    ours, theirs = pair()
    with lingering() as stranger:
        theirs.send(garbage)
        socket.send_fds(theirs, [b"0:,"], [stranger.fileno()])
        stranger.close()
        begun = time.monotonic()
        end = End(loop, ours, takes_descriptors)
        until(loop, lambda: end.closed == 1)
        assert time.monotonic() - begun < 10
    theirs.close()


@pytest.mark.parametrize("said", [[(b"x", True)], [(b"x", True), (b"3:abc,", False)], [(b"3:abc,", False), (b"x", True)]])
def test_urgent_bytes_are_bytes_like_others_and_hold_nobody_up(
    loop: asyncio.AbstractEventLoop, said: list[tuple[bytes, bool]]
) -> None:
    ours, theirs = pair()
    for data, is_urgent in said:
        theirs.send(data, socket.MSG_OOB if is_urgent else 0)
    end = End(loop, ours, takes_descriptors=False)
    theirs.send(b"no frame")
    until(loop, lambda: end.closed == 1)
    assert theirs.recv(1) == b""
    theirs.close()


def test_a_descriptor_beside_an_urgent_byte_is_closed_by_nobody_who_is_waited_for(loop: asyncio.AbstractEventLoop) -> None:
    ours, theirs = pair()
    with lingering() as stranger:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, stranger.fileno().to_bytes(4, sys.byteorder))]
        theirs.sendmsg([b"x"], rights, socket.MSG_OOB)
        stranger.close()
        begun = time.monotonic()
        end = End(loop, ours, takes_descriptors=False)
        until(loop, lambda: end.closed == 1)
        assert time.monotonic() - begun < 10
    theirs.close()


def test_a_fault_in_handling_one_frame_costs_none_of_those_that_came_with_it(loop: asyncio.AbstractEventLoop) -> None:
    ours, theirs = (End(loop, sock) for sock in pair())
    told: list[Any] = []
    loop.set_exception_handler(lambda loop, context: told.append(context["exception"]))

    def picky(channel: Channel, frame: Any, descriptor: int) -> None:
        if frame.tag == 1:
            raise OverflowError(frame.tag)
        theirs.got.append((frame, descriptor))

    theirs.channel.rewire(picky)
    for tag in range(3):
        ours.channel.send(frames.Open(tag))
    until(loop, lambda: len(theirs.got) == 2)
    assert [frame.tag for frame, _ in theirs.got] == [0, 2]
    assert [type(error) for error in told] == [OverflowError]


def test_who_writes_more_once_all_is_gone_never_comes_between_frames_of_one_burst(loop: asyncio.AbstractEventLoop) -> None:
    one, other = (End(loop, sock) for sock in pair())
    told: list[str] = []
    one.channel.on_drained = lambda: told.append("drained")
    for number in range(20):
        one.channel.send(frames.Data(number, bytes(5000)))
        assert not told
    until(loop, lambda: len(other.got) == 20 and bool(told))
    assert [frame.tag for frame, _ in other.got] == list(range(20))


class Flaky(socket.socket):
    """A socket whose first send() fails, as for want of kernel memory, and whose next ones would not."""

    has_failed = False

    def send(self, *arguments: Any) -> int:
        if not self.has_failed:
            self.has_failed = True
            raise OSError(errno.ENOBUFS, "no room")
        return super().send(*arguments)


def test_after_a_write_that_failed_nothing_more_reaches_the_peer(loop: asyncio.AbstractEventLoop) -> None:
    ours, theirs = pair()
    flaky = Flaky(fileno=ours.detach())
    end = End(loop, flaky)
    for number in range(20):
        end.channel.send(frames.Data(number, bytes(5000)))
    assert flaky.has_failed and end.closed == 0
    until(loop, lambda: end.closed == 1)
    assert theirs.recv(1) == b""
    theirs.close()


def test_the_peer_is_known_by_its_credentials(loop: asyncio.AbstractEventLoop) -> None:
    ours, theirs = pair()
    end = End(loop, ours)
    assert end.channel.peer == (os.getpid(), os.geteuid(), os.getegid())
    theirs.close()
