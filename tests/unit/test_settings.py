"""Control files: qmail's parsing rules, defaults, and errors that name file, line and what was expected."""

from __future__ import annotations

import pytest

from qmaild.control import settings
from qmaild.control.settings import parse
from qmaild.policy.recipients import Target, is_ours, rewrite


def effective(**files: bytes) -> settings.Settings:
    values, problems = parse(files, b"mail.test.example")
    assert problems == []
    return values


def test_without_any_file_the_host_name_stands_everywhere() -> None:
    values = effective()
    assert values.me == values.bouncehost == values.helohost == values.smtpgreeting == b"mail.test.example"
    assert values.locals == {b"mail.test.example", b"localhost"}


def test_me_is_the_default_of_the_names_that_depend_on_it() -> None:
    values = effective(me=b"a.example \t\nignored\n", helohost=b"b.example\n")
    assert (values.me, values.bouncehost, values.helohost) == (b"a.example", b"a.example", b"b.example")


def test_lists_leave_out_comments_and_blank_lines_and_trailing_blanks() -> None:
    assert effective(locals=b"# ours\nA.example \t\n\n b.example\n").locals == {b"a.example", b" b.example"}


def test_an_empty_list_file_is_an_empty_list_not_the_default() -> None:
    assert effective(locals=b"").locals == frozenset()
    assert effective(rcpthosts=b"").rcpthosts == frozenset()


def test_of_duplicate_keys_the_last_line_wins() -> None:
    assert effective(virtualdomains=b"V.example:one\nv.EXAMPLE:two\n").virtualdomains == {b"v.example": b"two"}


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("databytes", b"lots\n", 1), ("databytes", b"-1\n", 1), ("virtualdomains", b"# x\nnocolon\n", 2),
        ("smtproutes", b"a.example:relay:0\n", 1), ("smtproutes", b"\na.example:relay:99999\n", 2),
        ("smtproutes", b"a:/run/x.sock\n", 1), ("smtproutes", b"a:lmtp:\n", 1), ("relayclients", b"10.0.0.0/8\n10.0.0.300\n", 2),
        ("me", b"two words\n", 1), ("me", b"\n", 1), ("locals", b"ok\nnul\0byte\n", 2), ("smtpgreeting", b"a\0b\n", 1),
    ],
)  # fmt: skip
def test_an_error_names_file_line_and_what_was_expected(name: str, content: bytes, line: int) -> None:
    _, problems = parse({name: content}, b"mail.test.example")
    assert [(problem.file, problem.line) for problem in problems] == [(name, line)]
    assert problems[0].expected


@pytest.mark.parametrize("value", [
    b"relay.example", b"relay.example:26", b"[192.0.2.1]:26", b"[2001:db8::1]:26", b"[2001:db8::1]",
    b"lmtp:/run/dovecot/lmtp", b"lmtp:127.0.0.1:24", b"",
])  # fmt: skip
def test_every_form_of_route_is_taken(value: bytes) -> None:
    assert effective(smtproutes=b"d.example:" + value + b"\n").smtproutes == {b"d.example": value}


def test_every_setting_is_documented() -> None:
    for name, row in settings.TABLE.items():
        assert row.doc and row.readers and row.default_text, name


LOCAL = {
    "locals": b"test.example\n", "percenthack": b"pct.example\n", "envnoathost": b"test.example\n",
    "virtualdomains": b"virt.example:joe-virt\nuser@virt.example:joe-exact\n"
                      b".wild.example:joe-wild\nno.wild.example:\n",
}  # fmt: skip


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (b"plain", Target(True, b"plain@test.example", b"test.example")),
        (b"X@TEST.example", Target(True, b"X@TEST.example", b"TEST.example")),
        (b"x@virt.example", Target(True, b"joe-virt-x@virt.example", b"virt.example")),
        (b"user@virt.example", Target(True, b"joe-exact-user@virt.example", b"virt.example")),
        (b"a@x.wild.example", Target(True, b"joe-wild-a@x.wild.example", b"x.wild.example")),
        (b"a@wild.example", Target(False, b"a@wild.example", b"wild.example")),
        (b"a@no.wild.example", Target(False, b"a@no.wild.example", b"no.wild.example")),
        (b"u%v%test.example@pct.example", Target(True, b"u%v@test.example", b"test.example")),
        (b"u%v%pct.example@pct.example", Target(False, b"u@v", b"v")),
        (b"noat@", Target(False, b"noat@", b"")),
        (b"joe@[1.2.3.4]", Target(False, b"joe@[1.2.3.4]", b"[1.2.3.4]")),
    ],
)
def test_recipients_are_rewritten_in_qmails_order(address: bytes, expected: Target) -> None:
    assert rewrite(address, effective(**LOCAL)) == expected


@pytest.mark.parametrize(
    ("domain", "expected"),
    [(b"TEST.example", True), (b"virt.example", True), (b"x.wild.example", True), (b"no.wild.example", False),
     (b"wild.example", False), (b"other.example", False)],
)  # fmt: skip
def test_without_rcpthosts_strangers_may_send_to_what_is_delivered_here(domain: bytes, expected: bool) -> None:
    assert is_ours(domain, effective(**LOCAL)) is expected


def test_rcpthosts_takes_names_and_suffixes() -> None:
    values = effective(rcpthosts=b"a.example\n.b.example\n")
    domains = b"A.example", b"x.a.example", b"b.example", b"x.B.example"
    assert [is_ours(domain, values) for domain in domains] == [True, False, False, True]
