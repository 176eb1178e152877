"""Received fields and hop counting."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from qmaild.message.trace import Hops, received


def test_the_field_is_qmails() -> None:
    assert received(b"client.test", b"192.0.2.1", b"host.test", b"ESMTP", 1795424707) == (
        b"Received: from unknown (HELO client.test) (192.0.2.1)\n  by host.test with ESMTP; 23 Nov 2026 09:05:07 -0000\n")


def test_without_helo_nothing_is_made_up() -> None:
    assert received(b"", b"::1", b"h.test", b"QMQP", 0).startswith(b"Received: from unknown (::1)\n  by h.test with QMQP; ")


@given(st.binary(max_size=400))
def test_whatever_a_client_calls_itself_the_field_stays_one_field(helo: bytes) -> None:
    field = received(helo, b"192.0.2.1", b"h.test", b"SMTP", 0)
    first, second, end = field.split(b"\n")
    assert second.startswith(b"  by ") and end == b""
    assert b"\r" not in first and b"\0" not in first and first.count(b"(") <= 2
    assert len(first) < 400


def count(*pieces: bytes) -> int:
    hops = Hops()
    for piece in pieces:
        hops.feed(piece)
    return hops.count


def test_received_and_delivered_count_by_prefix_in_any_case() -> None:
    assert count(b"Received: a\nRECEIVED-SPF: b\nDelivered-To: c\nSubject: received\nX: y\n\nReceived: body\n") == 3


def test_only_the_header_section_counts() -> None:
    assert count(b"\nReceived: x\n") == 0
    assert count(b"Subject: x\n", b"\n", b"Received: x\n") == 0


LINES = st.sampled_from([b"Received: x\n", b"received\n", b"Delivered-To: y\n", b"Subject: z\n", b" received\n", b"\n"])


@settings(max_examples=200, deadline=None)
@given(st.lists(LINES, max_size=12), st.lists(st.integers(0, 150), max_size=10))
def test_how_the_pieces_are_cut_changes_nothing(lines: list[bytes], cuts: list[int]) -> None:
    text = b"".join(lines)
    header = lines[: lines.index(b"\n")] if b"\n" in lines else lines
    expected = sum(line.lower().startswith((b"received", b"delivered")) for line in header)
    places = sorted({0, len(text), *[cut for cut in cuts if cut < len(text)]})
    assert count(*[text[a:b] for a, b in itertools.pairwise(places)]) == expected
    assert count(*[text[i : i + 1] for i in range(len(text))]) == expected
