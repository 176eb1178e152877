"""The body scanner against a slow one that looks at one byte after the other, and against smuggling."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmaild.protocol.smtp.body import Problem, Scanner
from qmaild.protocol.smtp.events import Sender

from .owner import converse

NO_LIMIT = 0


def scan(data: bytes, limit: int = NO_LIMIT, cuts: list[int] | None = None) -> tuple[bytes, int, Problem | None]:
    """(stored text, bytes taken up to and with the end, problem); taken is -1 if the message did not end."""
    scanner = Scanner(limit)
    stored, taken = b"", 0
    places = [0, *(cuts or []), len(data)]
    for start, stop in itertools.pairwise(places):
        if start == stop:
            continue
        text, used = scanner.feed(data[start:stop])
        stored += text
        taken += used
        if scanner.is_ended:
            assert scanner.problem or scanner.size == len(stored)
            return stored, taken, scanner.problem
        assert used == stop - start
    return stored, -1, scanner.problem


def slow(data: bytes) -> tuple[bytes, int, bool]:
    """What RFC 5321 4.5.2 says, a byte at a time: (stored text, bytes taken or -1, whether CR or LF stood alone)."""
    lines: list[bytes] = []
    start, is_bare = 0, False
    while True:
        end = data.find(b"\r\n", start)
        if end < 0:
            return b"", -1, is_bare
        line = data[start:end]
        start = end + 2
        if line == b".":
            return b"".join(lines), start, is_bare
        is_bare = is_bare or b"\r" in line or b"\n" in line
        lines.append((line[1:] if line.startswith(b".") else line) + b"\n")


@pytest.mark.parametrize(("sent", "stored"), [
    (b".\r\n", b""),
    (b"\r\n.\r\n", b"\n"),
    (b"a\r\n.\r\n", b"a\n"),
    (b"..\r\n.\r\n", b".\n"),
    (b"...\r\n.\r\n", b"..\n"),
    (b".a\r\nb.\r\n.c\r\n.\r\n", b"a\nb.\nc\n"),
    (b"a\r\n\r\n..\r\n\r\n.\r\n", b"a\n\n.\n\n"),
    (b"\0\xff\r\n.\r\n", b"\0\xff\n"),
])  # fmt: skip
def test_what_is_stored(sent: bytes, stored: bytes) -> None:
    assert scan(sent + b"QUIT\r\n") == (stored, len(sent), None)
    assert scan(sent, cuts=list(range(1, len(sent)))) == (stored, len(sent), None)


ALPHABET = st.sampled_from([b"\r\n", b".", b"\r", b"\n", b"a", b"\r\n.", b"\r\n.\r\n", b"\r\n..", b"x" * 70, b"\0"])
# What real messages are made of, so that those without a problem are common too.
CLEAN = st.sampled_from([b"\r\n", b".", b"a", b"\r\n.", b"\r\n..", b"bcd", b"\xff"])


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.lists(ALPHABET, max_size=30), st.lists(CLEAN, max_size=30)), st.data())
def test_it_agrees_with_the_slow_one_however_the_bytes_are_cut(parts: list[bytes], data: st.DataObject) -> None:
    sent = b"".join(parts) + b"\r\n.\r\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=8)))
    stored, taken, is_bare = slow(sent)
    found, found_taken, problem = scan(sent, cuts=cuts)
    assert found_taken == taken
    assert (problem is Problem.BARE_LINE_END) == is_bare
    if not is_bare:
        assert found == stored
    assert scan(sent, cuts=list(range(1, len(sent))))[1:] == (taken, problem)


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_the_limit_is_of_stored_bytes_and_exact(step: int) -> None:
    sent = b"..45\r\n" * 20 + b".\r\n"  # 4 bytes stored of each line
    cuts = list(range(step, len(sent), step))
    assert scan(sent, 80, cuts) == (b".45\n" * 20, len(sent), None)
    assert scan(sent, 79, cuts)[1:] == (len(sent), Problem.TOO_LARGE)


def test_after_a_problem_nothing_more_is_given_on() -> None:
    scanner = Scanner(10)
    assert scanner.feed(b"12345678901\r\n")[0] == b""
    assert scanner.feed(b"more\r\n" * 1000)[0] == b""
    assert scanner.feed(b".\r\n") == (b"", 3)
    assert scanner.problem is Problem.TOO_LARGE


# What some server somewhere takes for the end of the data. CVE-2023-51764, 51765, 51766, and
# "SMTP Smuggling" by T. Longin; the last ones are our own.
LOOKALIKES = [
    b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\n.\r", b"\r.\n", b"\r\n.\r\r\n",
    b"\r\r\n.\r\r\n", b"\n\n.\n\n", b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\n. \r\n", b"\r\n .\r\n",
    b"\r\n..\r\n", b"\n.\n\r\n", b"\r\n\r.\r\n", b"\r\n.\n\r\n",
]  # fmt: skip
SMUGGLED = b"MAIL FROM:<evil@b.test>\r\nRCPT TO:<bob@mx.test>\r\nDATA\r\nSubject: smuggled\r\n"


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("lookalike", LOOKALIKES)
def test_nothing_but_crlf_dot_crlf_ends_the_data(lookalike: bytes, step: int) -> None:
    before = b"HELO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<bob@mx.test>\r\nDATA\r\nSubject: x\r\n\r\ntext"
    owner = converse(before + lookalike + SMUGGLED + b"\r\n.\r\nQUIT\r\n", step)
    senders = [event.address for event in owner.events if isinstance(event, Sender)]
    assert senders == [b"a@b.test"]
    assert len(owner.messages) <= 1
    rest = lookalike.replace(b"\r\n", b"")
    if b"\r" in rest or b"\n" in rest:
        assert owner.messages == []  # a line end that stands alone is stored nowhere
    for message in owner.messages:
        assert b"\r" not in message
        assert b"\n.\n" not in message or lookalike == b"\r\n..\r\n"
