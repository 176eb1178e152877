"""What programs say to each other and to QMQP: netstrings, frames, packages, qmail-queue's envelope.

The first byte of an input chooses the reader: its letter in READERS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from qmaild.message import envelope
from qmaild.protocol import frames, netstring, qmqp

LIMIT = 2000
PACKAGE_LIMIT = 100


def _pieces(data: bytes, step: int) -> Iterator[bytes]:
    for place in range(0, len(data), step):
        yield data[place : place + step]


def _streamed(data: bytes, step: int) -> tuple[list[bytes], bool]:
    reader, found = netstring.Reader(LIMIT), []
    try:
        for piece in _pieces(data, step):
            for each in reader.feed(piece):
                found.append(each)
            assert reader.buffered <= LIMIT + netstring.MAX_DIGITS + 2
    except netstring.NetstringError:
        return found, False
    return found, True


def netstrings(data: bytes) -> None:
    """A stream, at once and byte by byte; and as one run."""
    whole = _streamed(data, max(len(data), 1))
    assert _streamed(data, 1) == whole
    try:
        parts = netstring.split(data)
    except netstring.NetstringError:
        return
    assert netstring.split(netstring.encode_all(parts)) == parts
    assert whole == (parts, True) or any(len(part) > LIMIT for part in parts)


def one_frame(payload: bytes) -> None:
    """What is read as a frame is written as one, and read as the same."""
    try:
        frame = frames.decode(payload)
    except frames.FrameError as error:
        assert len(str(error)) < 500  # it goes into the journal
        return
    (again,) = netstring.split(frames.encode(frame))
    assert frames.decode(again) == frame


def a_frame_of_fields(data: bytes) -> None:
    """The letter, then lines: `#NUMBER`, or a field's bytes, whose length goes to the head. So the fuzzer need not count."""
    letter, *lines = data.split(b"\n")
    head = [line[1:] if line.startswith(b"#") else b"%d" % len(line) for line in lines]
    fields = [line for line in lines if not line.startswith(b"#")]
    one_frame(letter[:1] + b",".join(head) + b":" + b"".join(fields))


def _package(data: bytes, step: int) -> tuple[bytes, list[qmqp.Package]] | None:
    reader, text, packages = qmqp.Reader(PACKAGE_LIMIT), b"", []
    try:
        for piece in _pieces(data, step):
            for each in reader.feed(piece):
                if isinstance(each, qmqp.Package):
                    packages.append(each)
                else:
                    text += each.text
            assert len(reader._held) <= max(netstring.MAX_DIGITS, reader._package_left)  # never any of the message
    except qmqp.QmqpError:
        return None
    return text, packages


def package(data: bytes) -> None:
    """QMQP, at once and byte by byte."""
    whole = _package(data, max(len(data), 1))
    assert _package(data, 1) == whole
    if whole and whole[1]:
        (found,) = whole[1]
        assert len(whole[0]) == (0 if found.is_too_large else found.size)
        content = whole[0] if not found.is_too_large else b"x" * found.size
        inner = netstring.encode_all([content, found.sender, *found.recipients])
        assert _package(netstring.encode(inner), 7) == whole


def a_package_of_lines(data: bytes) -> None:
    """Lines: the message, the reverse-path, the forward-paths."""
    package(netstring.encode(netstring.encode_all(data.split(b"\n"))))


def an_envelope(data: bytes) -> None:
    """qmail-queue's second input."""
    try:
        found = envelope.parse(data)
    except envelope.EnvelopeError as error:
        assert error.code in (envelope.TOO_LONG, envelope.REFUSED, envelope.INCOMPLETE, envelope.MALFORMED)
        return
    written = b"F" + found.sender + b"\0" + b"".join([b"T" + each + b"\0" for each in found.recipients]) + b"\0"
    assert data.startswith(written)


READERS: dict[bytes, Callable[[bytes], Any]] = {
    b"n": netstrings, b"f": one_frame, b"F": a_frame_of_fields, b"q": package, b"Q": a_package_of_lines, b"e": an_envelope,
}  # fmt: skip


def one_input(data: bytes) -> None:
    READERS.get(data[:1], one_frame)(data[1:])


def _dribbled(data: bytes) -> None:
    """A package whose envelope comes in small pieces."""
    content = b"1:x,0:," + netstring.encode(data)
    package_bytes = netstring.encode(content)
    _package(package_bytes, 16)


def _dribbled_netstring(data: bytes) -> None:
    reader = netstring.Reader(frames.MAX_FRAME)
    for piece in _pieces(netstring.encode(data), 16):
        list(reader.feed(piece))


def _listed(data: bytes) -> None:
    one_frame(b"d1,%d:" % len(data) + data)


GROWTH = {
    "frame": one_frame, "fields": a_frame_of_fields, "list": _listed, "envelope": an_envelope,
}  # fmt: skip
DRIBBLE = {"package": _dribbled, "netstring": _dribbled_netstring}
