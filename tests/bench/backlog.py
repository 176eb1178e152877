"""A queue full of deferred messages, made without the server. Knows the store; the server finds it when it starts."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qmaild.queue.store import Store

REFUSING, HANGING = "refusing.test", "hanging.test"  # the dead domains: one refuses connections, one never answers
BATCH = 500  # messages in one commit
HOUR = 3600 * 1_000_000


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many messages, to how many domains in all; a tenth of them to each of the two dead ones."""

    messages: int
    domains: int
    body_bytes: int

    @property
    def to_each_dead(self) -> int:
        return self.messages // 10

    def domain_of(self, n: int) -> str:
        if n % 10 < 2:
            return (REFUSING, HANGING)[n % 10]
        nth = n // 10 * 8 + n % 10 - 2  # of those that are not for the dead
        return f"d{nth % self._living}.test"

    @property
    def _living(self) -> int:
        return self.domains - 2

    def living_domains(self) -> list[str]:
        return [f"d{n}.test" for n in range(self._living)]


def lane_of(domain: str) -> bytes:
    """The lane of a domain that has an smtproutes entry of its own."""
    return b"remote:@" + domain.encode()


def fill(directory: Path, owner: int, backlog: Backlog) -> dict[str, list[int]]:
    """Make the messages, each tried once and due again between an hour and a day from now; the numbers of the dead domains'."""
    dead: dict[str, list[int]] = {REFUSING: [], HANGING: []}
    with offline(directory, owner) as store:
        born = time.time_ns() // 1000
        body = content(backlog.body_bytes)
        for first in range(0, backlog.messages, BATCH):
            made = []
            for n in range(first, min(first + BATCH, backlog.messages)):
                domain = backlog.domain_of(n)
                number = store.add(birth=born, flags=0, origin=b"esmtp 192.0.2.1", sender=b"sender-%d@client.test" % n,
                                   recipients=[b"user-%d@%b" % (n, domain.encode())], content=body)  # fmt: skip
                made.append((number, lane_of(domain), born + HOUR + n * 23 * HOUR // backlog.messages))
                if domain in dead:
                    dead[domain].append(number)
            _commit(store)
            for number, lane, due in made:
                store.defer(number, lane, due, [0])
        _commit(store)
    return dead


def make_due(directory: Path, owner: int, domain: str, numbers: list[int]) -> None:
    """These messages, which wait for this domain, are due now, also after a restart."""
    with offline(directory, owner) as store:
        for number in numbers:
            store.defer(number, lane_of(domain), time.time_ns() // 1000, [0])
        _commit(store)


def content(size: int) -> bytes:
    """Return a message of so many bytes."""
    head = b"From: <sender@client.test>\nSubject: waiting\n\n"
    lines = (size - len(head)) // 73 + 1
    return (head + (b"x" * 72 + b"\n") * lines)[:size]


@contextlib.contextmanager
def offline(directory: Path, owner: int, checkpoint_bytes: int = 0) -> Iterator[Store]:
    """The store while no service has it. It is opened by its owner only, and that is us meanwhile."""
    _give(directory, os.geteuid())
    store = Store.open(str(directory), checkpoint_bytes=checkpoint_bytes)
    try:
        yield store
    finally:
        store.close()
        _give(directory, owner)


def _give(directory: Path, uid: int) -> None:
    if uid == directory.stat().st_uid:
        return
    for path in (directory, *directory.rglob("*")):
        os.chown(path, uid, uid)


def _commit(store: Store) -> None:
    ticket = store.commit()
    while store.collect().durable < ticket:
        select.select([store.eventfd], [], [])
