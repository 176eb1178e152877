"""Netstrings: whole and bytewise reading agree; nothing malformed gets through."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmaild.protocol import netstring

PARTS = st.lists(st.binary(max_size=50), max_size=8)


@given(PARTS)
def test_split_gives_back_what_was_encoded(parts: list[bytes]) -> None:
    assert netstring.split(netstring.encode_all(parts)) == parts


@given(PARTS, st.integers(1, 7))
def test_reading_in_pieces_equals_reading_whole(parts: list[bytes], step: int) -> None:
    run = netstring.encode_all(parts)
    reader = netstring.Reader(100)
    found = [part for place in range(0, len(run), step) for part in reader.feed(run[place : place + step])]
    assert found == parts
    assert reader.buffered == 0


def test_a_large_netstring_in_small_pieces_takes_no_longer_than_its_bytes() -> None:
    content = bytes(4 << 20)
    run = netstring.encode(content)
    reader = netstring.Reader(len(content))
    began = time.process_time()
    found = [part for place in range(0, len(run), 64) for part in reader.feed(run[place : place + 64])]
    assert found == [content]
    assert time.process_time() - began < 3  # several times that, if all were copied with every piece


@pytest.mark.parametrize("run", [b"3:ab,", b"3:abcd", b"x:abc,", b":,", b"3abc,", b"-1:,", b"1_0:aaaaaaaaaa,", b"9999999999:"])
def test_split_refuses_what_is_not_a_run_of_netstrings(run: bytes) -> None:
    with pytest.raises(netstring.NetstringError):
        netstring.split(run)


@pytest.mark.parametrize("stream", [b"3:abcd,", b"x", b":", b"12345678901", b"101:"])
def test_a_reader_refuses_bad_syntax_and_more_than_its_limit(stream: bytes) -> None:
    with pytest.raises(netstring.NetstringError):
        list(netstring.Reader(100).feed(stream))


@given(st.binary(max_size=200))
def test_a_reader_takes_any_bytes_without_another_error(stream: bytes) -> None:
    whole, pieces = netstring.Reader(64), netstring.Reader(64)
    try:
        expected = list(whole.feed(stream))
    except netstring.NetstringError:
        with pytest.raises(netstring.NetstringError):
            for place in range(len(stream)):
                list(pieces.feed(stream[place : place + 1]))
            list(whole.feed(b"\0"))  # the whole read gave up early: so do the pieces, now or at the next byte
    else:
        assert [part for place in range(len(stream)) for part in pieces.feed(stream[place : place + 1])] == expected
