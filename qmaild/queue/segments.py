"""The bytes of segments: headers and records by the format in native/queue.h. Bytes in, values out; knows no file.

A second reading of the format, independent of the core's: what the two make of the same bytes is compared in tests.
Every length is checked against what surrounds it, and nothing is believed whose checksum is wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from qmaild.queue.core import checksum

VERSION = 1
HEAD_BYTES = 96
START = 4096  # of the first record; as much is left free at the end
SIZE_LEAST, SIZE_MOST = 64 << 10, 1 << 30
RECORD_HEAD = 40
MESSAGE_HEAD = 104
MAGIC = b"QMR1"
RECIPIENTS_MOST, NOTE_MOST, LANE_MOST = 100_000, 4096, 1024
COPY, LARGE, SURE = 1, 2, 4  # marks; I18 has the last

MESSAGE, DONE, FAIL, DEFER, END, OLDEST = range(1, 7)
KINDS = {MESSAGE: "message", DONE: "done", FAIL: "fail", DEFER: "defer", END: "end", OLDEST: "oldest"}

_HEAD = struct.Struct("<8sIIQQQQQQQ")
_RECORD = struct.Struct("<4sIQQQIHH")
_MESSAGE = struct.Struct("<qIIIIIIQQIIQ")


class Header(NamedTuple):
    """A segment's header. previous, previous_end: which generation is before this one, and where it ends."""

    version: int
    generation: int
    stamp: int
    size: int
    previous: int
    previous_end: int
    oldest: int
    next_number: int


class Message(NamedTuple):
    """The body of a message record. large: bytes in a file of its own, behind content."""

    birth: int
    flags: int
    origin: bytes
    sender: bytes
    recipients: tuple[bytes, ...]
    content: bytes
    ends: int
    serves: tuple[int, int]
    large: int


class Fact(NamedTuple):
    """What a record says of recipients: runs are (first, count). due and lane of a deferral, note of a failure."""

    runs: tuple[tuple[int, int], ...] = ()
    lane: bytes = b""
    due: int = 0
    note: bytes = b""


class Record(NamedTuple):
    """One whole record. body is None if it says what no such record can say."""

    offset: int
    length: int
    kind: int
    number: int
    marks: int
    body: Message | Fact | None


class Damage(NamedTuple):
    """Bytes where a record should stand. is_torn: they are of the last batch, and may never have been whole."""

    offset: int
    length: int
    text: str
    is_torn: bool = False


def header(data: bytes) -> Header | None:
    """Return the header that stands at the beginning of data; None if there is none. A foreign version is returned."""
    if len(data) < HEAD_BYTES or data[:8] != b"qmaildsg":
        return None
    _, version, stored, *values = _HEAD.unpack_from(data)
    if checksum(data[16:HEAD_BYTES], checksum(data[:12])) != stored:
        return None
    found = Header(version, *values)
    if version != VERSION:
        return found
    is_sound = SIZE_LEAST <= found.size <= SIZE_MOST and found.size % 4096 == 0
    is_sound = is_sound and found.previous < found.generation and found.oldest <= found.generation
    return found if is_sound and found.generation and not (found.generation | found.next_number) >> 62 else None


def first_record(data: bytes) -> tuple[int, int] | None:
    """Return generation and stamp of the first record, if it is whole: it stands for headers that are gone."""
    if len(data) < START + RECORD_HEAD:
        return None
    _, _, generation, stamp, *_ = _RECORD.unpack_from(data, START)
    return (generation, stamp) if _is_whole(data, START, len(data), generation, stamp) else None


def _is_whole(data: bytes, at: int, limit: int, generation: int, stamp: int) -> bool:
    magic, stored, its_generation, its_stamp, _, length, _, _ = _RECORD.unpack_from(data, at)
    if magic != MAGIC or (its_generation, its_stamp) != (generation, stamp):
        return False
    if length < RECORD_HEAD or length % 8 or length > limit - at:
        return False
    return checksum(memoryview(data)[at + 8 : at + length]) == int(stored)


def records(data: bytes, generation: int, stamp: int, limit: int, is_closed: bool) -> Iterator[Record | Damage]:
    """Yield each record up to limit, and what is damaged between them. is_closed: records stood up to the limit."""
    doubtful: list[Record | Damage] = []  # what is bad, and all behind it in its batch
    end = START
    for item in _records(data, generation, stamp, limit):
        if isinstance(item, Record) and item.marks & SURE:
            yield from doubtful
            doubtful.clear()
        if doubtful or isinstance(item, Damage):
            doubtful.append(item)
        else:
            yield item
        end = item.offset + item.length
    for item in doubtful:
        yield item._replace(is_torn=not is_closed) if isinstance(item, Damage) else item
    if is_closed and end < limit:
        yield Damage(end, limit - end, _what_stood(data, end, generation))


