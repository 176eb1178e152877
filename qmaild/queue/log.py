"""What makes the log, and what lives in it: segments by their headers, messages by their records. Knows no file.

The order of segments and the meaning of records are those of native/queue.h (I3 to I8, I13, I14), read a second time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from qmaild.queue.segments import (
    DEFER,
    DONE,
    FAIL,
    OLDEST,
    START,
    Damage,
    Fact,
    Header,
    Message,
    Record,
    first_record,
    header,
    records,
)


@dataclasses.dataclass(slots=True)
class Segment:
    """One file. generation 0: nothing in it is ours. limit: where its records end at the latest; is_closed: exactly there."""

    name: str
    size: int
    head: Header | None
    generation: int
    stamp: int
    limit: int
    damages: list[Damage]
    is_closed: bool = False
    is_kept: bool = False  # it is part of the log

    def records(self, data: bytes) -> Iterator[Record | Damage]:
        return records(data, self.generation, self.stamp, self.limit, self.is_closed)


def look(name: str, data: bytes) -> Segment:
    """Return what a file's two headers say, or without them its first record."""
    size = len(data)
    segment = Segment(name, size, None, 0, 0, max(size - START, 0) & ~7, [])
    for place in (0, size - START) if size >= 2 * START else (0,):
        found = header(data[place : place + START])
        if found is None:
            if any(data[place : place + START]):
                segment.damages.append(Damage(place, START, "the header is damaged"))
        elif segment.head is None or found.generation > segment.head.generation:
            segment.head = found
    if segment.head is None:
        segment.generation, segment.stamp = first_record(data) or (0, 0)
    elif segment.head.version == 1:
        segment.generation, segment.stamp = segment.head.generation, segment.head.stamp
        segment.limit = segment.head.size - START
        if segment.head.size != size:
            segment.damages.append(Damage(size, segment.head.size - size, "the file is cut"))
    else:
        segment.damages.append(Damage(0, START, f"expected version 1, found {segment.head.version}"))
    return segment


def chain(found: list[Segment]) -> tuple[list[Segment], int]:
    """Return the segments of the log, oldest first, with their limits, and a generation that is missing, or 0."""
    every = sorted(found, key=lambda each: (each.generation, each.head is not None))
    oldest = max([(each.generation, each.head.oldest) for each in every if each.head and each.generation], default=(0, 0))[1]
    missing = 0
    kept: list[Segment] = []
    while every and (later := every.pop()).generation >= max(oldest, 1):
        later.is_kept = True
        kept.append(later)
        while every and every[-1].generation >= later.generation:
            every.pop()
        head = later.head
        if head is None:
            continue
        while every and every[-1].generation > head.previous:
            every.pop()  # I5: void
        before = every[-1] if every else None
        is_there = before is not None and before.generation == head.previous
        if head.previous >= max(oldest, 1) and not missing and not is_there:
            missing = head.previous
        if not head.previous:
            break
        if before is not None and is_there and START <= head.previous_end <= before.limit:
            before.is_closed = True
            before.limit = head.previous_end
    return kept[::-1], missing


NEW, WAITING, IS_DONE, FAILED = "new", "waiting", "done", "failed"


@dataclasses.dataclass(slots=True)
class Living:
    """A message by its records. states: of its recipients that are not new, (state, lane, due)."""

    generation: int  # of the segment that its newest record stands in
    count: int
    large: int
    states: dict[int, tuple[str, bytes, int]] = dataclasses.field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """I14: nobody is left and nobody has to be told."""
        return len(self.states) == self.count and all([state == IS_DONE for state, _, _ in self.states.values()])

    def is_undone(self, index: int) -> bool:
        return self.states.get(index, (NEW, b"", 0))[0] in (NEW, WAITING)


class Replay:
    """Records of the log, oldest first, and what lives after them."""

    def __init__(self) -> None:
        self._messages: dict[int, Living] = {}
        self.oldest = 0

    def living(self) -> dict[int, Living]:
        return {number: message for number, message in self._messages.items() if not message.is_over}

    def take(self, segment: Segment, record: Record) -> bool:
        """Take in one record; False if it says what cannot be."""
        number, body = record.number, record.body
        if body is None or record.kind == OLDEST:
            return body is not None and self._void(number)
        if isinstance(body, Message):
            return self._message(segment, number, body)
        message = self._messages.get(number)
        if message is None:
            return True  # I3: it has ended
        if record.kind in (DONE, FAIL, DEFER):
            return _settle(message, record.kind, body)
        del self._messages[number]
        return True

    def _void(self, oldest: int) -> bool:
        self.oldest = max(self.oldest, oldest)
        self._messages = {number: each for number, each in self._messages.items() if each.generation >= oldest}
        return True

    def _message(self, segment: Segment, number: int, body: Message) -> bool:
        known = self._messages.get(number)
        if number == 0 or number >> 62 or (known and (known.count, known.large) != (len(body.recipients), body.large)):
            return False
        if known:  # I8
            known.generation = segment.generation
        else:
            self._messages[number] = Living(segment.generation, len(body.recipients), body.large)
        if body.ends != number:
            self._messages.pop(body.ends, None)
        served, index = body.serves
        other = self._messages.get(served) if served != number else None
        if other and index < other.count and other.is_undone(index):
            other.states[index] = (IS_DONE, b"", 0)
        return True


def _settle(message: Living, kind: int, fact: Fact) -> bool:
    state = {DONE: (IS_DONE, b"", 0), FAIL: (FAILED, b"", 0), DEFER: (WAITING, fact.lane, fact.due)}[kind]
    for first, count in fact.runs:
        if first >= message.count or count > message.count - first:
            return False
        for index in range(first, first + count):
            if message.is_undone(index):
                message.states[index] = state
    return True
