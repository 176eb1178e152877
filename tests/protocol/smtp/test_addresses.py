"""Paths: what is one, what is stored of it, and that whatever is stored can be said again."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmaild.message.address import MAX_ADDRESS, quote
from qmaild.protocol.smtp import addresses


@pytest.mark.parametrize(("path", "address"), [
    (b"<a@b.test>", b"a@b.test"),
    (b"<A.b+c=d@Sub.B.test>", b"A.b+c=d@Sub.B.test"),
    (b"<!#$%&'*+-/=?^_`{|}~@b.test>", b"!#$%&'*+-/=?^_`{|}~@b.test"),
    (b'<"a b"@b.test>', b"a b@b.test"),
    (b'<"a\\"\\\\b"@b.test>', b'a"\\b@b.test'),
    (b'<"a@c"@b.test>', b"a@c@b.test"),
    (b'<"a>b"@b.test>', b"a>b@b.test"),
    (b'<""@b.test>', b"@b.test"),
    (b"<a\\@c\\ d\\\\e.\\f@b.test>", b"a@c d\\e.f@b.test"),
    (b"a@b.test", b"a@b.test"),
    (b'"a b"@b.test', b"a b@b.test"),
    (b"a\\ b@[192.0.2.1]", b"a b@[192.0.2.1]"),
    (b"<@x.test,@y.test:a@b.test>", b"a@b.test"),
    (b"<a@[192.0.2.1]>", b"a@[192.0.2.1]"),
    (b"<a@[IPv6:2001:db8::1]>", b"a@[IPv6:2001:db8::1]"),
    (b"<a@my_host.test>", b"a@my_host.test"),
    (b"<a@x--y.test>", b"a@x--y.test"),
    ("<jürgen@bücher.test>".encode(), "jürgen@bücher.test".encode()),
    (b"<" + b"l" * 700 + b"@b.test>", b"l" * 700 + b"@b.test"),
])  # fmt: skip
def test_paths(path: bytes, address: bytes) -> None:
    assert addresses.parse(b"TO:" + path, b"TO:") == (address, b"")
    assert addresses.parse(b"From: " + path + b" SIZE=1", b"FROM:") == (address, b" SIZE=1")


@pytest.mark.parametrize("path", [
    b'<"a">', b'<"a@b.test">', b"<a\\@b.test>", b"<a\\", b"<a\\\x01@b.test>", b"<a@b\\.test>",
    b"<a@>", b"<@b.test>", b"<a b@b.test>", b"<a..b@b.test>", b"<.a@b.test>", b"<a.@b.test>",
    b"<a@b..test>", b"<a@b.test.>", b"<a@.b.test>", b"<a@-b.test>", b"<a@b-.test>", b"<a@b.test", b"<a@b@c.test>", b'<"a@b.test>',
    b'<"a"b@b.test>', b"<a@[192.0.2.1>", b"<a@[]>", b"<a@[x y]>", b"<a@[x@y]>", b"<a@[x<y]>", b"<a@[x>y]>",
    b"<a\0b@b.test>", b'<"a\0b"@b.test>', b"<a@b\0.test>",
    b"<<a@b.test>>", b"<a@b.test\t>", b"< a@b.test>", b"<a@b.test >", b"<a(comment)@b.test>", b"<a@b.test,c@d.test>",
    b"<a\xff@b.test>", b"<" + b"l" * MAX_ADDRESS + b"@b.test>", b"<a@" + b"d" * 300 + b">", b"<",
])  # fmt: skip
def test_what_is_no_path(path: bytes) -> None:
    for keyword in (b"FROM:", b"TO:"):
        with pytest.raises(addresses.PathError):
            addresses.parse(keyword + path, keyword)


def test_the_null_reverse_path_is_no_forward_path() -> None:
    assert addresses.parse(b"FROM:<>", b"FROM:") == (b"", b"")
    with pytest.raises(addresses.PathError):
        addresses.parse(b"TO:<>", b"TO:")


def test_a_name_alone_is_an_address_of_ours() -> None:
    assert addresses.parse(b"TO:<Postmaster>", b"TO:") == (b"Postmaster", b"")
    assert addresses.parse(b"FROM:<root> SIZE=1", b"FROM:") == (b"root", b" SIZE=1")


@pytest.mark.parametrize("argument", [b"", b"FROM", b"FROM <a@b.test>", b"TO:<a@b.test>", b"FROM:", b"FROM: ",
                                      b"FROM:a@b.test>", b"FROM:@x.test:a@b.test", b"FROM:a@b.test\tX"])  # fmt: skip
def test_what_does_not_begin_as_a_path(argument: bytes) -> None:
    assert addresses.parse(argument, b"FROM:") is None


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_every_printable_local_part_comes_back_from_its_quoted_form(local: str) -> None:
    address = local.encode() + b"@b.test"
    assert addresses.parse(b"TO:<" + quote(address) + b">", b"TO:") == (address, b"")


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=80), st.sampled_from([b"<", b""]))
def test_no_bytes_upset_the_parser_and_what_it_gives_is_clean(argument: bytes, bracket: bytes) -> None:
    for keyword in (b"FROM:", b"TO:"):
        try:
            parsed = addresses.parse(keyword + bracket + argument, keyword)
        except addresses.PathError:
            continue
        if parsed is None:
            assert not bracket
            continue
        assert not set(parsed[0]) & {0, 10, 13}
        assert len(parsed[0]) <= MAX_ADDRESS


@pytest.mark.parametrize("hostile", [
    b"a" * 2000, b"a." * 1000, b"@a," * 500, b'"' + b"\\" * 1999, b'"' + b"\\a" * 999, b"a@" + b"a-" * 999,
    b"a@" + b"-" * 1999, b"@a.b" * 400 + b":", b"\\a" * 999, b"a\\" * 999, b"\\a." * 600,
])  # fmt: skip
def test_no_argument_makes_the_parser_slow(hostile: bytes) -> None:
    begun = time.process_time()
    for _ in range(20):
        with contextlib.suppress(addresses.PathError):
            addresses.parse(b"TO:<" + hostile, b"TO:")
            addresses.parse(b"TO:" + hostile, b"TO:")
    assert time.process_time() - begun < 1.0  # 50 ms each would be a thousand times what is right


@pytest.mark.parametrize(("text", "found"), [
    (b"", {}), (b" SIZE=1", {b"SIZE": b"1"}), (b" size=1  BODY=8BITMIME", {b"SIZE": b"1", b"BODY": b"8BITMIME"}),
    (b" SMTPUTF8", {b"SMTPUTF8": None}), (b" X-y=a+b", {b"X-Y": b"a+b"}),
    (b"SIZE=1", None), (b" SIZE=", None), (b" =1", None), (b" -A", None), (b" A=b=c", None), (b" A A", None),
    (b" A=\x01", None),
])  # fmt: skip
def test_parameters(text: bytes, found: dict[bytes, bytes | None] | None) -> None:
    assert addresses.parameters(text) == found
