"""Frames as bytes: how a tuple of numbers, bytes and lists of them is written and read. Knows no frame (frames.py lists them).

A frame on the wire is one netstring: a letter, a head and what the head counts. The head has a number for each field,
the field itself if it is an integer, else its length: `d4511,1:0` is Done(4511, [0]). The bytes of the fields that are
no integers stand behind it, one after the other; a list of bytes is a run of netstrings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, get_type_hints

from qmaild.protocol import netstring

MAX_DIGITS = 20  # of one number
MAX_HEAD = 256  # bytes of all numbers of one frame

Frame = tuple[Any, ...]


class FrameError(ValueError):
    """A peer sent what no frame of this version looks like."""


_NUMBERS = b"0123456789,-"

_Write = Callable[[Any], bytes]
_Read = Callable[[bytes], Any]


def _integers(digits: bytes) -> list[int]:
    """Return the numbers in `1,-2,3`. ValueError: they are none, or too long for one."""
    if digits.translate(None, _NUMBERS):  # int() would take blanks and underscores
        raise FrameError("expected integers")
    numbers = digits.split(b",")
    if len(digits) > MAX_DIGITS and max(map(len, numbers)) > MAX_DIGITS:
        raise FrameError(f"expected integers of at most {MAX_DIGITS} digits")
    return list(map(int, numbers))


# How the bytes of a field are made and read; None: it is a number, and the head says it all.
_FIELDS: dict[object, tuple[_Write, _Read] | None] = {
    int: None,
    bytes: (bytes, bytes),
    list[int]: (
        lambda value: b",".join([b"%d" % each for each in value]),
        lambda field: _integers(field) if field else [],
    ),
    list[bytes]: (netstring.encode_all, netstring.split),
}


class _Shape(NamedTuple):
    """Of one frame class: its head as a format, and how its fields' bytes are made and read."""

    kind: Any
    head: bytes
    fields: tuple[tuple[_Write, _Read] | None, ...]


def _compile(letters: dict[bytes, type[Frame]]) -> tuple[dict[type, _Shape], dict[bytes, _Shape]]:
    by_kind: dict[type, _Shape] = {}
    by_letter: dict[bytes, _Shape] = {}
    for letter, kind in letters.items():
        fields = tuple(_FIELDS[hint] for hint in get_type_hints(kind).values())
        shape = _Shape(kind, letter + b",".join([b"%d"] * len(fields)) + b":", fields)
        by_kind[kind] = by_letter[letter] = shape
    return by_kind, by_letter


def of(letters: dict[bytes, type[Frame]]) -> tuple[Callable[[Frame], bytes], Callable[[bytes], Any]]:
    """Return encode and decode for the frame classes that have these letters."""
    by_kind, by_letter = _compile(letters)

    def encode(frame: Frame) -> bytes:
        """Return the frame as the bytes of one netstring."""
        _, head, fields = by_kind[type(frame)]
        numbers: list[int] = []
        parts = [b"", b""]
        size = 0
        for field, value in zip(fields, frame, strict=True):
            if field is not None:
                value = field[0](value)
                parts.append(value)
                value = len(value)
                size += value
            numbers.append(value)
        parts[1] = head % tuple(numbers)
        parts[0] = b"%d:" % (size + len(parts[1]))
        parts.append(b",")
        return b"".join(parts)

    def decode(payload: bytes) -> Any:
        """Return the frame in one netstring's content. Anything that is not a frame of this version raises FrameError."""
        shape = by_letter.get(payload[:1])
        if shape is None:
            raise FrameError(f"no frame begins with {payload[:1]!r}")
        kind, _, fields = shape
        try:
            end = payload.find(b":", 1, MAX_HEAD)
            values: list[Any] = _integers(payload[1:end])
            place = end + 1
            for number, field in enumerate(fields):
                if field is not None:
                    length = values[number]
                    begin, place = place, place + length
                    if length < 0:
                        raise FrameError("a field of less than no bytes")
                    values[number] = field[1](payload[begin:place])
            if place != len(payload) or len(values) != len(fields) or end < 0:
                raise FrameError("its fields are not as long as it says")
            return kind(*values)
        except (ValueError, IndexError) as error:
            raise FrameError(f"{kind.__name__}: {error}") from None

    return encode, decode
