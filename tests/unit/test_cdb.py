"""Constant databases: what we write others read, what others write we read, and damage is never an answer."""

from __future__ import annotations

import contextlib
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmaild.control import cdb
from qmaild.control.cdb import CdbError, Reader

Records = Sequence[tuple[bytes, bytes]]

MIXED: Records = [
    (b"one", b"1"), (b"", b"of the empty key"), (b"one", b"again"), (b"NUL\0\xff", b"\0\n"), (b"empty", b""),
    *[(b"key %d" % each, b"value %d" % (each * each)) for each in range(300)], (b"one", b"and again"),
]  # fmt: skip


def by_hand(records: Records) -> bytes:
    """A file made by another reading of the format: slots are filled in a second pass over what the first wrote."""
    body = bytearray(2048)
    hashed: dict[int, list[tuple[int, int]]] = {table: [] for table in range(256)}
    for key, value in records:
        total = 5381
        for letter in key:
            total = ((total << 5) + total ^ letter) % 2**32
        hashed[total % 256].append((total, len(body)))
        body += len(key).to_bytes(4, "little") + len(value).to_bytes(4, "little") + key + value
    for table, entries in hashed.items():
        struct.pack_into("<II", body, table * 8, len(body), 2 * len(entries))
        slots = [(0, 0)] * (2 * len(entries))
        for entry in entries:
            place = (entry[0] // 256) % len(slots)
            while slots[place][1]:
                place = (place + 1) % len(slots)
            slots[place] = entry
        body += b"".join(struct.pack("<II", *slot) for slot in slots)
    return bytes(body)


def expected(records: Records, key: bytes) -> list[bytes]:
    return [value for each, value in records if each == key]


def test_every_key_has_its_values_in_the_order_of_writing_and_no_other_has_any() -> None:
    reader = Reader(cdb.build(MIXED))
    for key in {key for key, _ in MIXED}:
        assert list(reader.values(key)) == expected(MIXED, key)
        assert reader.find(key) == expected(MIXED, key)[0]
    for key in (b"two", b"On", b"one\0", b"key 300", b"\xff" * 3000):
        assert reader.find(key) is None
    assert list(reader.records()) == list(MIXED)


@settings(deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=300)), max_size=40))
def test_the_bytes_are_those_of_another_reading_of_the_format(records: Records) -> None:
    made = cdb.build(records)
    assert made == by_hand(records)
    reader = Reader(made)
    assert list(reader.records()) == records
    for key, _ in records:
        assert list(reader.values(key)) == expected(records, key)


def test_an_empty_file_of_the_kind_has_no_keys() -> None:
    reader = Reader(cdb.build([]))
    assert reader.find(b"") is None and list(reader.records()) == []


def test_what_is_made_piece_by_piece_is_what_is_made_whole() -> None:
    maker = cdb.Maker()
    parts = [maker.add(key, value) for key, value in MIXED]
    tables, head = maker.finish()
    assert head + b"".join(parts) + tables == cdb.build(MIXED)
    assert len(head) == cdb.HEAD


def test_keys_with_one_hash_are_told_apart() -> None:
    seen: dict[int, bytes] = {}
    two = (bytes([first, second]) for first in range(256) for second in range(256))
    collide = next([seen[found], key] for key in two if seen.setdefault(found := cdb.hash_of(key), key) != key)
    pairs = list(zip(collide, (b"first", b"second"), strict=True))
    reader = Reader(cdb.build(pairs))
    assert [reader.find(key) for key in collide] == [b"first", b"second"]
    assert Reader(cdb.build(pairs[:1])).find(collide[1]) is None


def test_a_hash_that_is_known_need_not_be_made_again() -> None:
    reader = Reader(cdb.build(MIXED))
    hashes = cdb.hashes_of(b"key 77")
    assert len(hashes) == 7 and hashes[6] == cdb.hash_of(b"key 77") and hashes[0] == cdb.hash_of(b"")
    assert reader.find(b"key 77", hashes[6]) == b"value 5929"


def as_text(records: Records) -> bytes:
    """Records as the cdb tools write them."""
    return b"".join(b"+%d,%d:%b->%b\n" % (len(key), len(value), key, value) for key, value in records) + b"\n"


def test_debians_tool_writes_what_we_read_and_reads_what_we_write(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    subprocess.run(["cdb", "-c", "-t", tmp_path / "temporary", theirs], input=as_text(MIXED), check=True)
    reader = Reader(theirs.read_bytes())
    assert list(reader.records()) == list(MIXED)
    for key, _ in MIXED:
        assert list(reader.values(key)) == expected(MIXED, key)
    ours.write_bytes(cdb.build(MIXED))
    assert subprocess.run(["cdb", "-d", ours], capture_output=True, check=True).stdout == as_text(MIXED)
    asked = subprocess.run(["cdb", "-q", "-n", "3", ours, "one"], capture_output=True, check=True)
    assert asked.stdout == b"and again"
    assert subprocess.run(["cdb", "-s", ours], capture_output=True, check=True).stdout.startswith(b"number of records: 306\n")


def answers(content: bytes, key: bytes) -> list[bytes] | None:
    """The values of a key, None if the file is known to be damaged."""
    try:
        return list(Reader(content).values(key))
    except CdbError:
        return None


def test_a_file_without_its_end_is_never_believed() -> None:
    made = cdb.build(MIXED)
    for size in range(len(made)):
        with pytest.raises(CdbError):
            Reader(made[:size])
    with pytest.raises(CdbError):
        Reader(made + b"\0")


@pytest.mark.parametrize("size", [8, 64, 512, 4096])
def test_where_zeros_stand_no_key_is_missing(size: int) -> None:
    """What a power cut leaves of a file that was not synced are blocks that were never written."""
    made = cdb.build(MIXED)
    for start in range(0, len(made), size):
        torn = made[:start] + bytes(len(made[start : start + size])) + made[start + size :]
        for key in (b"one", b"", b"key 0", b"key 150", b"key 299"):
            found = answers(torn, key)
            # Zeros inside of a value are for whoever knows what values look like.
            assert found is None or len(found) == len(expected(MIXED, key)), (start, key)


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 4000), st.binary(min_size=1, max_size=16))
def test_nothing_but_values_or_damage_comes_out_of_any_bytes(extra: bytes, place: int, patch: bytes) -> None:
    made = bytearray(cdb.build(MIXED[:20]))
    made[place : place + len(patch)] = patch
    for content in (bytes(made), extra, made[:2048] + extra):
        for key in (b"one", b"", b"key 1"):
            answers(bytes(content), key)
        with contextlib.suppress(CdbError):
            assert all(isinstance(each, tuple) for each in Reader(bytes(content)).records())


def test_a_hash_beside_another_key_is_damage() -> None:
    made = cdb.build([(b"one", b"1")])
    with pytest.raises(CdbError, match="hash"):
        Reader(made.replace(b"one", b"two")).find(b"one")


def test_no_file_becomes_larger_than_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cdb, "MAX_SIZE", 3000)
    maker = cdb.Maker()
    maker.add(b"a", bytes(900))
    with pytest.raises(CdbError, match="larger"):
        maker.add(b"b", bytes(900))
    monkeypatch.setattr(cdb, "MAX_SIZE", 2068)
    maker = cdb.Maker()
    maker.add(b"a", b"")
    with pytest.raises(CdbError, match="larger"):
        maker.finish()
