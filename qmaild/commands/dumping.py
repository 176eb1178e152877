"""`qmailctl queue dump`: what stands in the files of a queue, read without the service and without its lock.

Files may change under it while the service runs: the newest records may then look cut short, or a segment be gone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from qmaild.message.dates import field_date
from qmaild.queue.listing import shown
from qmaild.queue.log import Living, Replay, Segment, chain, look
from qmaild.queue.segments import KINDS, SIZE_MOST, START, Damage, Fact, Message, Record, torn_at
from qmaild.runtime import paths

FORMAT = b"qmaild queue 1\n"
SHOWN_RECIPIENTS = 3
COPY_BYTES = 1 << 20


class Unreadable(Exception):
    """The directory is no queue of ours, or not ours to read."""


def run(options: Any) -> int:
    """Print the dump, or one message's content; exit status 1 if something is damaged or not there."""
    directory = options.directory or _own_directory()
    try:
        reading = Reading(directory)
        if options.content:
            return _write_content(reading, int(options.content))
        return _print_all(reading, options.json)
    except Unreadable as error:
        print(f"qmailctl: {error}", file=sys.stderr)
        return 1


def _own_directory() -> str:
    return f"{paths.STANDALONE}/queue" if paths.STANDALONE else paths.queue_directory()


class Reading:
    """A queue's files. damages counts what is wrong with them."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.replay = Replay()
        self.damages = 0
        if (found := self._read("format", 64)) != FORMAT:
            raise Unreadable(f"{directory}/format: expected {FORMAT!r}, found {found[:30]!r}")
        self.segments = [look(name, self.bytes_of(name)) for name in self._names("segments") if len(name) == 8]
        self.log, self.missing = chain(self.segments)

    def _names(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(f"{self.directory}/{folder}"))
        except OSError as error:
            raise Unreadable(f"{self.directory}/{folder}: {error.strerror}") from None

    def _read(self, name: str, most: int) -> bytes:
        try:
            with open(f"{self.directory}/{name}", "rb") as file:
                return file.read(most)
        except OSError as error:
            raise Unreadable(f"{self.directory}/{name}: {error.strerror}") from None

    def bytes_of(self, name: str) -> bytes:
        try:
            return self._read(f"segments/{name}", SIZE_MOST)
        except Unreadable:
            return b""  # it went while we looked: what lived in it has been copied

    def items(self, segment: Segment) -> Iterator[Record | Damage]:
        """Yield a segment's records and damages; those of the log go into the replay, oldest segment first."""
        yield from segment.damages
        self.damages += len(segment.damages)
        if not segment.is_kept:
            return
        data, end = self.bytes_of(segment.name), START
        for item in segment.records(data):
            if isinstance(item, Record):
                end = item.offset + item.length
                if not self.replay.take(segment, item):
                    item = Damage(item.offset, item.length, f"a {_kind(item)} record of message {item.number} that cannot be")
            self.damages += isinstance(item, Damage) and not item.is_torn
            yield item
        if not segment.is_closed and torn_at(data, end, segment.generation):
            yield Record(end, 0, 0, 0, 0, None)  # a crash cut a write short: nobody was promised it

    def order(self) -> list[Segment]:
        """The log, oldest first, then what is no part of it."""
        return [*self.log, *[each for each in self.segments if not each.is_kept]]

    def finish(self) -> tuple[dict[int, Living], list[str]]:
        """After all items: what lives, and what is wrong beyond single segments."""
        living, wrong = self.replay.living(), []
        if self.missing and self.missing >= self.replay.oldest:
            wrong.append(f"segments: generation {self.missing} is missing")
        for number, message in list(living.items()):
            if message.large and not os.path.exists(self.large_path(number)):
                wrong.append(f"large/{number:016x}: missing, message {number} has lost its body")
                del living[number]
        self.damages += len(wrong)
        return living, wrong

    def large_path(self, number: int) -> str:
        return f"{self.directory}/large/{number:016x}"


def _kind(record: Record) -> str:
    return KINDS.get(record.kind, f"foreign ({record.kind})" if record.length else "torn")


def _print_all(reading: Reading, is_json: bool) -> int:
    for segment in reading.order():
        print(json.dumps(_header_values(segment)) if is_json else _header_line(segment))
        for item in reading.items(segment):
            print(json.dumps(_values(segment, item)) if is_json else _line(segment, item))
    living, wrong = reading.finish()
    for text in wrong:
        print(json.dumps({"damage": text}) if is_json else f"DAMAGED {text}")
    if os.path.exists(f"{reading.directory}/checkpoint") and not is_json:
        print("checkpoint: not read, it only repeats what stands in segments")
    if is_json:
        print(json.dumps({"living": sorted(living), "damages": reading.damages}))
    else:
        print(f"{len(living)} messages live; {reading.damages} places are damaged")
    return 1 if reading.damages else 0


