"""Dot-qmail's rules: file names, instructions, variables, exit statuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmaild.policy import dotqmail
from qmaild.policy.dotqmail import Envelope, Instruction, InstructionError, Kind
from qmaild.protocol.frames import PERMANENT, SUCCESS, TEMPORARY

LINES = [b"", b" \t", b"#|x", b"+list ", b"+foo", b"|a b\t", b"./m/", b"./m", b"/d/\0", b"&a@b", b"a@b ", b" x", b"|"]


def envelope(local: bytes = b"joe-list", extension: bytes = b"list", sender: bytes = b"s@x.test") -> Envelope:
    return Envelope(b"joe", b"/home/joe", local, b"-", extension, b"host", sender)


@pytest.mark.parametrize(
    ("dash", "extension", "names"),
    [
        (b"", b"", [b".qmail"]),
        (b"-", b"a", [b".qmail-a", b".qmail-default"]),
        (b"-", b"a-b", [b".qmail-a-b", b".qmail-a-default", b".qmail-default"]),
        (b"-", b"a-b-", [b".qmail-a-b-", b".qmail-a-b-default", b".qmail-a-default", b".qmail-default"]),
        (b"-", b"A.b", [b".qmail-a:b", b".qmail-default"]),
        (b"-", b"", [b".qmail-", b".qmail-default"]),
    ],
)
def test_files_are_searched_from_the_longest_match_to_default(dash: bytes, extension: bytes, names: list[bytes]) -> None:
    assert [name for name, _ in dotqmail.file_names(dash, extension)] == names


def test_default_is_the_unmatched_part_with_its_case_and_dots() -> None:
    found = dict(dotqmail.file_names(b"-", b"env-A.B-c-d"))
    assert found[b".qmail-env-default"] == b"A.B-c-d"
    assert found[b".qmail-env-a:b-c-d"] is None
    assert dict(dotqmail.file_names(b"-", b"x-Default"))[b".qmail-x-default"] == b"Default"


def test_names_no_file_can_have_are_not_searched() -> None:
    names = [name for name, _ in dotqmail.file_names(b"-", b"x" * 300)]
    assert names == [b".qmail-default"]


@given(st.binary(max_size=80).filter(dotqmail.is_possible))
def test_no_extension_leads_out_of_the_home(extension: bytes) -> None:
    for name, _ in dotqmail.file_names(b"-", extension):
        assert name.startswith(b".qmail-") and b"/" not in name and b"\0" not in name


def test_an_extension_with_a_slash_or_nul_is_impossible() -> None:
    assert not dotqmail.is_possible(b"../../etc/passwd")
    assert not dotqmail.is_possible(b"a\0b")


def test_every_kind_of_line_is_understood() -> None:
    text = b"# comment\n./Maildir/ \t\n./mbox\n/var/mail/joe\n|cat >x \n&a@b.test\nc@d.test\n\ne\n+unknown\n"
    assert dotqmail.parse(text, False) == (
        Instruction(Kind.MAILDIR, b"./Maildir"), Instruction(Kind.MBOX, b"./mbox"),
        Instruction(Kind.MBOX, b"/var/mail/joe"), Instruction(Kind.PROGRAM, b"cat >x"),
        Instruction(Kind.FORWARD, b"a@b.test"), Instruction(Kind.FORWARD, b"c@d.test"),
        Instruction(Kind.FORWARD, b"e"),
    )  # fmt: skip


@pytest.mark.parametrize("text", [b"\n./Maildir/\n", b" \t\n./Maildir/\n", b"\n"])
def test_a_blank_first_line_is_a_temporary_failure(text: bytes) -> None:
    with pytest.raises(InstructionError) as caught:
        dotqmail.parse(text, False)
    assert (caught.value.line, caught.value.enhanced) == (1, b"4.2.1")


@pytest.mark.parametrize("line", [b"|true", b"./mbox", b"./Maildir/"])
def test_forward_only_files_may_not_deliver(line: bytes) -> None:
    for text, flag, number in ((line, True, 1), (b"a@b.test\n\n#\n+list\n" + line, False, 5)):
        with pytest.raises(InstructionError) as caught:
            dotqmail.parse(text, flag)
        assert (caught.value.line, caught.value.enhanced) == (number, b"4.7.0")


def test_a_line_above_list_may_deliver() -> None:
    assert len(dotqmail.parse(b"./Maildir/\n+list\na@b.test\n", False)) == 2


def test_an_include_is_one_only_in_an_alias() -> None:
    assert dotqmail.parse(b":include:/x", False) == (Instruction(Kind.FORWARD, b":include:/x"),)
    assert dotqmail.parse(b":include:/x", False, fixed=True) == (Instruction(Kind.INCLUDE, b"/x"),)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_give_instructions_or_an_error(text: bytes, flag: bool) -> None:
    try:
        found = dotqmail.parse(text, flag)
    except InstructionError as error:
        assert error.enhanced.startswith(b"4.") and 0 < error.line <= text.count(b"\n") + 1
    else:
        assert all(b"\n" not in each.value and b"\0" not in each.value for each in found)


@given(st.lists(st.sampled_from(LINES), max_size=8), st.booleans())
def test_a_file_is_read_whole_as_its_lines_are_one_by_one(lines: list[bytes], flag: bool) -> None:
    expected: list[tuple[int, Instruction]] = []
    wrong = 0
    is_list = flag
    for number, line in enumerate(lines, 1):
        is_list = is_list or line.rstrip() == b"+list"
        try:
            expected += [(number, each) for each in dotqmail.parse(b"#\n" + line, is_list)]
            wrong = wrong or (1 if number == 1 and not line.strip() else 0)
        except InstructionError:
            wrong = wrong or number
    try:
        assert dotqmail.numbered(b"\n".join(lines), flag) == expected and (not wrong or not lines)
    except InstructionError as error:
        assert error.line == (wrong or 1)


def test_the_sender_of_forwards_is_the_owner_and_a_template_with_owner_default() -> None:
    assert dotqmail.new_sender(envelope(), False, False) == b"s@x.test"
    assert dotqmail.new_sender(envelope(), True, False) == b"joe-list-owner@host"
    assert dotqmail.new_sender(envelope(), True, True) == b"joe-list-owner-@host-@[]"
    for sender in (b"", b"#@[]"):
        assert dotqmail.new_sender(envelope(sender=sender), True, True) == sender
    assert dotqmail.owner_names(b"-", b"L.x") == (b".qmail-l:x-owner", b".qmail-l:x-owner-default")


def test_programs_get_the_variables_of_qmail() -> None:
    made = Envelope(b"joe", b"/h/joe", b"joe-env-A.B-c-d", b"-", b"env-A.B-c-d", b"a.test.example", b"s s@x.test")
    values = dotqmail.environment(made, b"n@x.test", b"A.B-c-d", b"Mon Nov 23 09:05:07 2026")
    assert values == {
        b"SENDER": b"s s@x.test", b"NEWSENDER": b"n@x.test", b"RECIPIENT": b"joe-env-A.B-c-d@a.test.example",
        b"USER": b"joe", b"HOME": b"/h/joe", b"LOCAL": b"joe-env-A.B-c-d", b"HOST": b"a.test.example",
        b"EXT": b"env-A.B-c-d", b"EXT2": b"A.B-c-d", b"EXT3": b"c-d", b"EXT4": b"d",
        b"HOST2": b"a.test", b"HOST3": b"a", b"HOST4": b"a", b"DEFAULT": b"A.B-c-d",
        b"DTLINE": b"Delivered-To: joe-env-A.B-c-d@a.test.example\n", b"RPLINE": b'Return-Path: <"s s"@x.test>\n',
        b"UFLINE": b"From s-s@x.test Mon Nov 23 09:05:07 2026\n",
    }  # fmt: skip
    assert b"DEFAULT" not in dotqmail.environment(made, b"", None, b"")


def test_no_address_adds_a_line_to_a_message() -> None:
    assert dotqmail.delivered_to(b"a\nb", b"c\nd") == b"Delivered-To: a_b@c_d\n"
    assert dotqmail.return_path(b"a\nX: y@z").count(b"\n") == 1
    assert dotqmail.from_line(b"a\nb c\t@x", b"date") == b"From a-b-c-@x date\n"
    assert dotqmail.from_line(b"", b"date") == b"From MAILER-DAEMON date\n"


@pytest.mark.parametrize("status", range(-64, 256))
def test_every_exit_status_has_an_outcome(status: int) -> None:
    expected = TEMPORARY
    if status in (0, 99):
        expected = SUCCESS
    if status in (100, 64, 65, 70, 76, 77, 78, 112):
        expected = PERMANENT
    assert dotqmail.outcome_of_exit(status) == expected
