"""The content behind DATA: what leaves has CR LF line ends only, cannot end early, and comes back as it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmaild.protocol.smtp_body import Stuffer, stuff

CONTENTS = [
    (b"", b".\r\n"),
    (b"a\n", b"a\r\n.\r\n"),
    (b"a", b"a\r\n.\r\n"),  # Differs: refused by qmail
    (b".\n", b"..\r\n.\r\n"),
    (b".a\n..\nb.\n", b"..a\r\n...\r\nb.\r\n.\r\n"),
    (b"a\r\nb\n", b"a\r\nb\r\n.\r\n"),
    (b"a\rb\n", b"a\r\nb\r\n.\r\n"),
    (b"a\r.\rQUIT\n", b"a\r\n..\r\nQUIT\r\n.\r\n"),
    (b"a\r\r\n\n", b"a\r\n\r\n\r\n.\r\n"),
    (b"a\r", b"a\r\n.\r\n"),
]

pieces_of_text = st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\r\n.\r\n", b"\n.", b"", b"\0\xff"]))


@pytest.mark.parametrize(("content", "sent"), CONTENTS)
def test_stuffing(content: bytes, sent: bytes) -> None:
    assert stuff(content) == sent


@given(pieces_of_text)
def test_pieces_give_what_the_whole_gives(pieces: list[bytes]) -> None:
    stuffer = Stuffer()
    assert b"".join([stuffer.feed(piece) for piece in pieces]) + stuffer.end() == stuff(b"".join(pieces))


@given(pieces_of_text)
def test_the_data_end_once_and_come_back_unchanged(pieces: list[bytes]) -> None:
    content = b"".join(pieces)
    sent = stuff(content)
    assert b"\r" not in sent.replace(b"\r\n", b"") and b"\n" not in sent.replace(b"\r\n", b"")
    lines = sent.split(b"\r\n")
    assert lines.index(b".") == len(lines) - 2
    received = b"".join([line.removeprefix(b".") + b"\n" for line in lines[:-2]])
    normal = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert received == (normal if normal.endswith(b"\n") or not normal else normal + b"\n")
