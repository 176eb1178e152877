"""Frames: every one survives the way there and back, and bytes that are none are refused."""

from __future__ import annotations

import contextlib
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmaild.protocol import frames, netstring

VALUES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(10**18), 10**18),
    bytes: st.binary(max_size=40),
    list[int]: st.lists(st.integers(0, 10**9), max_size=5),
    list[bytes]: st.lists(st.binary(max_size=20), max_size=5),
}


@pytest.mark.parametrize("letter", frames.LETTERS)
@settings(max_examples=25)
@given(content=st.data())
def test_every_frame_comes_back_as_it_was_sent(letter: bytes, content: st.DataObject) -> None:
    kind = frames.LETTERS[letter]
    frame = kind(*[content.draw(VALUES[hint]) for hint in get_type_hints(kind).values()])  # type: ignore[call-arg]
    (payload,) = netstring.split(frames.encode(frame))
    assert frames.decode(payload) == frame


def test_letters_are_one_byte_each_and_no_class_is_listed_twice() -> None:
    assert all(len(letter) == 1 for letter in frames.LETTERS)
    assert len(set(frames.LETTERS.values())) == len(frames.LETTERS)


@given(st.binary(max_size=100))
def test_hostile_bytes_are_refused_with_one_error(payload: bytes) -> None:
    with contextlib.suppress(frames.FrameError):
        frames.decode(payload)


@pytest.mark.parametrize(
    "payload",
    [b"", b"?", b"K", b"K1", b"K1,2", b"K1:", b"K1,x:", b"K1, 2:", b"K1_0,2:", b"K1,2,3:", b"K,:", b"K1,2:more", b"K-,2:",
     b"K1,111111111111111111111:", b"+1,5:four", b"+1,3:four", b"+1,-1:", b"+1,99999999999999999999:x", b"d1,3:0,x",
     b"K1," + b"0" * 300 + b":"],
)  # fmt: skip
def test_a_frame_with_wrong_fields_is_refused(payload: bytes) -> None:
    with pytest.raises(frames.FrameError):
        frames.decode(payload)
