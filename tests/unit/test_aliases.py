"""/etc/aliases: its text, and where a name leads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmaild.policy import aliases
from qmaild.policy.aliases import AliasError, Expansion


def here(domain: bytes) -> bool:
    return domain == b"here"


def expand(text: bytes, name: bytes) -> Expansion | None:
    return aliases.expand(aliases.parse(text), name, here)


def test_a_file_is_read_with_comments_blank_and_continued_lines() -> None:
    text = b"# all\n\nPostmaster: root, Bob@x.test,\n  # more\n\tcarol@y.test\nroot:bob\r\n"
    assert aliases.parse(text) == {
        b"postmaster": (b"root", b"Bob@x.test", b"carol@y.test"), b"root": (b"bob",)}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b'"|/bin/p a, \\"b\\""', (b'|/bin/p a, "b"',)),
        (b'|"/bin/p a, b"', (b"|/bin/p a, b",)),
        (b"|/bin/p (x)", (b"|/bin/p (x)",)),
        (b"/var/log/x, :include:/etc/list", (b"/var/log/x", b":include:/etc/list")),
        (b"Bob B <bob@x.test>, carol (the other) , ,", (b"bob@x.test", b"carol")),
        (b"\\bob", (b"\\bob",)),
        (b'"first last"@x.test', (b"first last@x.test",)),
    ],
)
def test_every_form_of_value_is_understood(value: bytes, found: tuple[bytes, ...]) -> None:
    assert aliases.parse(b"n: " + value + b"\n") == {b"n": found}


def test_a_quoted_name_and_an_entry_without_values() -> None:
    assert aliases.parse(b'"Mail List": a\nnobody:\n') == {b"mail list": (b"a",)}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"a: b\nno colon here\n", 2),
        (b" starts: blank\n", 1),
        (b'a: b\n\nc: "open\n', 3),
        (b"a: b (open\n", 1),
        (b": x\n", 1),
        (b"a: b\nc: :include:relative\n", 2),
        (b"a: x\0y\n", 1),
        (b'"open: a\n', 1),
        (b"a: b\nc: d e\n", 2),
    ],
)
def test_a_line_that_is_not_understood_is_named(text: bytes, line: int) -> None:
    with pytest.raises(AliasError) as caught:
        aliases.parse(text)
    assert caught.value.line == line


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_an_error_with_a_line(text: bytes) -> None:
    try:
        table = aliases.parse(text)
    except AliasError as error:
        assert 1 <= error.line <= text.count(b"\n") + 1
    else:
        for name in table:
            assert aliases.expand(table, name, here) is not None


def test_names_that_are_entries_are_followed() -> None:
    text = b"postmaster: root\nroot: admin@here, x@y.test\nadmin: z@y.test, x@y.test\n"
    assert expand(text, b"PostMaster") == Expansion((b"z@y.test", b"x@y.test"), (), (), False)
    assert expand(text, b"other") is None


def test_a_name_that_comes_back_to_itself_is_delivered_to_its_account() -> None:
    assert expand(b"bob: bob, copy@y.test\n", b"bob") == Expansion((b"copy@y.test",), (), (b"bob",), False)
    assert expand(b"staff: bob, eve\nbob: bob@here, c@y.test\n", b"staff") == Expansion(
        (b"c@y.test", b"eve"), (), (b"bob",), False)  # fmt: skip
    assert expand(b"a: b\nb: a\n", b"a") == Expansion((), (), (b"a",), False)


def test_a_name_reached_twice_is_used_once() -> None:
    assert expand(b"all: a, b\na: c\nb: c\nc: x@y.test\n", b"all") == Expansion((b"x@y.test",), (), (), False)


def test_a_backslash_ends_the_search() -> None:
    assert expand(b"bob: \\bob, \\eve@here\neve: x@y.test\n", b"bob") == Expansion((), (), (b"bob", b"eve"), False)


def test_programs_files_and_lists_are_instructions() -> None:
    found = expand(b"x: |/bin/p, /var/f, :include:/l, a@y.test\nowner-x: me\n", b"x")
    assert found == Expansion((b"a@y.test",), (b"|/bin/p", b"/var/f", b":include:/l"), (), True)


def test_the_owner_is_the_sender_of_what_a_list_forwards() -> None:
    assert aliases.new_sender(b"s@x", b"list", b"here", True) == b"owner-list@here"
    assert aliases.new_sender(b"s@x", b"list", b"here", False) == b"s@x"
    assert aliases.new_sender(b"", b"list", b"here", True) == b""


def test_an_included_list_holds_addresses_and_nothing_that_runs() -> None:
    assert aliases.parse_list(b"# staff\na@x.test, b\n\nBob <c@x.test>\n") == [b"a@x.test", b"b", b"c@x.test"]
    for line in (b"|/bin/sh", b"/etc/passwd", b":include:/x", b'"|x"'):
        with pytest.raises(AliasError) as caught:
            aliases.parse_list(b"a@x.test\n" + line)
        assert caught.value.line == 2


@given(st.text("ab ,\t<>:/|\\\\@.", max_size=30).map(str.encode))
def test_the_short_way_through_plain_lines_reads_as_the_long_one(text: bytes) -> None:
    assert text.translate(aliases._TO_BLANK).split(b",") == aliases._pieces(text, 1)
