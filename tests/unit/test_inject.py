"""qmail-inject's rules: which fields go, come and change, who sends, who receives; what was asked for; envelopes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmaild.message import envelope, inject, invocation
from qmaild.message.addresslist import Hosts
from qmaild.message.invocation import Invocation, Kind

WHEN = inject.When(1_795_424_707, 77, b"account")
DATE = b"Date: 23 Nov 2026 09:05:07 -0000\n"
ID = b"Message-ID: <20261123090507.77.qmail@id.example>\n"
PLACE = inject.Where(Hosts(b"h", b"d.example", b"p.example", frozenset((b"localhost",))), b"id.example", 3)
ALL = b"Date: x\nMessage-ID: <x>\nFrom: f@f.f\nTo: t@t.t\n"


def asked(*arguments: str, program: str = "qmail-inject", **variables: str) -> Invocation:
    environment = [f"{name}={value}".encode() for name, value in variables.items()]
    return invocation.parse(program.encode(), [argument.encode() for argument in arguments], environment)


def composed(section: bytes, *arguments: str, program: str = "qmail-inject", **variables: str) -> inject.Composed:
    lines: list[bytes] = []
    for line in section.splitlines(keepends=True):
        if line[:1] in b" \t":
            lines[-1] += line
        else:
            lines.append(line)
    request = asked(*arguments, program=program, **variables)
    settings = inject.where(request, PLACE.hosts, PLACE.idhost, PLACE.maxhops)
    return inject.compose(lines, request, settings, WHEN)


def test_missing_fields_are_added_on_top_in_order() -> None:
    found = composed(b"Subject: s\n", "r@r.r")
    assert found.section == (
        DATE + ID + b"From: account@h.d.example\nCc: recipient list not shown: ;\nSubject: s\n\n"
    )  # fmt: skip
    assert found.sender == b"account@h.d.example"
    assert found.recipients == (b"r@r.r",)


def test_a_whole_header_section_is_not_added_to() -> None:
    assert composed(ALL, "r@r.r").section == ALL + b"\n"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"USER": "u", "NAME": "Full Name"}, b'From: "Full Name" <u@h.d.example>\n'),
        ({"USER": "u", "LOGNAME": "l"}, b"From: u@h.d.example\n"),
        ({"LOGNAME": "l", "MAILHOST": "m.example"}, b"From: l@m.example\n"),
        ({"QMAILUSER": "q", "MAILUSER": "m", "USER": "u"}, b"From: q@h.d.example\n"),
        ({"USER": "u", "NAME": 'a "b" \\c', "QMAILINJECT": ""}, b'From: "a \\"b\\" \\\\c" <u@h.d.example>\n'),
        ({"USER": "u", "NAME": "N (x)", "QMAILINJECT": "c"}, b"From: u@h.d.example (N \\(x\\))\n"),
        ({"USER": "u", "QMAILNAME": "line\nX-Evil: 1"}, b'From: "line X-Evil: 1" <u@h.d.example>\n'),
        ({"USER": "two words"}, b'From: "two words"@h.d.example\n'),
        ({"USER": "u", "QMAILDEFAULTHOST": "other.example"}, b"From: u@other.example\n"),
    ],
)
def test_from_is_made_of_the_environment(variables: dict[str, str], expected: bytes) -> None:
    assert expected in composed(b"", "r@r.r", **variables).section


def test_a_line_end_in_a_user_name_is_refused() -> None:
    with pytest.raises(inject.Unacceptable):
        composed(b"", "r@r.r", USER="a\nX-Evil: 1")


@pytest.mark.parametrize("name", ["QMAILHOST", "QMAILSHOST", "QMAILDEFAULTHOST", "QMAILDEFAULTDOMAIN", "QMAILIDHOST"])
@pytest.mark.parametrize("host", ["a b", "a[b", "a>b", "a\nX-Evil: 1", "a\0b"])
def test_a_host_name_that_can_be_none_is_refused(name: str, host: str) -> None:
    with pytest.raises(inject.Unacceptable):
        composed(b"", "r@r.r", USER="joe", **{name: host})


def test_a_sender_whose_host_can_be_none_is_refused() -> None:
    with pytest.raises(inject.Unacceptable):
        composed(b"", "-f", "a@b[c", "r@r.r")


def test_bcc_return_path_and_content_length_go_and_count() -> None:
    found = composed(ALL + b"Bcc: hidden@b.b\nReturn-Path: <back@p.p>\nContent-Length: 9\nResent-Bcc-Not: x\n")
    assert found.section == ALL + b"Resent-Bcc-Not: x\n\n"
    assert found.recipients == (b"t@t.t", b"hidden@b.b")
    assert found.sender == b"back@p.p"


def test_recipients_of_a_field_come_right_to_left() -> None:
    assert composed(b"To: a@a.a, b@b.b\nCc: c@c.c\n").recipients == (b"b@b.b", b"a@a.a", b"c@c.c")


def test_a_recipient_named_twice_is_one() -> None:
    assert composed(b"To: a@a.a\nCc: a@a.a\n", "-H", "a@a.a").recipients == (b"a@a.a",)


def test_a_resent_message_goes_to_its_resent_recipients_only() -> None:
    found = composed(b"Resent-To: r@r.r\nTo: t@t.t\nFrom: f@f.f\n")
    assert found.recipients == (b"r@r.r",)
    assert found.section == (
        b"Resent-" + DATE + b"Resent-" + ID + b"Resent-From: account@h.d.example\nResent-To: r@r.r\nTo: t@t.t\n"
        b"From: f@f.f\n\n"
    )


def test_addresses_are_completed_in_every_field_that_has_some() -> None:
    section = composed(b"To: a\nReply-To: b@x\nErrors-To: c@y+\nSender: <@z:d@e.f>\nX-To: e\n").section
    for expected in (b"To: a@h.d.example\n", b"Reply-To: b@x.d.example\n", b"Errors-To: c@y.p.example\n",
                     b"Sender: d@e.f\n", b"X-To: e\n"):  # fmt: skip
        assert b"\n" + expected in section


@pytest.mark.parametrize("field", [b"From: (x\n", b"Reply-To: <a\n", b"Return-Path: <a\n"])
def test_an_author_field_that_cannot_be_read_is_refused(field: bytes) -> None:
    with pytest.raises(inject.Unacceptable):
        composed(field, "r@r.r")


def test_a_recipient_field_that_cannot_be_read_is_refused_when_it_counts() -> None:
    with pytest.raises(inject.Unacceptable):
        composed(b"To: (x\n")
    assert b"\nTo: (x\n" in composed(b"To: (x\n", "r@r.r").section


def test_a_bcc_that_cannot_be_read_does_not_show() -> None:
    assert b"secret" not in composed(b"Bcc: (secret\n", "r@r.r").section


@pytest.mark.parametrize(
    ("letters", "section", "expected"),
    [
        ("", b"", b"u@h.d.example"),
        ("r", b"", b"u-@h.d.example-@[]"),
        ("m", b"", b"u-1795424707.77@h.d.example"),
        ("rm", b"", b"u-1795424707.77-@h.d.example-@[]"),
        ("r", b"Return-Path: <a@b.c>\n", b"a@b.c-@[]"),
        ("s", b"Return-Path: <a@b.c>\n", b"u@h.d.example"),
        ("", b"Return-Path: <a@b.c>\nReturn-Path: <d@e.f>\n", b"a@b.c"),
        ("", b"Return-Path: <>\n", b""),
    ],
)
def test_the_sender_without_f(letters: str, section: bytes, expected: bytes) -> None:
    assert composed(section, "r@r.r", USER="u", QMAILINJECT=letters).sender == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [("a@b.c", b"a@b.c"), ("a", b"a@h.d.example"), ("", b""), ("<>", b""), ("Joe <j@x.y>", b"j@x.y")],
)
def test_f_gives_the_sender_whatever_else_there_is(given: str, expected: bytes) -> None:
    found = composed(b"Return-Path: <x@y.z>\n", "-f", given, "r@r.r", QMAILINJECT="rm")
    assert found.sender == expected


def test_qmailsuser_changes_the_envelope_only() -> None:
    found = composed(b"", "r@r.r", USER="u", QMAILSUSER="s", QMAILSHOST="s.example")
    assert found.sender == b"s@s.example"
    assert b"From: u@h.d.example\n" in found.section


def test_letters_f_and_i_drop_the_fields_that_came() -> None:
    section = composed(ALL, QMAILINJECT="fi", USER="u").section
    assert b"f@f.f" not in section
    assert b"From: u@h.d.example\n" in section
    assert b"<x>" not in section
    assert ID in section


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-a", "x@x.x"], (b"x@x.x",)),
        (["-h", "x@x.x"], (b"t@t.t",)),
        (["-H", "x@x.x"], (b"x@x.x", b"t@t.t")),
        (["x@x.x"], (b"x@x.x",)),
        ([], (b"t@t.t",)),
        (["-a"], ()),
    ],
)
def test_where_recipients_come_from(arguments: list[str], expected: tuple[bytes, ...]) -> None:
    assert composed(ALL, *arguments).recipients == expected


def test_mail_followup_to_lists_everybody_when_a_list_is_addressed() -> None:
    section = b"To: LIST@l.l, b@b.b\nCc: c@c.c\n"
    found = composed(section, QMAILMFTFILE="# mine\nlist@l.l  \n").section
    assert b"\nMail-Followup-To: b@b.b, LIST@l.l, c@c.c\n" in found
    assert b"Mail-Followup-To" not in composed(section, QMAILMFTFILE="other@l.l\n").section
    quoted = composed(b'To: "a(b"@b.b, list@l.l\n', QMAILMFTFILE="list@l.l\n").section
    assert b'\nMail-Followup-To: list@l.l, "a(b"@b.b\n' in quoted
    already = composed(section + b"Mail-Followup-To: x@x.x\n", QMAILMFTFILE="list@l.l\n").section
    assert already.count(b"Mail-Followup-To") == 1


def test_a_loop_is_refused() -> None:
    composed(b"Received: x\n" * PLACE.maxhops, "r@r.r")
    with pytest.raises(inject.Unacceptable, match="loop"):
        composed(b"Received: x\n" * (PLACE.maxhops + 1), "r@r.r")


def test_an_address_that_is_too_long_is_refused() -> None:
    with pytest.raises(inject.Unacceptable):
        composed(b"", "a" * 1010)
    with pytest.raises(inject.Unacceptable):
        inject.check_envelope(b"", [b"a"] * (inject.MAX_RECIPIENTS + 1))


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"To: a\n", b"Bcc: <b@c>\n", b"From: x <y@z>\n", b"Resent-To: q\n", b"Date: 1\n",
                                 b"Cc: (\n", b"Return-Path: <>\n", b"Received: 1\n", b"X: \xff\0\r\n"]), max_size=8),
       st.sampled_from(["", "c", "r", "m", "fis"]))  # fmt: skip
def test_composing_again_changes_nothing(lines: list[bytes], letters: str) -> None:
    request = asked("-H", "r@r.r", USER="u", QMAILINJECT=letters)
    try:
        first = inject.compose(lines, request, PLACE, WHEN)
    except inject.Unacceptable:
        return
    assert b"\nBcc" not in b"\n" + first.section
    kept = [line + b"\n" for line in first.section[:-2].split(b"\n")]
    folded: list[bytes] = []
    for line in kept:
        if line.startswith(b" "):
            folded[-1] += line
        else:
            folded.append(line)
    again = inject.compose(folded, asked("r@r.r", USER="u"), PLACE, WHEN)
    assert again.section == first.section


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("-t", Kind.MESSAGE), ("-bm x", Kind.MESSAGE), ("-ti", Kind.MESSAGE), ("-bp", Kind.LIST), ("-bi", Kind.ALIASES),
        ("-I", Kind.ALIASES), ("-bs", Kind.DIALOGUE), ("-bv x", Kind.VERIFY), ("-q", Kind.NOTHING), ("-q30m", Kind.NOTHING),
        ("-oi -oem -odb -i -v -m -n -U -G -x x", Kind.MESSAGE), ("-B8BITMIME -B 7BIT x", Kind.MESSAGE),
        ("-N never -R hdrs -V id -O a=b -X /dev/null -h 3 -L tag -e m -d -d0.1 -Ac x", Kind.MESSAGE), ("-- -x", Kind.MESSAGE),
    ],
)  # fmt: skip
def test_sendmail_options_that_scripts_use(arguments: str, expected: Kind) -> None:
    assert asked(*arguments.split(), program="sendmail").kind is expected


@pytest.mark.parametrize("arguments", ["", "-bd x", "-bv", "-bt", "-bx", "-Z x", "-f", "-i", "-\xff x"])
def test_sendmail_calls_that_make_no_sense_are_refused(arguments: str) -> None:
    with pytest.raises(invocation.UsageError):
        asked(*arguments.split(), program="sendmail")


def test_sendmail_f_is_the_author_too() -> None:
    found = composed(b"", "-f", "x@y.z", "-F", "Name", "r@r.r", program="sendmail", NAME="Other", MAILHOST="m.m")
    assert found.sender == b"x@y.z"
    assert b"From: x@y.z\n" in found.section


def test_sendmail_capital_f_is_the_authors_name() -> None:
    found = composed(b"", "-FCron Daemon", "r@r.r", program="sendmail", USER="root", NAME="Other")
    assert b'From: "Cron Daemon" <root@h.d.example>\n' in found.section


def test_sendmail_t_takes_recipients_from_both() -> None:
    assert composed(b"To: b@b.b\n", "-t", "a@a.a", program="sendmail").recipients == (b"a@a.a", b"b@b.b")


def test_a_variable_that_is_too_long_is_refused() -> None:
    with pytest.raises(invocation.UsageError):
        asked(USER="u" * (invocation.MAX_VARIABLE + 1))


@pytest.mark.parametrize("program", ["", "sendmail2", "qmail-local"])
def test_an_unknown_program_is_refused(program: str) -> None:
    with pytest.raises(invocation.UsageError):
        asked(program=program)


@settings(deadline=None)
@given(st.lists(st.text(alphabet="-tbfopqsFx=@ ", max_size=4), max_size=6))
def test_any_arguments_are_an_invocation_or_a_usage_error(arguments: list[str]) -> None:
    for program in ("sendmail", "qmail-inject", "mailq", "newaliases", "qmail-queue"):
        try:
            assert isinstance(asked(*arguments, program=program), Invocation)
        except invocation.UsageError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("content", "sender", "recipients"),
    [
        (b"Fs\0Tr\0\0", b"s", [b"r"]),
        (b"F\0\0", b"", []),
        (b"F\0Ta\0Tb\0\0behind the end", b"", [b"a", b"b"]),
        (b"F" + b"s" * 1002 + b"\0T" + b"r" * 1002 + b"\0\0", b"s" * 1002, [b"r" * 1002]),
    ],
)
def test_envelopes(content: bytes, sender: bytes, recipients: list[bytes]) -> None:
    assert envelope.parse(content) == (sender, recipients)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", 54), (b"F", 54), (b"Fs\0Tr\0", 54), (b"Fs\0Tr", 54), (b"X", 91), (b"\0", 91), (b"Fs\0Xr\0\0", 91),
        (b"Fs\0Tr\0X", 91), (b"F" + b"s" * 1003 + b"\0\0", 11), (b"Fs\0T" + b"r" * 1003, 11),
    ],
)  # fmt: skip
def test_envelopes_that_are_none_have_qmail_queues_codes(content: bytes, code: int) -> None:
    with pytest.raises(envelope.EnvelopeError) as caught:
        envelope.parse(content)
    assert caught.value.code == code
