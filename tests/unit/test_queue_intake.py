"""The queue's side of intake, in one process with a real store: what a door takes back while the disk works on it."""

from __future__ import annotations

import asyncio
import select
from pathlib import Path
from typing import Any

import pytest

from qmaild.protocol import frames
from qmaild.queue.commits import Commits
from qmaild.queue.intake import Intake
from qmaild.queue.store import FRESH, Store
from qmaild.runtime import system
from qmaild.runtime.channel import Peer

from .processes import SECONDS


class Door:
    """A connection as the intake sees it."""

    is_open = True
    peer = Peer(1, 0, 0)

    def __init__(self) -> None:
        self.state: Any = None
        self.said: list[frames.Frame] = []

    def send(self, frame: frames.Frame) -> None:
        self.said.append(frame)


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_large_message_taken_back_while_it_is_synced_leaves_nothing_to_wait_for(tmp_path: Path, is_lost: bool) -> None:
    loop = asyncio.SelectorEventLoop()
    store = Store.open(str(tmp_path / "queue"))
    commits = Commits(loop, store)
    intake = Intake(store, commits, lambda: 1, 0, lambda address: True, lambda: 0, lambda text: None)
    door: Any = Door()
    intake.opened(door)
    end = frames.End(1, 0, b"smtp", b"a@b.test", [b"c@d.test"], b"", 0, 0)
    for frame in (frames.Open(1), frames.Piece(1, 4, 1), end):
        intake.frame(door, frame, system.sealed_memfd(b"text") if isinstance(frame, frames.Piece) else -1)
    assert commits.is_waiting
    if is_lost:
        intake.closed(door)
    else:
        intake.frame(door, frames.Abort(1), -1)
    assert not commits.is_waiting
    store.close()
    assert door.said == [frames.Taken(1, 4)]
    assert not list((tmp_path / "queue/large").iterdir())
    loop.close()


def test_the_forwards_of_a_mailing_do_not_read_it_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.SelectorEventLoop()
    store = Store.open(str(tmp_path / "queue"))
    recipients = [b"user%d@host.test" % number for number in range(600)]
    number = store.add(birth=1, flags=0, origin=b"smtp", sender=b"a@b.test", recipients=recipients, content=b"text")
    ticket = store.commit()
    while store.collect().durable < ticket:
        assert select.select([store.eventfd], [], [], SECONDS)[0]
    assert store.due(1, FRESH) is not None
    asked: list[bytes] = []
    reads: list[int] = []
    read = store.recipients
    monkeypatch.setattr(store, "recipients", lambda *where: reads.append(where[1]) or read(*where))

    def is_its(address: bytes) -> bool:
        asked.append(address)
        return True

    intake = Intake(store, Commits(loop, store), lambda: 1, 0, is_its, lambda: 0, lambda text: None)
    door: Any = Door()
    intake.opened(door)
    for index in range(len(recipients)):
        intake.frame(door, frames.Message(index, 0, b"forward", b"a@b.test", [b"c@d.test"], b"text", number, index), -1)
    assert (asked, reads) == (recipients, [0, 256, 512])
    assert door.said == []
    store.close()
    loop.close()
