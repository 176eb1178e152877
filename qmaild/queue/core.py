"""The native core as Python reaches it: its library, its errors, and bytes and numbers to and from it. Its one importer."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from qmaild._queue import ffi, lib
from qmaild.queue.values import StoreError

__all__ = ["REASONS", "Core", "checksum", "counted", "ffi", "lib", "numbers_of", "octets", "parts_of", "spans_of"]

REASONS = {
    lib.Q_OWNER: "owner", lib.Q_FORMAT: "format", lib.Q_LOCKED: "locked", lib.Q_IO: "io", lib.Q_SPACE: "space",
    lib.Q_UNKNOWN: "unknown", lib.Q_STATE: "state", lib.Q_LIMIT: "limit", lib.Q_MEMORY: "memory",
    lib.Q_DAMAGED: "damaged",
}  # fmt: skip

_SPAN = struct.Struct(f"=3I{ffi.sizeof('struct queue_part') - 12}x")  # of a struct queue_part: index, offset, length


def checksum(data: bytes | memoryview, before: int = 0) -> int:
    """Return the CRC32C of data, continuing from that of what stands before it."""
    return int(lib.crc32c(before, ffi.from_buffer(data), len(data)))


class Core:
    """An open core, until somebody closes it. Its job is where the core puts what it is asked about."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self._job = ffi.new("struct queue_job *")

    @property
    def is_open(self) -> bool:
        return self._core is not None

    def _check(self, code: int) -> int:
        if code < 0:
            raise StoreError(REASONS[code], ffi.string(lib.queue_error(self._core)).decode(errors="replace"))
        return code


def counted(values: Iterable[bytes]) -> bytes:
    """Return the values as the core takes a list of them: a 16-bit length before each. OverflowError: one is too long."""
    return b"".join([len(each).to_bytes(2, "little") + each for each in values])


def numbers_of(array: Any, count: int) -> list[int]:
    """Return the first count numbers of an array of the core's, which may be NULL if that is none."""
    return list(array[0:count]) if count else []


def parts_of(job: Any) -> Iterable[Any]:
    """The recipients that the core names of a message, until it is asked about the next."""
    return (job.parts[at] for at in range(job.part_count))


def spans_of(job: Any) -> Iterable[tuple[Any, ...]]:
    """(index, offset, length) of each: where in the record its address stands. For many, without an object for each."""
    return _SPAN.iter_unpack(ffi.buffer(job.parts, job.part_count * _SPAN.size)) if job.part_count else ()


def octets(at: Any, length: int) -> bytes:
    """Return a copy of what the core has there, which may be NULL if that is nothing."""
    return bytes(ffi.buffer(at, length)) if length else b""
