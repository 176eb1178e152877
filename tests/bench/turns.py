"""How long the queue's loop is held at full depth. Knows the queue's own parts, in this process; no server, no sessions.

Turns are measured by the CPU time of the thread, which others on the machine hardly change; rates by the clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qmaild.queue.administration import SLICE_MESSAGES, Administration
from qmaild.queue.commits import Commits
from qmaild.queue.manager import Manager
from qmaild.queue.store import Store

from .backlog import content, offline
from .load import LoadError
from .measure import percentile

BESIDE = 20  # messages that are accepted in one commit
NEVER = 1 << 50  # bytes of log until a checkpoint
ALWAYS = 1 << 20  # the next one begins a mebibyte after the last
AFTER = 30  # turns after the last slice, in which send is handed what it takes


@dataclass(frozen=True, slots=True)
class Turns:
    """seconds: of CPU, of each turn; about: what they did together."""

    seconds: list[float]
    about: int

    def __str__(self) -> str:
        p50, p99, most = (percentile(self.seconds, share) * 1000 for share in (0.5, 0.99, 1.0))
        return f"{len(self.seconds)} turns of p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {most:.1f} ms"


class Beat:
    """Takes part in each turn of a loop, and says how long each was."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.seconds: list[float] = []
        self._since = time.thread_time()
        loop.call_soon(self._again)

    def _again(self) -> None:
        now = time.thread_time()
        self.seconds.append(now - self._since)
        self._since = now
        self._loop.call_soon(self._again)


@contextlib.contextmanager
def _office(store: Store, path: str) -> Iterator[tuple[asyncio.AbstractEventLoop, Administration]]:
    """The queue service's parts in a loop. What is due goes to whoever listens at the path."""
    loop = asyncio.SelectorEventLoop()
    commits = Commits(loop, store)
    manager = Manager(loop, store, commits, lambda: time.time_ns() // 1000, path, int)
    try:
        yield loop, Administration(loop, store, commits, manager.wake)
        manager.close(0)
        loop.run_until_complete(asyncio.sleep(0.1))
    finally:
        loop.close()


def listed(directory: Path, owner: int, domain: str) -> Turns:
    """What `qmailctl queue list --domain` asks for, answer by answer."""
    seconds, after, lines = [], b"0", 0
    with offline(directory, owner) as store, _office(store, "/nowhere") as (_, office):
        sweep = office.commands[b"sweep"]
        while not seconds or after != b"0":
            begun = time.thread_time()
            _, text = sweep([b"list", after, domain.encode()])
            seconds.append(time.thread_time() - begun)
            after, count = text.split(b"\n", 1)[0].split(b" ")
            lines += int(count)
    return Turns(seconds, lines)


def all_made_due(directory: Path, owner: int) -> Turns:
    """`qmailctl queue retry all`, while a send reads as fast as it can and answers nothing."""
    with (
        tempfile.TemporaryDirectory(prefix="q") as folder, offline(directory, owner) as store,
        _office(store, folder + "/m") as (loop, office), _reader(folder + "/m"),
    ):  # fmt: skip
        messages = store.counts().messages
        office.retry_all()
        beat = Beat(loop)
        while len(beat.seconds) < messages // SLICE_MESSAGES + AFTER:
            loop.run_until_complete(asyncio.sleep(0))
        turns = Turns(beat.seconds[:], messages)
        handed = store.counts().out
    if not handed:
        raise LoadError("nothing was handed out")
    return turns


@contextlib.contextmanager
def _reader(path: str) -> Iterator[None]:
    """Accepts one connection, reads from it, and closes it in the end."""
    taken: list[socket.socket] = []

    def read() -> None:
        taken.append(listener.accept()[0])
        while taken[0].recv(1 << 16):
            pass

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        yield
        for sock in taken:
            sock.shutdown(socket.SHUT_RDWR)
            thread.join()
            sock.close()


@dataclass(frozen=True, slots=True)
class Beside:
    """Accepting while checkpoints are written one after the other. rates: of messages in a second, without and with."""

    plain: list[float]
    writing: list[float]
    turns: Turns

    @property
    def share(self) -> float:
        return statistics.median(self.writing) / statistics.median(self.plain)


def checkpoints(directory: Path, owner: int, messages: int, body_bytes: int, runs: int) -> Beside:
    """So many messages are accepted in each run; they are gone afterwards."""
    plain, writing, seconds, made = [], [], [], 0
    for _ in range(runs):
        with offline(directory, owner, NEVER) as store:
            plain.append(_accept(store, messages, body_bytes, []))
        with offline(directory, owner, ALWAYS) as store:
            writing.append(_accept(store, messages, body_bytes, seconds))
            made += store.counts().checkpoints_made
    if not made:
        raise LoadError(f"{messages} messages are too few: no checkpoint was written meanwhile")
    return Beside(plain, writing, Turns(seconds, made))


def _accept(store: Store, messages: int, body_bytes: int, collects: list[float]) -> float:
    """Messages in a second, each batch durable before the next."""
    body, numbers = content(body_bytes), []
    begun = time.monotonic()
    for _ in range(0, messages, BESIDE):
        for _ in range(BESIDE):
            numbers.append(store.add(birth=0, flags=0, origin=b"", sender=b"", recipients=[b"new@x.test"], content=body))
        _settle(store, collects)
    rate = len(numbers) / (time.monotonic() - begun)
    for number in numbers:
        store.end(number)
    _settle(store, [])
    return rate


def _settle(store: Store, collects: list[float]) -> None:
    ticket, durable = store.commit(), 0
    while durable < ticket:
        select.select([store.eventfd], [], [])
        begun = time.thread_time()
        durable = store.collect().durable
        collects.append(time.thread_time() - begun)
