"""A queue directory as `qmailctl queue dump` reads it, beside what the core makes of the same bytes.

Two readings of one format: what lives by the one lives by the other, as it is and when a record has been damaged. The
inputs are those of `segments`.
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import shutil
import tempfile
from typing import Any

from qmaild.commands import dumping
from qmaild.queue import segments
from qmaild.queue.core import checksum
from qmaild.queue.log import NEW, Living, Replay, Segment
from qmaild.queue.segments import Damage, Record
from qmaild.queue.store import Store
from qmaild.queue.values import StoreError

from .directory import SIZE, Writer

MEMORY = "/dev/shm"  # no disk is worn out by it
LISTED = 10_000
States = list[tuple[str, bytes, int]]


def one_input(data: bytes) -> None:
    files = Writer(data).files
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as place:
        queue = pathlib.Path(place) / "queue"
        _written(queue, files)
        hurt = _dumped(str(queue), data)
        _compared(str(queue), "checkpoint" in files)
        if hurt:
            shutil.rmtree(queue)
            _written(queue, files | hurt)
            _compared(str(queue), "checkpoint" in files)


def _written(queue: pathlib.Path, files: dict[str, bytes]) -> None:
    for folder in ("segments", "large"):
        (queue / folder).mkdir(parents=True, mode=0o700)
    for path, content in files.items():
        (queue / path).write_bytes(content)


def _dumped(directory: str, chance: bytes) -> dict[str, bytes]:
    """Every item can be printed, in its order. Return one segment with a damaged record, by its path; none if it has none."""
    try:
        reading = dumping.Reading(directory)
    except dumping.Unreadable:
        return {}
    hurt: dict[str, bytes] = {}
    for segment in reading.order():
        items = list(reading.items(segment))
        last = 0
        for item in items:
            if isinstance(item, Record) and item.length:
                assert item.offset >= last and item.offset % 8 == 0
                last = item.offset + item.length
        if segment.is_kept and not hurt:
            hurt = _hurt(segment, reading.bytes_of(segment.name), checksum(chance))
    for is_json in (False, True):
        with contextlib.redirect_stdout(io.StringIO()):
            assert dumping._print_all(dumping.Reading(directory), is_json) in (0, 1)
    return hurt


def _hurt(segment: Segment, data: bytes, chance: int) -> dict[str, bytes]:
    """Flip a bit of a record. It is skipped, with its place named if records follow it; all others are read as before."""
    before = [item for item in segment.records(data) if isinstance(item, Record)]
    if not before:
        return {}
    gone = before[chance % len(before)]
    inside = range(gone.offset, gone.offset + gone.length)
    at = inside[chance // 7 % gone.length]
    hurt = data[:at] + bytes([data[at] ^ 1 << chance % 8]) + data[at + 1 :]
    after = list(segment.records(hurt))
    # What stands inside of it may look like a record: only an input that knows the stamp can do that.
    assert [item for item in after if isinstance(item, Record) and item.offset not in inside] == [
        item for item in before if item is not gone
    ]
    if gone is not before[-1] or segment.is_closed:
        assert any(isinstance(item, Damage) and item.offset <= gone.offset < item.offset + item.length for item in after)
    return {f"segments/{segment.name}": hurt}


def _compared(directory: str, is_told: bool) -> None:
    """The core opens the directory, and repairs it, behind the dump. is_told: by a checkpoint, which the dump does not read."""
    found, contents = _living(directory)
    try:
        store = Store.open(directory, segment_bytes=SIZE, create=False)
    except StoreError as error:
        assert error.reason in ("format", "io")
        return
    try:
        if found is not None and not is_told:
            assert store.find(None, 0, LISTED) == (sorted(found), 0)
            shown = store.messages(0, LISTED)
            assert {each.number: [_state(part) for part in each.recipients] for each in shown} == found
            for number, content in contents.items():
                assert _content(store, number) in content
    finally:
        store.close()


def _living(directory: str) -> tuple[dict[int, States] | None, dict[int, set[bytes]]]:
    """Return what lives by the dump (None: it cannot be told), and the contents of its records: a forged copy may differ."""
    try:
        reading = dumping.Reading(directory)
    except dumping.Unreadable:
        return None, {}
    contents: dict[int, set[bytes]] = {}
    for segment in reading.order():
        for item in reading.items(segment):
            if isinstance(item, Record) and isinstance(item.body, segments.Message):
                contents.setdefault(item.number, set()).add(item.body.content)
    living, _ = reading.finish()
    generations = [each.generation for each in reading.segments if each.generation]
    if len(set(generations)) < len(generations):
        return None, {}  # twins: which of them is the log's depends on the order of a folder
    return {number: _states(each) for number, each in living.items()}, {number: contents[number] for number in living}


def _states(message: Living) -> States:
    states = [message.states.get(index, (NEW, b"", 0)) for index in range(message.count)]
    return [(state, lane, max(due, 0)) for state, lane, due in states]  # the core shows 0 for what is due anyway


def _state(part: Any) -> tuple[str, bytes, int]:
    return (part.state, part.lane, part.due) if part.state == "waiting" else (part.state, b"", 0)


def _content(store: Store, number: int) -> bytes:
    try:
        return store.read(number)
    except StoreError as error:
        assert error.reason == "state"
    before, descriptor = store.open_large(number)
    os.close(descriptor)
    return before


def _scanned(data: bytes) -> None:
    """Bytes where records should stand."""
    list(segments.records(bytes(segments.START) + data, 1, 0x1234, segments.START + len(data), False))


def _many_facts(data: bytes) -> None:
    """Facts about one message, one after the other."""
    segment = Segment("00000001", 0, None, 1, 1, 0, [])
    replay = Replay()
    body = segments.Message(0, 0, b"", b"", (b"a@b.test",) * 3, b"", 0, (0, 0), 0)
    replay.take(segment, Record(segments.START, 200, segments.MESSAGE, 1, 0, body))
    for place in range(len(data) // 16):
        fact = segments.Fact(((place % 3, 1),), data[:10], place)
        replay.take(segment, Record(segments.START + 200 + place * 64, 64, segments.DEFER, 1, 0, fact))
    replay.living()


GROWTH = {"records": _scanned}
DRIBBLE = {"facts": _many_facts}
