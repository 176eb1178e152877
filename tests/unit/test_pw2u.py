"""qmail-pw2u: accounts become lines of users/assign, and the lists of users/ change which and how."""

from __future__ import annotations

import functools
import io
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from qmaild.commands import qmail_pw2u
from qmaild.control import cdb
from qmaild.policy import assign, pw2u, users
from qmaild.policy.pw2u import Lists, Options
from qmaild.runtime import paths

PASSWD = b"""\
root:x:0:0:root:/root:/bin/sh
games:x:5:60:games:/usr/games:/usr/sbin/nologin
qmaild-alias:x:990:990::/var/lib/alias:/bin/sh
joe:x:1000:100:Joe:/home/joe:/bin/sh
ann:x:1001:100:Ann:/home/ann:/bin/sh
Zoe:x:1002:100:Zoe:/home/zoe:/bin/sh
gone:x:1003:100:Gone:/home/gone:/bin/sh
shared:x:1004:100:Shared:/home/ann:/bin/sh
+::::::
short:x:1005
"""
OWNERS = {b"/var/lib/alias": 990, b"/home/joe": 1000, b"/home/ann": 1001, b"/home/zoe": 1002, b"/root": 0, b"/usr/games": 0}
ALIAS = [
    b"+:qmaild-alias:990:990:/var/lib/alias:-::", b"=qmaild-alias:qmaild-alias:990:990:/var/lib/alias:::",
    b"+qmaild-alias-:qmaild-alias:990:990:/var/lib/alias:-::",
]  # fmt: skip
JOE = [b"=joe:joe:1000:100:/home/joe:::", b"+joe-:joe:1000:100:/home/joe:-::"]
ANN = [b"=ann:ann:1001:100:/home/ann:::", b"+ann-:ann:1001:100:/home/ann:-::"]


def made(lists: Lists | None = None, options: Options | None = None, passwd: bytes = PASSWD) -> list[bytes]:
    may_receive = functools.partial(users.may_receive, system_users=frozenset({b"qmaild-alias"}))
    lines = b"".join(pw2u.lines(passwd, lists or Lists(), options or Options(), OWNERS.get, may_receive))
    list(assign.records(lines))  # qmail-newu takes all of it
    return lines.splitlines()


def test_people_with_a_home_of_their_own_and_the_alias_account_have_lines() -> None:
    assert made() == [*ALIAS, *JOE, *ANN, b"."]


def test_homes_are_looked_at_as_told() -> None:
    with pytest.raises(pw2u.CannotConvert, match="/home/gone"):
        made(options=Options(homes=pw2u.MISSING_STOPS))
    found = made(options=Options(homes=pw2u.ANY_HOME))
    assert [line.partition(b":")[0] for line in found if line.startswith(b"=")] == [
        b"=qmaild-alias", b"=joe", b"=ann", b"=gone", b"=shared"]
    assert b"=Zoe:Zoe:1002:100:/home/zoe:::" in made(options=Options(has_upper_case=True))


def test_the_delimiter_and_the_dash_are_what_is_asked_for() -> None:
    assert b"+joe=:joe:1000:100:/home/joe:-::" in made(options=Options(delimiter=b"="))
    assert b"+joe-:joe:1000:100:/home/joe:-/::" in made(options=Options(dash=b"-/"))
    found = made(options=Options(has_extensions=False))
    assert not [line for line in found if line.startswith(b"+") and not line.startswith(b"+:")] and ALIAS[0] in found


def test_include_and_exclude_choose_accounts_in_any_case() -> None:
    assert made(Lists(include=(b"JOE", b"qmaild-alias"))) == [*ALIAS, *JOE, b"."]
    assert made(Lists(exclude=(b"Joe",))) == [*ALIAS, *ANN, b"."]
    with pytest.raises(pw2u.CannotConvert, match="alias"):
        made(Lists(include=()))