def _header_line(segment: Segment) -> str:
    what = "" if segment.is_kept else ", unused" if not segment.generation else ", void"
    head = segment.head
    if head is None:
        return f"segments/{segment.name}: {segment.size} bytes, no header, generation {segment.generation}{what}"
    return (f"segments/{segment.name}: {segment.size} bytes, version {head.version}, generation {head.generation}, stamp "
            f"{head.stamp:016x}, behind generation {head.previous} which ends at {head.previous_end}, below {head.oldest} "
            f"void, next message {head.next_number}{what}")  # fmt: skip


def _header_values(segment: Segment) -> dict[str, Any]:
    values = segment.head._asdict() if segment.head else {"generation": segment.generation}
    return {"segment": segment.name, "bytes": segment.size, "is_log": segment.is_kept, **values}


def _line(segment: Segment, item: Record | Damage) -> str:
    if isinstance(item, Damage) and item.is_torn:
        return f"  {item.offset:>10} {item.length:>8}  the write was cut short: {item.text}"
    if isinstance(item, Damage):
        return f"  DAMAGED segments/{segment.name} at {item.offset}, {item.length} bytes: {item.text}"
    start = f"  {item.offset:>10} {item.length:>8}  {_kind(item):8}"
    body = item.body
    if isinstance(body, Message):
        more = len(body.recipients) - SHOWN_RECIPIENTS
        to = ", ".join([shown(each) for each in body.recipients[:SHOWN_RECIPIENTS]]) + (f" and {more} more" if more > 0 else "")
        also = f", ends {body.ends}" if body.ends else f", serves {body.serves[0]}" if body.serves[0] else ""
        copy = ", a copy" if item.marks & 1 else ""
        born = field_date(max(0, body.birth) // 1_000_000).decode()
        size = len(body.content) + body.large
        return f"{start} {item.number}  {born}  {size} bytes  <{shown(body.sender)}>  {to} ({shown(body.origin)}){also}{copy}"
    return f"{start} {item.number}{_fact_text(body) if body else ''}" if item.length else f"{start} the write was cut short"


def _fact_text(fact: Fact) -> str:
    runs = ", ".join([str(first) if count == 1 else f"{first}-{first + count - 1}" for first, count in fact.runs])
    lane = f" in {shown(fact.lane)} until {fact.due / 1e6:.0f}" if fact.lane else ""
    note = f": {shown(fact.note)}" if fact.note else ""
    return f"  {runs}{lane}{note}" if runs else ""


def _values(segment: Segment, item: Record | Damage) -> dict[str, Any]:
    place = {"segment": segment.name, "offset": item.offset, "length": item.length}
    if isinstance(item, Damage):
        return {**place, "torn" if item.is_torn else "damage": item.text}
    values: dict[str, Any] = {**place, "kind": _kind(item), "number": item.number, "marks": item.marks}
    body = item.body
    if isinstance(body, Message):
        values |= {
            "birth": body.birth / 1e6, "flags": body.flags, "origin": shown(body.origin), "sender": shown(body.sender),
            "recipients": [shown(each) for each in body.recipients], "bytes": len(body.content) + body.large,
            "large": body.large, "ends": body.ends, "serves": body.serves,
        }  # fmt: skip
    elif body:
        values |= {"runs": body.runs, "lane": shown(body.lane), "due": body.due / 1e6, "note": shown(body.note)}
    return values


def _write_content(reading: Reading, number: int) -> int:
    """The newest record of a message is the one that counts; a copy says the same."""
    found: Message | None = None
    for segment in reading.log:
        for item in reading.items(segment):
            if isinstance(item, Record) and item.number == number and isinstance(item.body, Message):
                found = item.body
    if found is None:
        raise Unreadable(f"no whole record of message {number} is in {reading.directory}")
    sys.stdout.flush()
    sys.stdout.buffer.write(found.content)
    if found.large:
        try:
            with open(reading.large_path(number), "rb") as file:
                while data := file.read(COPY_BYTES):
                    sys.stdout.buffer.write(data)
        except OSError as error:
            raise Unreadable(f"{reading.large_path(number)}: {error.strerror}") from None
    sys.stdout.buffer.flush()
    return 0
