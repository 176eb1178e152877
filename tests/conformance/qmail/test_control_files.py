"""How control files are read."""

from __future__ import annotations

import re

import pytest

from qmaild.control import settings

from .host import Host


def effective(**files: bytes) -> settings.Settings:
    found, problems = settings.parse({"me": b"test.example\n", **files}, b"unused.test")
    assert problems == []
    return found


def test_f202_blanks_at_the_end_of_a_line_mean_nothing_and_comments_are_for_lists() -> None:
    for name, content in (("me", b"a.example \t\n"), ("databytes", b"7 \t\n"), ("locals", b"a.example \t\n")):
        assert getattr(effective(**{name: content}), name) in (b"a.example", 7, {b"a.example"})
    assert effective(locals=b"# a.example\nb.example\n #c\n").locals == {b"b.example", b" #c"}
    assert effective(smtpgreeting=b"# hello\n").smtpgreeting == b"# hello"


def test_f203_a_number_that_is_none_is_named_and_nothing_goes_on_without_it() -> None:
    found, problems = settings.parse({"concurrencylocal": b"abc\n"}, b"unused.test")
    assert [(problem.file, problem.line) for problem in problems] == [("concurrencylocal", 1)]
    assert found.concurrencylocal == effective().concurrencylocal


def test_f204_what_stands_behind_a_number_and_a_blank_is_not_read() -> None:
    assert effective(concurrencylocal=b"7 junk\n9\n").concurrencylocal == 7
    assert effective(concurrencylocal=b"7\t# as agreed\n").concurrencylocal == 7


def test_f205_an_empty_file_is_an_empty_value_but_for_names_of_hosts() -> None:
    assert effective(smtpgreeting=b"").smtpgreeting == b""
    assert effective(defaultdomain=b"\n").defaultdomain == b""
    _, problems = settings.parse({"helohost": b""}, b"unused.test")
    assert [problem.file for problem in problems] == ["helohost"]


@pytest.mark.parametrize("name", ["virtualdomains", "smtproutes"])
def test_f207_of_two_lines_about_one_key_the_last_counts(name: str) -> None:
    found = effective(**{name: b"a.example:first\nb.example:other\nA.example:last\n"})
    assert getattr(found, name) == {b"a.example": b"last", b"b.example": b"other"}


def test_f210_files_that_no_setting_has_are_named(host: Host) -> None:
    (host.control / "locals~").write_text("")
    (host.control / "morercpthosts").write_text("")
    done = host.program("ctl", "config")
    host.remove("locals~", "morercpthosts")
    assert re.findall(rb"(?m)^\S+/([^/:]+): warning: no setting", done.stderr) == [b"locals~"]
