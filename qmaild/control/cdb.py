"""Constant databases, as qmail-newu, qmail-newmrh and tcprules write them: bytes in, values out, and the other way.

A file has 2048 bytes of 256 pointers (place, slots), the records (two lengths, key, value), then 256 tables of slots
(hash, place). Every number has 32 bits, the lowest first. Knows no file: what it reads is cut from what the caller gives it.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator
from typing import Protocol

HEAD = 2048
MAX_SIZE = 0xFFFFFFFF  # places have 32 bits
NEAR = 256  # bytes read at a record, in the hope that they are all of it
SLOTS = 8  # read at a time: with half of all empty, more are rarely asked for

IS_LITTLE = array("I", b"\1\0\0\0")[0] == 1  # this machine's numbers are the file's

_MASK = 0xFFFFFFFF
_POINTERS = struct.Struct("<512I")
_PAIR = struct.Struct("<II")


class CdbError(ValueError):
    """The file is damaged, or none of this kind: what it says of any key cannot be told."""


class Content(Protocol):
    """What is read: bytes, or anything that is cut as they are. A cut beyond the end is short."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: slice, /) -> bytes: ...


def hash_of(key: bytes) -> int:
    """Return the hash of a key."""
    found = 5381
    for byte in key:
        found = found * 33 & _MASK ^ byte
    return found


def hashes_of(key: bytes) -> list[int]:
    """Return the hashes of all prefixes of a key: that of its first n bytes stands at n."""
    found = [5381]
    for byte in key:
        found.append(found[-1] * 33 & _MASK ^ byte)
    return found


class Reader:
    """Looks keys up. CdbError when made, or by any question, once something is seen that no writer writes.

    What a crash leaves of a file that was never synced are blocks of zeros and missing ends. Neither is taken for "no such
    key": a writer makes twice as many slots as there are records, and a hash stands beside its own key only.
    """

    def __init__(self, content: Content) -> None:
        self._content = content
        self._size = len(content)
        head = content[:HEAD]
        if len(head) != HEAD:
            raise CdbError("it is shorter than its head")
        numbers = _POINTERS.unpack(head)
        self._tables = list(zip(numbers[::2], numbers[1::2], strict=True))
        # The tables are all that stands behind the records: a pointer that was lost leaves a part unaccounted for.
        self._end = min((place for place, slots in self._tables if slots), default=HEAD)
        if self._end < HEAD or self._end + sum(numbers[1::2]) * 8 != self._size:
            raise CdbError("its tables are not the rest of it")
        last = max((self._last_of(table) for table in range(256) if self._tables[table][1]), default=0)
        if last and last + sum(map(len, self._record(last))) + 8 != self._end:
            raise CdbError("the last record does not end where the tables begin")

    def _last_of(self, table: int) -> int:
        """Return the place of the last record of a table that has any."""
        place, slots = self._tables[table]
        if place + slots * 8 > self._size:
            raise CdbError("a table is not inside of it")
        content = self._cut(place, slots * 8)
        places = array("I", content)[1::2]
        if not IS_LITTLE:
            places.byteswap()
        empty = places.count(0)
        if empty * 2 > slots or content[::8].count(table) < slots - empty:
            raise CdbError("a table has lost slots")
        return max(places)

    def find(self, key: bytes, hashed: int | None = None) -> bytes | None:
        """Return the value of the first record with this key, or None. hashed: its hash, if it is known."""
        found = self._search(key, hash_of(key) if hashed is None else hashed, 1)
        return found[0] if found else None

    def values(self, key: bytes) -> list[bytes]:
        """Return the values of all records with this key, in the order in which they were written."""
        return self._search(key, hash_of(key), self._size)

    def _search(self, key: bytes, hashed: int, most: int) -> list[bytes]:
        found: list[bytes] = []
        table, slots = self._tables[hashed & 255]
        first = (hashed >> 8) % slots if slots else 0
        for start, end in ((table + first * 8, table + slots * 8), (table, table + first * 8)):
            for near in range(start, end, SLOTS * 8):
                for its_hash, place in _PAIR.iter_unpack(self._cut(near, min(SLOTS * 8, end - near))):
                    if not place:
                        return found
                    if its_hash == hashed:
                        its, value = self._record(place)
                        if its == key:
                            found.append(value)
                            if len(found) == most:
                                return found
                        elif hash_of(its) != hashed:
                            raise CdbError("a record has not the hash that leads to it")
        return found

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every record in the order of the file: they fill the room between the head and the first table."""
        place = HEAD
        while place < self._end:
            key, value = self._record(place)
            yield key, value
            place += 8 + len(key) + len(value)

    def _record(self, place: int) -> tuple[bytes, bytes]:
        if place < HEAD:
            raise CdbError("a record is in the head")
        near = self._content[place : min(place + NEAR, self._end)]
        if len(near) < 8:
            raise CdbError("a record is not inside of it")
        key_length, length = _PAIR.unpack_from(near)
        size = 8 + key_length + length
        if place + size > self._end:
            raise CdbError("a record is not before the tables")
        whole = near if size <= len(near) else self._cut(place, size)
        return whole[8 : 8 + key_length], whole[8 + key_length : size]

    def _cut(self, place: int, size: int) -> bytes:
        found = self._content[place : place + size]
        if len(found) != size:
            raise CdbError("it has become shorter")  # written over in its place, instead of renamed
        return found


class Maker:
    """Makes a file of which nothing but places is held: HEAD bytes left free, what add() gives, then finish()."""

    def __init__(self) -> None:
        self._place = HEAD
        self._slots: list[list[int]] = [[] for _ in range(256)]  # of each table: the place above the hash, 32 bits each

    def add(self, key: bytes, value: bytes) -> bytes:
        """Return the bytes of one more record. CdbError if the file becomes larger than any can be."""
        record = _PAIR.pack(len(key), len(value)) + key + value
        hashed = hash_of(key)
        self._slots[hashed & 255].append(self._place << 32 | hashed)
        self._place += len(record)
        self._check_size()
        return record

    def finish(self) -> tuple[bytes, bytes]:
        """Return what stands behind the last record, and the head."""
        pointers: list[int] = []
        tables: list[bytes] = []
        for entries in self._slots:
            slots = len(entries) * 2
            table = [0] * slots
            for entry in entries:
                slot = ((entry & _MASK) >> 8) % slots
                while table[slot]:
                    slot = (slot + 1) % slots
                table[slot] = entry
            tables.append(struct.pack(f"<{slots}Q", *table))
            pointers += [self._place, slots]
            self._place += slots * 8
        self._check_size()
        return b"".join(tables), _POINTERS.pack(*pointers)

    def _check_size(self) -> None:
        if self._place > MAX_SIZE:
            raise CdbError("it would be larger than 4 GiB")


def build(records: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a whole file with these records."""
    maker = Maker()
    parts = [maker.add(key, value) for key, value in records]
    tables, head = maker.finish()
    return b"".join([head, *parts, tables])
