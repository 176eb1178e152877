"""A queue directory as `qmailctl queue dump` reads it, beside what the core makes of the same bytes.

Two readings of one format: what lives by the one lives by the other. The inputs are those of `segments`.
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import shutil
import tempfile

from qmaild.commands import dumping
from qmaild.queue.segments import Record
from qmaild.queue.store import Store, StoreError

from .directory import Writer

MEMORY = "/dev/shm"  # no disk is worn out by it
LISTED = 10_000


def one_input(data: bytes) -> None:
    files = Writer(data).files
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as place:
        queue = pathlib.Path(place) / "queue"
        for folder in ("segments", "large"):
            (queue / folder).mkdir(parents=True, mode=0o700)
        for path, content in files.items():
            (queue / path).write_bytes(content)
        found = _dumped(str(queue))
        known = _opened(str(queue))
        if found is not None and known is not None:
            assert found == known
        shutil.rmtree(queue)


def _dumped(directory: str) -> set[int] | None:
    """Return the messages that live by the dump; None: it cannot be told. Every item can be printed."""
    try:
        reading = dumping.Reading(directory)
    except dumping.Unreadable:
        return None
    for segment in reading.order():
        last = 0
        for item in reading.items(segment):
            if isinstance(item, Record) and item.length:
                assert item.offset >= last and item.offset % 8 == 0
                last = item.offset + item.length
    living, _ = reading.finish()
    for is_json in (False, True):
        with contextlib.redirect_stdout(io.StringIO()):
            assert dumping._print_all(dumping.Reading(directory), is_json) in (0, 1)
    generations = [each.generation for each in reading.segments if each.generation]
    if len(set(generations)) < len(generations):
        return None  # twins: which of them is the log's depends on the order of a folder
    return set(living)


def _opened(directory: str) -> set[int] | None:
    """Return the messages that the core finds; None: it refuses the directory."""
    try:
        store = Store.open(directory, segment_bytes=64 << 10, create=False)
    except StoreError as error:
        assert error.reason in ("format", "io")
        return None
    try:
        numbers, after = store.find(None, 0, LISTED)
        assert after == 0
        return set(numbers)
    finally:
        store.close()


GROWTH = {"input": Writer}
