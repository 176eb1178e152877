"""Header sections and address lists: read as qmail-inject reads them, whole and byte by byte."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmaild.message import fields
from qmaild.message.addresslist import MAX_ITEMS, Address, AddressError, Group, GroupEnd, Hosts, one, parse, render

HOSTS = Hosts(b"dh", b"dd.example", b"pd.example", frozenset((b"localhost", b"dh-whole")))


def read(message: bytes, piece: int = 0) -> tuple[list[bytes], bytes]:
    """Read a header section in pieces of this size (0: whole); return its fields and the body."""
    reader = fields.SectionReader()
    size = piece or max(1, len(message))
    for place in range(0, len(message), size):
        body = reader.feed(message[place : place + size])
        if body is not None:
            return reader.fields, body + message[place + size :]
    body = reader.finish()
    return reader.fields, body


def paths(value: bytes) -> list[bytes]:
    return [item.completed(HOSTS).path for item in parse(value) if isinstance(item, Address)]


def rewritten(value: bytes) -> bytes:
    items = [item.completed(HOSTS) if isinstance(item, Address) else item for item in parse(value)]
    return render(b"To", items)


@pytest.mark.parametrize(
    ("message", "expected", "body"),
    [
        (b"", [], b""),
        (b"\n", [], b""),
        (b"A: 1\nB: 2\n\nbody\n", [b"A: 1\n", b"B: 2\n"], b"body\n"),
        (b"A: 1\n two\n\tthree\n\nx", [b"A: 1\n two\n\tthree\n"], b"x"),
        (b"A: 1", [b"A: 1\n"], b""),
        (b"A: 1\nnot a field\nB: 2\n", [b"A: 1\n"], b"not a field\nB: 2\n"),
        (b"A: 1\nlast words", [b"A: 1\n"], b"last words\n"),
        (b" begins with a blank\n", [], b" begins with a blank\n"),
        (b"A: 1\nFrom x y\nB: 2\n\n", [b"A: 1\n", b"MBOX-Line: From x y\n", b"B: 2\n"], b""),
        (b"A \t: 1\n\n", [b"A \t: 1\n"], b""),
        (b": 1\n", [], b": 1\n"),
        (b"A\xe4: 1\n", [], b"A\xe4: 1\n"),
    ],
)
def test_a_section_ends_where_qmail_inject_ends_it(message: bytes, expected: list[bytes], body: bytes) -> None:
    assert read(message) == (expected, body)
    assert read(message, 1) == (expected, body)


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"A: 1\n", b" c\n", b"\n", b"x\n", b"From y\n", b"B :", b"\t", b"z"])).map(b"".join))
def test_reading_byte_by_byte_gives_what_reading_whole_gives(message: bytes) -> None:
    assert read(message, 1) == read(message)


def test_an_endless_header_section_is_refused() -> None:
    reader = fields.SectionReader()
    with pytest.raises(fields.SectionTooLong):
        for _ in range(fields.MAX_SECTION // 1000 + 1):
            reader.feed(b"A: " + b"x" * 1000 + b"\n")


def test_an_endless_line_is_refused() -> None:
    reader = fields.SectionReader()
    with pytest.raises(fields.SectionTooLong):
        for _ in range(fields.MAX_SECTION // 65536 + 1):
            reader.feed(b"x" * 65536)


@pytest.mark.parametrize("pieces", [[b"A: b\n", b" \n" * 500_000], [b"A"] * fields.MAX_SECTION])
def test_no_header_section_takes_long_to_read(pieces: list[bytes]) -> None:
    reader = fields.SectionReader()
    began = time.process_time()
    for piece in pieces:
        reader.feed(piece)
    rest = reader.finish()
    assert len(b"".join(reader.fields) + rest) >= sum(map(len, pieces))
    assert time.process_time() - began < 5  # a minute, if what has been read were copied with every piece


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"\r", b"\n", b"x", b"\r\n"])).map(b"".join))
def test_line_ends_are_made_the_same_however_the_bytes_arrive(message: bytes) -> None:
    ends = fields.LineEnds()
    assert b"".join(ends.feed(message[n : n + 1]) for n in range(len(message))) + ends.finish() == message.replace(
        b"\r\n", b"\n"
    )


def test_hops_count_received_and_delivered_to() -> None:
    assert fields.hops([b"received: a\n", b"Delivered-To : b\n", b"X-Received: c\n"]) == 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"a b", [b"a@dh.dd.example", b"b@dh.dd.example"]),  # a missing comma
        (b"x@cs+, y@dom, z@full.dom.", [b"x@cs.pd.example", b"y@dom.dd.example", b"z@full.dom"]),
        (b"<@r:w@q.r>", [b"w@q.r"]),
        (b"<@r,@s.t:w@q.r>", [b"w@q.r"]),
        (b"a@", [b"a@dh.dd.example"]),
        (b"a.", [b"a@dh.dd.example"]),
        (b"a@..", [b"a@dh.dd.example"]),
        (b"a@dom.., b@c.d..", [b"a@dom.dd.example", b"b@c.d"]),
        (b"a@[1.2.3.4]", [b"a@[1.2.3.4]"]),
        (b"<x@[]>", [b"x@[]"]),
        (b"<>", [b""]),
        (b'"a b"@c.d', [b"a b@c.d"]),
        (b'"a\\"b"@c.d', [b'a"b@c.d']),
        (b"a . b @ c . d", [b"a.b@c.d"]),
        (b"a@b@c.d", [b"a@b@c.d"]),
        (b"Joe Q. Public <j@x.y>", [b"j@x.y"]),
        (b"j@x.y <j@x.y>, k@x.y", [b"j@x.y", b"k@x.y"]),
        (b"(one (two)) a@b.c (three)", [b"a@b.c"]),
        (b"friends: a@b.c, d@e.f; g@h.i", [b"a@b.c", b"d@e.f", b"g@h.i"]),
        (b"undisclosed-recipients:", []),
        (b"a@b.c; d@e.f", [b"a@b.c", b"d@e.f"]),
        (b" ,, a@b.c ,", [b"a@b.c"]),
        (b"a@localhost", [b"a@localhost"]),
        (b"a@DH-Whole", [b"a@DH-Whole"]),
        ("ä@ö.example".encode(), ["ä@ö.example".encode()]),
    ],
)
def test_addresses_are_found_and_completed(value: bytes, expected: list[bytes]) -> None:
    assert paths(value) == expected


@pytest.mark.parametrize(
    "value",
    [b"(x", b"<a", b"a>", b'"x', b"@", b"<a b>", b"<a, b>", b"a\\", b"[x", b"g: h: a;", b"<a@b:c>", b"<a <b>>",
     b'"a\nb"@c', b'"a\0b"@c', b"a@" + b"b" * 1000, b"a@[b@c]", b"a@[\\]]", b"a@[<b>]"],
)  # fmt: skip
def test_what_is_no_address_list_is_an_error(value: bytes) -> None:
    with pytest.raises(AddressError):
        parse(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"Joe Q. Public <j@dom> (hi), \"a b\"@c.d", b'To: Joe Q. Public <j@dom.dd.example> (hi), "a b"@c.d\n'),
        (b"recipient list not shown: ;", b"To: recipient list not shown: ;\n"),
        (b"g: a@b.c, d@e.f;, h@i.j", b"To: g: a@b.c, d@e.f;, h@i.j\n"),
        (b"joe@x <joe@x.y>", b'To: "joe@x" <joe@x.y>\n'),
        (b"<>", b"To: <>\n"),
        (b"=?utf-8?q?J=C3=B6?= <j@x.y>", b"To: =?utf-8?q?J=C3=B6?= <j@x.y>\n"),
    ],
)
def test_lists_are_written_with_their_names_and_comments(value: bytes, expected: bytes) -> None:
    assert rewritten(value) == expected


def test_a_name_with_an_at_and_a_quoted_blank_is_written_the_same_again() -> None:
    first = rewritten(b"a \\ b@c <d@e.f>")
    assert rewritten(fields.value_of(first)) == first


def test_long_lists_are_folded_after_commas() -> None:
    lines = rewritten(b", ".join(b"somebody%d@example.org" % n for n in range(20))).split(b"\n")
    assert all(len(line) <= 80 for line in lines)
    assert all(line.startswith(b"  ") for line in lines[1:-1])
    assert len(lines) > 5


_TEXT = st.lists(
    st.sampled_from([b"a", b"b.c", b"@", b"<", b">", b",", b";", b":", b'"q r"', b'"', b"(c)", b"(", b")", b" ", b"\\",
                     b"[1]", b"\n ", b"\xc3\xa4", b"+", b"."]), max_size=30).map(b"".join)  # fmt: skip


@settings(deadline=None)
@given(_TEXT)
def test_any_text_is_a_list_or_an_error_and_what_is_written_reads_the_same(value: bytes) -> None:
    try:
        items = parse(value)
    except AddressError:
        return
    text = render(b"To", [item.completed(HOSTS) if isinstance(item, Address) else item for item in items])
    again = parse(fields.value_of(text))
    assert [item.path for item in again if isinstance(item, Address)] == paths(value)
    assert [type(item) for item in again if isinstance(item, Group | GroupEnd)] == [
        type(item) for item in items if isinstance(item, Group | GroupEnd)
    ]
    assert read(text + b"\n") == ([text], b"")


def test_many_addresses_without_commas_take_no_longer_than_with() -> None:
    assert len(parse(b"<a@b>" * 20_000)) == 20_000  # quadratic work would take minutes


@pytest.mark.parametrize("value", [b"a,", b"a "])
def test_a_field_with_more_addresses_than_a_message_may_have_is_refused(value: bytes) -> None:
    with pytest.raises(AddressError, match="at most"):
        parse(value * (MAX_ITEMS + 1))


@pytest.mark.parametrize(
    ("argument", "expected"),
    [(b"joe", b"joe"), (b"a b@c.d", b"a b@c.d"), (b"Joe <j@x.y>", b"j@x.y"), (b"<>", b""), (b"", b""),
     (b"a@b@c.d", b"a@b@c.d")],
)  # fmt: skip
def test_an_argument_is_one_address(argument: bytes, expected: bytes) -> None:
    assert one(argument).path == expected


@pytest.mark.parametrize("argument", [b"a@b, c@d", b"a\nb", b"<a", b"(only a comment)"])
def test_an_argument_that_is_not_one_address_is_an_error(argument: bytes) -> None:
    with pytest.raises(AddressError):
        one(argument)
