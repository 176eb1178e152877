"""Who sees what in mailq: the origin that inject asks the queue for depends on who the kernel says the client is."""

from __future__ import annotations

import asyncio
import grp
import pwd
import socket
from collections.abc import Callable
from typing import Any

import pytest

from qmaild.protocol import frames, netstring
from qmaild.runtime import people
from qmaild.runtime.channel import Channel, Peer
from qmaild.runtime.injection import Door

NOBODY = 65_432  # an uid without an account
TEXT = b"7  a message\n"


class Queue:
    """Stands where the caller to the queue stands: two answers, the first of which is not the last."""

    outstanding = 0
    queued = 0

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, int]] = []
        self.on_drained: Callable[[], None] = lambda: None

    def ask(self, done: Callable[[Any, int], None], kind: Any, origin: bytes, after: int, limit: int) -> int:
        assert kind is frames.List
        self.asked.append((origin, after))
        done(frames.Listed(1, 0 if after else 7, b"" if after else TEXT), -1)
        return 1


async def mailq(peer: Peer) -> tuple[list[tuple[bytes, int]], list[Any]]:
    """Run mailq as this peer. Returns what the queue was asked, and what the client got."""
    loop = asyncio.get_running_loop()
    queue = Queue()
    door = Door(loop, queue, lambda: None, {})  # type: ignore[arg-type, return-value]
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    ended = asyncio.Event()

    def closed(channel: Channel) -> None:
        door.closed(channel)
        ended.set()

    channel = Channel(loop, ours, door.frame, closed)
    channel.peer = peer
    door.accepted(channel)
    door.opened(channel)
    theirs.sendall(frames.encode(frames.Invoke(1, b"mailq", [], [])))
    theirs.setblocking(False)
    got: list[Any] = []
    reader = netstring.Reader(1 << 20)
    while not any(isinstance(frame, frames.Exit) for frame in got):
        got += [frames.decode(payload) for payload in reader.feed(await loop.sock_recv(theirs, 65536))]
    theirs.close()
    await ended.wait()
    assert door.turns.active == 0
    assert not door.is_busy
    return queue.asked, got


def test_a_user_sees_only_what_that_user_sent() -> None:
    asked, got = asyncio.run(mailq(Peer(1, NOBODY, NOBODY)))
    assert asked == [(b"uid 65432", 0), (b"uid 65432", 7)]
    assert got == [frames.Output(1, 1, TEXT), frames.Exit(1, 0)]


def test_root_sees_everything() -> None:
    asked, _ = asyncio.run(mailq(Peer(1, 0, 0)))
    assert asked == [(b"", 0), (b"", 7)]


@pytest.mark.parametrize("is_member", [True, False])
def test_the_group_of_administrators_sees_everything(monkeypatch: pytest.MonkeyPatch, is_member: bool) -> None:
    """`daemon` is on every Debian system; its own group stands in for qmaild-admin, or a group it is not in."""
    account = pwd.getpwnam("daemon")
    group = account.pw_gid if is_member else 54_321
    monkeypatch.setattr(grp, "getgrnam", lambda name: grp.struct_group((name, "x", group, [])))
    asked, _ = asyncio.run(mailq(Peer(1, account.pw_uid, 65_000)))
    assert asked[0][0] == (b"" if is_member else b"uid %d" % account.pw_uid)


def test_trouble_with_groups_gives_no_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> grp.struct_group:
        raise OSError("the name service is down")

    monkeypatch.setattr(grp, "getgrnam", fail)
    assert asyncio.run(people.People().of(1, 1)) == (b"daemon", False)


def test_an_uid_without_account_has_no_name() -> None:
    assert asyncio.run(people.People().of(NOBODY, NOBODY)) == (b"", False)