def test_mailnames_stand_in_the_place_of_the_accounts_name() -> None:
    found = made(Lists(mailnames=(b"joe:joseph::Joe.User",)))
    assert found[3:7] == [
        b"=joseph:joe:1000:100:/home/joe:::", b"+joseph-:joe:1000:100:/home/joe:-::",
        b"=Joe.User:joe:1000:100:/home/joe:::", b"+Joe.User-:joe:1000:100:/home/joe:-::"]
    assert made(Lists(mailnames=(b"joe:",))) == [*ALIAS, *ANN, b"."]


def test_a_subuser_has_the_files_of_its_prefix() -> None:
    found = made(Lists(subusers=(b"sales:joe:shop:",), append=b"=last:ann:1001:100:/home/ann:::\n"))
    assert found[-4:] == [
        b"=sales:joe:1000:100:/home/joe:-:shop:", b"+sales-:joe:1000:100:/home/joe:-:shop-:",
        b"=last:ann:1001:100:/home/ann:::", b"."]
    bought = assign.Assignments(cdb.build(assign.records(b"".join(line + b"\n" for line in found)))).find(b"sales-Bought")
    assert bought and (bought.user, bought.dash + bought.extension) == (b"joe", b"-shop-Bought")
    for wrong in (b"sales:nobody:shop:", b"sales:Zoe:shop:", b"sales", b"sales:joe::"):
        with pytest.raises(pw2u.CannotConvert, match="subusers"):
            made(Lists(subusers=(wrong,)))


def call(monkeypatch: pytest.MonkeyPatch, passwd: bytes, *words: str) -> tuple[int, bytes]:
    """Run the program; return its exit status and what it printed."""
    out = io.BytesIO()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(passwd)))
    monkeypatch.setattr("sys.stdout", SimpleNamespace(buffer=out, write=lambda text: None))
    return qmail_pw2u.main(words), out.getvalue()


def test_the_program_reads_the_lists_beside_assign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "USERS", str(tmp_path))
    monkeypatch.setattr(paths, "CONTROL", str(tmp_path / "control"))
    for name, content in {
        "include": "# these\njoe \nqmaild-alias\n", "exclude": "ann\n", "mailnames": "joe:jo:\n", "subusers": "shop:joe:s:\n",
        "append": "# whatever\n",
    }.items():  # fmt: skip
        (tmp_path / name).write_text(content)
    code, said = call(monkeypatch, PASSWD, "-HC", "-c=")
    assert (code, said.splitlines()[2:]) == (0, [
        b"=jo:joe:1000:100:/home/joe:::", b"=shop:joe:1000:100:/home/joe:-:s:", b"# whatever", b"."])


def test_the_program_prints_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paths, "USERS", str(tmp_path))
    monkeypatch.setattr(paths, "CONTROL", str(tmp_path / "control"))
    passwd = f"qmaild-alias:x:990:990::/:/bin/sh\njoe:x:70000:1::{tmp_path}/gone:/bin/sh\n".encode()
    assert call(monkeypatch, passwd, "-h") == (111, b"")
    (tmp_path / "include").mkdir()
    assert call(monkeypatch, passwd, "-H") == (111, b"")
    assert call(monkeypatch, passwd, "-x")[0] == call(monkeypatch, passwd, "-c")[0] == call(monkeypatch, passwd, "a")[0] == 100
    assert "usage" in capsys.readouterr().err


def test_homes_on_the_disk_are_judged_by_their_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "USERS", str(tmp_path))
    monkeypatch.setattr(paths, "CONTROL", str(tmp_path / "control"))
    assert qmail_pw2u._owner_of(os.fsencode(tmp_path)) == os.geteuid()
    assert qmail_pw2u._owner_of(os.fsencode(tmp_path / "gone")) is None
    (tmp_path / "file").touch()
    assert qmail_pw2u._owner_of(os.fsencode(tmp_path / "file/home")) is None
