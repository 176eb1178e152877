"""Any bytes at all: the grammar never fails, never says anything but replies, and does not care how they were cut."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from .owner import converse

REPLY = re.compile(rb"(?:[2-5][0-9][0-9][ -][^\r\n]*\r\n)*")
WORDS = st.sampled_from([
    b"EHLO c\r\n", b"HELO c\r\n", b"MAIL FROM:<a@b.test>\r\n", b"MAIL FROM:<>\r\n", b"RCPT TO:<bob@mx.test>\r\n",
    b"RCPT TO:<nobody@mx.test>\r\n", b"DATA\r\n", b"RSET\r\n", b"NOOP\r\n", b"QUIT\r\n", b"VRFY x\r\n", b"HELP\r\n",
    b".\r\n", b"\r\n", b"\r", b"\n", b".", b"x", b"x" * 1500, b"MAIL FROM:<", b" SIZE=9 SMTPUTF8\r\n", b"\0", b"\xff",
])  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(WORDS, st.binary(max_size=10)), max_size=25), st.integers(1, 40))
def test_any_bytes_are_answered_the_same_however_they_are_cut(words: list[bytes], step: int) -> None:
    data = b"".join(words)
    whole, cut = converse(data), converse(data, step)
    assert REPLY.fullmatch(whole.said)
    assert cut.said == whole.said
    assert cut.messages == whole.messages
    assert cut.grammar.state is whole.grammar.state
    for message in whole.messages:
        assert b"\r" not in message and len(message) <= 1000 and message[-1:] in (b"\n", b"")
