"""What a disk was asked to do, request by request, and what it may hold when the power goes between two of them.

The log is dm-log-writes' format as QEMU's blklogwrites writes it: each entry stands where the request was begun, so a
request that another waited for stands before it.
"""

from __future__ import annotations

import pathlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.power.disk import FILES_AT, FILES_BYTES, MARKS_AT, MARKS_BYTES

MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD = 1, 2, 4
SECTOR, PAGE = 512, 4096
OURS = b"QMR1"  # how each record of the queue begins


@dataclass(frozen=True, slots=True)
class Entry:
    """One request. content is a view of the log; empty for a flush, zeros for a discard."""

    flags: int
    at: int
    content: memoryview


def entries(log: memoryview) -> Iterator[Entry]:
    """All that is whole in the log, in order."""

    def number(at: int) -> int:
        return int.from_bytes(log[at : at + 8], "little")

    if number(0) != MAGIC:
        raise ValueError("not a block log")
    size = int.from_bytes(log[24:28], "little")
    at = size
    for _ in range(number(16)):
        sector, sectors, flags = number(at), number(at + 8), number(at + 16)
        at += size
        if flags & DISCARD:
            yield Entry(flags, sector * size, memoryview(bytes(sectors * size)))
            continue
        yield Entry(flags, sector * size, log[at : at + sectors * size])
        at += sectors * size


class Replay:
    """A disk as its log goes by. Marks are kept always; of FILES, what was flushed, and what may still be in the cache."""

    def __init__(self, disk: pathlib.Path, log: pathlib.Path) -> None:
        content = disk.read_bytes()
        self.table = content[:MARKS_AT]
        self.marks = bytearray(content[MARKS_AT : MARKS_AT + MARKS_BYTES])
        self.durable = bytearray(content[FILES_AT : FILES_AT + FILES_BYTES])
        self.blocks = 0  # of marks, so far
        while self.marks[self.blocks * SECTOR : self.blocks * SECTOR + 4] == b"mark":
            self.blocks += 1
        self.cached: list[Entry] = []
        self.entries = list(entries(memoryview(log.read_bytes())))

    def step(self, entry: Entry) -> None:
        """The next request."""
        if MARKS_AT <= entry.at < MARKS_AT + MARKS_BYTES and entry.content:
            _put(self.marks, entry, MARKS_AT)
            self.blocks = (entry.at - MARKS_AT + len(entry.content)) // SECTOR
            return
        if entry.flags & FLUSH:  # what was in the cache before it; its own content comes after
            for cached in self.cached:
                _put(self.durable, cached)
            self.cached.clear()
        if entry.content:
            self.cached.append(entry)

    def restless(self) -> list[int]:
        """After which entries something is in the cache."""
        found, cached = [], 0
        for at, entry in enumerate(self.entries):
            if entry.content and not MARKS_AT <= entry.at < MARKS_AT + MARKS_BYTES:
                cached = cached * (not entry.flags & FLUSH) + 1
            elif entry.flags & FLUSH:
                cached = 0
            if cached:
                found.append(at)
        return found

    def marks_in_the_end(self) -> bytes:
        """All marks of the log; the first `blocks` of them are those so far."""
        marks = bytearray(self.marks)
        for entry in self.entries:
            if MARKS_AT <= entry.at < MARKS_AT + MARKS_BYTES and entry.content:
                _put(marks, entry, MARKS_AT)
        return bytes(marks)

    def save(self, disk: pathlib.Path, files: memoryview) -> None:
        """Make a disk with the marks so far and these FILES."""
        with disk.open("wb") as into:
            into.write(self.table)
            into.write(self.marks)
            into.write(files)

    def lose(self, fate: str, chance: random.Random, into: memoryview) -> None:
        """Fill `into` with FILES as they are now: "kept" is all that was written, "lost" what was flushed only,
        "some" a part of the unflushed requests, "torn" a part of their sectors."""
        into[:] = self.durable
        for entry in self.cached:
            if fate == "kept" or entry.flags & FUA or (fate == "some" and chance.random() < 0.5):
                _put(into, entry)
            elif fate == "torn":
                _put_torn(into, entry, chance)


def _put(into: bytearray | memoryview, entry: Entry, start: int = FILES_AT) -> None:
    at = entry.at - start
    into[at : at + len(entry.content)] = entry.content


def _put_torn(into: memoryview, entry: Entry, chance: random.Random) -> None:
    """Pages of the file system are whole or not at all, as its own design asks of a disk; our records fare worse."""
    start, likely = entry.at - FILES_AT, chance.choice((0.1, 0.5, 0.9))
    for page in range(0, len(entry.content), PAGE):
        content = entry.content[page : page + PAGE]
        unit = SECTOR if OURS in bytes(content) else PAGE
        for at in range(0, len(content), unit):
            if chance.random() < likely:
                piece = content[at : at + unit]
                into[start + page + at : start + page + at + len(piece)] = piece
