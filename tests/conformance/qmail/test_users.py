"""Who a local part belongs to: users/assign by way of qmail-newu, and without it the accounts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .host import Host, Whose

ASSIGN = """\
=joe:joe:UID:HOME/joe:::
+joe-:joe:UID:HOME/joe:-::
+jo:games:UID:HOME/games:-:short-:
+:games:UID:HOME/games:-:rest-:
.
"""


@pytest.fixture
def assigned(host: Host) -> Iterator[Host]:
    """The host with this users/assign, which is gone again afterwards."""
    done = host.assign(ASSIGN)
    assert (done.returncode, done.stderr) == (0, b"")
    yield host
    (host.users / "cdb").unlink()


def test_f075_an_assignment_is_for_a_name_for_a_prefix_or_for_all_the_rest(assigned: Host) -> None:
    assert assigned.whose(b"JOE@test.example") == Whose("joe", "", "JOE@test.example")
    assert assigned.whose(b"joe-X@test.example") == Whose("joe", "X", "joe-X@test.example")
    assert assigned.whose(b"Nobody@test.example") == Whose("games", "rest-Nobody", "Nobody@test.example")


def test_f076_an_assign_file_without_its_dot_makes_nothing(assigned: Host) -> None:
    before = (assigned.users / "cdb").read_bytes()
    done = assigned.assign(ASSIGN.removesuffix(".\n"))
    assert (done.returncode, done.stdout) == (111, b"") and b"assign" in done.stderr
    assert (assigned.users / "cdb").read_bytes() == before
    assert sorted(path.name for path in assigned.users.iterdir()) == ["assign", "cdb"]


def test_f077_a_line_with_six_colons_makes_nothing(assigned: Host) -> None:
    before = (assigned.users / "cdb").read_bytes()
    done = assigned.assign("=ann:joe:UID:HOME/joe::\n.\n")
    assert done.returncode == 111 and b"line 1" in done.stderr
    assert (assigned.users / "cdb").read_bytes() == before


def test_f078_the_longer_prefix_wins(assigned: Host) -> None:
    assert assigned.whose(b"joe-a@test.example") == Whose("joe", "a", "joe-a@test.example")
    assert assigned.whose(b"joker@test.example") == Whose("games", "short-ker", "joker@test.example")
    assert assigned.whose(b"jo@test.example") == Whose("games", "short-", "jo@test.example")


def test_f079_without_assignments_the_accounts_decide_and_the_extension_keeps_its_case(host: Host) -> None:
    assert not (host.users / "cdb").exists()
    assert host.whose(b"games-Foo-Bar@test.example") == Whose("games", "Foo-Bar", "games-Foo-Bar@test.example")


def test_f081_a_local_part_in_capitals_is_the_account_in_small_letters(host: Host) -> None:
    assert host.whose(b"GaMeS@test.example") == Whose("games", "", "GaMeS@test.example")


PASSWD = b"""\
root:x:0:0:root:/root:/bin/sh
qmaild-alias:x:990:990:alias:/var/lib/qmaild/alias:/usr/sbin/nologin
joe:x:1000:1000:Joe:/no/such/home:/bin/sh
Ann:x:1001:1001:Ann:/no/such/home:/bin/sh
"""


def test_f208_qmail_pw2u_wants_an_alias_account_and_ends_with_the_dot(host: Host) -> None:
    without = b"".join(line for line in PASSWD.splitlines(True) if not line.startswith(b"qmaild-alias"))
    done = host.program("qmail-pw2u", "-H", given=without)
    assert (done.returncode, done.stdout) == (111, b"") and b"alias" in done.stderr
    done = host.program("qmail-pw2u", "-H", given=PASSWD)
    assert done.returncode == 0 and done.stdout.endswith(b"\n.\n")
    assert b"+:qmaild-alias:990:990:/var/lib/qmaild/alias:-::\n" in done.stdout


def test_f209_qmail_pw2u_looks_at_homes_and_capitals_unless_told_not_to(host: Host) -> None:
    assert host.program("qmail-pw2u", given=PASSWD).returncode == 111  # not even the alias account has its home
    lines = host.program("qmail-pw2u", "-H", given=PASSWD).stdout.splitlines()
    assert b"=joe:joe:1000:1000:/no/such/home:::" in lines
    assert b"+joe-:joe:1000:1000:/no/such/home:-::" in lines
    assert not [line for line in lines if b"Ann" in line or b"root" in line]
    assert b"=Ann:Ann:1001:1001:/no/such/home:::" in host.program("qmail-pw2u", "-Hu", given=PASSWD).stdout.splitlines()
