"""QMQP packages: whole, in pieces, too large, and not packages at all."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmaild.protocol import qmqp
from qmaild.protocol.netstring import encode, encode_all


def package(content: bytes, *paths: bytes) -> bytes:
    return encode(encode(content) + encode_all(paths))


def read(data: bytes, limit: int = 0, step: int = 0) -> tuple[bytes, qmqp.Package | None]:
    """(contents given on, the package if it became complete)."""
    reader = qmqp.Reader(limit)
    text, complete = b"", None
    for place in range(0, len(data), step or len(data) or 1):
        for found in reader.feed(data[place : place + step] if step else data):
            assert complete is None, "nothing comes after the package"
            if isinstance(found, qmqp.Content):
                text += found.text
            else:
                complete = found
    return text, complete


@pytest.mark.parametrize("step", [0, 1, 2, 7])
@pytest.mark.parametrize("content", [b"", b"x", b"Subject: x\n\n1:a,2:bc,\n", b"\0\xff\r\n" * 500])
def test_a_package_however_it_is_cut(content: bytes, step: int) -> None:
    data = package(content, b"a@b.test", b"c@d.test", b"e f@d.test")
    expected = qmqp.Package(b"a@b.test", [b"c@d.test", b"e f@d.test"], len(content), False)
    assert read(data, step=step) == (content, expected)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.lists(st.binary(max_size=20), min_size=1, max_size=5), st.integers(1, 50))
def test_any_package_comes_through(content: bytes, paths: list[bytes], step: int) -> None:
    assert read(package(content, *paths), step=step) == (content, qmqp.Package(paths[0], paths[1:], len(content), False))


def test_every_beginning_of_a_package_is_waited_for() -> None:
    data = package(b"text", b"a@b.test", b"c@d.test")
    for length in range(len(data)):
        assert read(data[:length])[1] is None


def test_the_limit_is_exact_and_what_is_beyond_is_not_given_on() -> None:
    data = package(b"x" * 100, b"", b"c@d.test")
    assert read(data, 100)[1] == qmqp.Package(b"", [b"c@d.test"], 100, False)
    assert read(data, 99) == (b"", qmqp.Package(b"", [b"c@d.test"], 100, True))


@pytest.mark.parametrize("data", [
    b"x", b":", b"1x", b"-1:", b"1234567890:", b"200000001:", b"4:1:a,;", b"5:1:a;1", b"10:20:a", b"3:1:a,",
    b"8:1:a,1:b;,", b"7:1:a,x:b,", b"4:1:a,,", b"1:1:a,", b"GET / HTTP/1.1\r\n",
    b"9000000:1:a,", encode(encode(b"a")) + b"",
])  # fmt: skip
def test_what_is_no_package(data: bytes) -> None:
    for step in (0, 1):
        with pytest.raises(qmqp.QmqpError):
            read(data, step=step)
            pytest.fail(f"{data!r} was taken")


def test_an_envelope_that_comes_in_small_pieces_is_not_copied_with_each() -> None:
    data = package(b"x", b"", *[b"r" * 900] * 3000)
    start = time.process_time()
    assert len(read(data, step=16)[1].recipients) == 3000
    assert time.process_time() - start < 20  # it took minutes


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_upset_the_reader(data: bytes) -> None:
    for step in (0, 1):
        try:
            read(data, step=step)
        except qmqp.QmqpError:
            continue