def _records(data: bytes, generation: int, stamp: int, limit: int) -> Iterator[Record | Damage]:
    limit_here = min(limit, len(data))
    at = end = START
    while (at := _next_magic(data, at, limit_here)) >= 0:
        if not _is_whole(data, at, limit_here, generation, stamp):
            at += 8
            continue
        if at != end:
            yield Damage(end, at - end, _what_stood(data, end, generation))
        record = _record(data, at)
        yield record
        at = end = at + record.length


def torn_at(data: bytes, end: int, generation: int) -> bool:
    """Return whether a write was cut short where the records end: that is what a crash leaves, and nobody was promised it."""
    return len(data) - end >= RECORD_HEAD and data[end : end + 4] == MAGIC and _RECORD.unpack_from(data, end)[2] == generation


def _next_magic(data: bytes, at: int, limit: int) -> int:
    """Return the next place at or behind `at` where a record may begin; -1 if there is none."""
    while True:
        at = data.find(MAGIC, at, max(limit - RECORD_HEAD + len(MAGIC), 0))
        if at < 0 or at % 8 == 0:
            return at
        at += 1


def _what_stood(data: bytes, at: int, generation: int) -> str:
    if len(data) - at < RECORD_HEAD:
        return "the file ends here"
    magic, _, its_generation, _, number, _, kind, _ = _RECORD.unpack_from(data, at)
    if magic != MAGIC or its_generation != generation:
        return "no record begins here"
    return f"a {KINDS.get(kind, 'foreign')} record of message {number} is not whole"


def _record(data: bytes, at: int) -> Record:
    *_, number, length, kind, marks = _RECORD.unpack_from(data, at)
    take = _BODIES.get(kind)
    body = take(data[at + RECORD_HEAD : at + length]) if take else None
    return Record(at, length, kind, number, marks, body)


def _message(body: bytes) -> Message | None:
    if len(body) < MESSAGE_HEAD - RECORD_HEAD:
        return None
    (birth, flags, count, origin_length, sender_length, recipients_length, content_length, ends, serves, index, _,
     large) = _MESSAGE.unpack_from(body)  # fmt: skip
    at = MESSAGE_HEAD - RECORD_HEAD
    parts = []
    for length in (origin_length, sender_length, recipients_length, content_length):
        parts.append(body[at : at + length])
        at += length
    if at > len(body) or not 0 < count <= RECIPIENTS_MOST:
        return None
    origin, sender, addresses, content = parts
    recipients = _addresses(addresses, count)
    if recipients is None:
        return None
    return Message(birth, flags, origin, sender, recipients, content, ends, (serves, index), large)


def _addresses(data: bytes, count: int) -> tuple[bytes, ...] | None:
    found: list[bytes] = []
    at = 0
    while len(data) - at >= 2 and len(found) < count:
        length = int.from_bytes(data[at : at + 2], "little")
        if length > len(data) - at - 2:
            return None
        found.append(data[at + 2 : at + 2 + length])
        at += 2 + length
    return tuple(found) if at == len(data) and len(found) == count else None


def _runs(body: bytes) -> tuple[tuple[int, int], ...]:
    return tuple([(first, count) for first, count in struct.iter_unpack("<II", body[: len(body) & ~7])])


def _done(body: bytes) -> Fact:
    return Fact(_runs(body))


def _fail(body: bytes) -> Fact | None:
    if len(body) < 8:
        return None
    index, length = struct.unpack_from("<II", body)
    return Fact(((index, 1),), note=body[8 : 8 + length]) if length <= min(len(body) - 8, NOTE_MOST) else None


def _defer(body: bytes) -> Fact | None:
    if len(body) < 12:
        return None
    due, length = struct.unpack_from("<qI", body)
    if length > min(len(body) - 12, LANE_MOST):
        return None
    return Fact(_runs(body[12 + length :]), body[12 : 12 + length], due)


def _nothing(body: bytes) -> Fact:
    return Fact()


_BODIES = {MESSAGE: _message, DONE: _done, FAIL: _fail, DEFER: _defer, END: _nothing, OLDEST: _nothing}
