"""Checkpoints as the store's callers see them, on a real directory with real threads. Crashes are in tests/crash."""

from __future__ import annotations

import pathlib
import select
import time

import pytest

from qmaild.queue.store import Store
from qmaild.queue.values import Counts, Summary

from .store_client import PATIENCE, SEGMENT

MANY = 1000
INTERVAL = 256 << 10  # of a log of several times that


def opened(directory: pathlib.Path) -> Store:
    return Store.open(str(directory), segment_bytes=SEGMENT, checkpoint_bytes=INTERVAL)


def settle(store: Store) -> None:
    ticket = store.commit()
    while store.collect().durable < ticket:
        assert select.select([store.eventfd], [], [], PATIENCE)[0]


def fill(store: Store) -> None:
    """Leave messages in every state: waiting in many lanes, done in part, failed with a note, never planned."""
    for at in range(MANY):
        number = store.add(birth=at, flags=at, origin=b"o", sender=b"s", recipients=[b"a", b"b", b"c"], content=b"x" * 1000)
        if at % 50 == 49:
            settle(store)
    for at, number in enumerate([summary.number for summary in store.messages(0, MANY)]):
        if at % 5:
            store.done(number, [at % 3])
        if at % 7:
            store.defer(number, b"remote %d.example" % (at % 90), 1_000_000 + at, [(at + 1) % 3])
        if at % 11 == 0:
            store.fail(number, (at + 2) % 3, b"no such user %d" % at)
        if at % 13 == 0:
            store.end(number)
    settle(store)


def state(store: Store) -> tuple[list[Summary], tuple[int, ...]]:
    counts = store.counts()
    return store.messages(0, MANY), (counts.messages, counts.new, counts.waiting, counts.out, counts.bytes_living)


def checkpointed(directory: pathlib.Path) -> tuple[list[Summary], tuple[int, ...]]:
    """Make a queue and stop it in an orderly way; return what it held."""
    store = opened(directory)
    fill(store)
    before = state(store)
    store.close()
    return before


def counts_of(directory: pathlib.Path) -> tuple[Counts, tuple[list[Summary], tuple[int, ...]]]:
    store = opened(directory)
    found = store.counts(), state(store)
    store.close()
    return found


def test_after_an_orderly_stop_the_store_opens_without_reading_its_log(tmp_path: pathlib.Path) -> None:
    before = checkpointed(tmp_path / "queue")
    counts, after = counts_of(tmp_path / "queue")
    assert after == before
    assert counts.bytes_replayed == 0
    assert (counts.bytes_checkpoint, counts.checkpoints_refused) == ((tmp_path / "queue" / "checkpoint").stat().st_size, 0)


def test_checkpoints_are_made_while_the_log_grows(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path / "queue")
    fill(store)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        counts = store.counts()
        if counts.checkpoints_made and counts.bytes_checkpoint == (tmp_path / "queue" / "checkpoint").stat().st_size:
            break  # not at once: the next one may have its name before the store has heard of it
        select.select([store.eventfd], [], [], 1)
        store.collect()
    else:
        pytest.fail("no checkpoint")
    store.close()


@pytest.mark.parametrize("place", [0, 9, 30, 200, -1])
def test_a_damaged_checkpoint_is_refused_and_nothing_is_lost(tmp_path: pathlib.Path, place: int) -> None:
    before = checkpointed(tmp_path / "queue")
    content = bytearray((tmp_path / "queue" / "checkpoint").read_bytes())
    content[place] ^= 4
    (tmp_path / "queue" / "checkpoint").write_bytes(content)
    counts, after = counts_of(tmp_path / "queue")
    assert after == before
    assert (counts.checkpoints_refused, counts.damaged) == (1, 0)
    assert counts.bytes_replayed > INTERVAL


def test_a_checkpoint_of_another_queue_is_refused(tmp_path: pathlib.Path) -> None:
    checkpointed(tmp_path / "other")
    before = checkpointed(tmp_path / "queue")
    (tmp_path / "other" / "checkpoint").rename(tmp_path / "queue" / "checkpoint")
    counts, after = counts_of(tmp_path / "queue")
    assert (after, counts.checkpoints_refused) == (before, 1)


def test_an_unreadable_message_that_a_checkpoint_knows_is_found_when_it_is_read(tmp_path: pathlib.Path) -> None:
    checkpointed(tmp_path / "queue")
    victim = min((tmp_path / "queue" / "segments").iterdir())
    content = bytearray(victim.read_bytes())
    content[4096 + 1200] ^= 1
    victim.write_bytes(content)
    store = opened(tmp_path / "queue")
    assert len(store.messages(0, MANY)) == store.counts().messages - 1
    assert store.counts().damaged == 1
    store.close()


def test_an_emptied_queue_keeps_no_checkpoint(tmp_path: pathlib.Path) -> None:
    checkpointed(tmp_path / "queue")
    store = opened(tmp_path / "queue")
    for summary in store.messages(0, MANY):
        store.end(summary.number)
    settle(store)
    store.close()
    assert not (tmp_path / "queue" / "checkpoint").exists()
    counts, _ = counts_of(tmp_path / "queue")
    assert (counts.messages, counts.bytes_checkpoint) == (0, 0)
