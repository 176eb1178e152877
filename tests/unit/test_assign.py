"""users/assign: its lines, their records, whose a local part is; and what becomes of that in local."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmaild.control import cdb
from qmaild.control.cdb import CdbError
from qmaild.policy import assign
from qmaild.policy.assign import Assigned, AssignError, Assignments
from qmaild.protocol.frames import PERMANENT, SUCCESS, TEMPORARY
from tests.unit.local_house import House, files_in, house

__all__ = ["house"]

LINES = b"""\
=Joe:joe:1000:100:/home/joe:::
+joe-:joe:1000:100:/home/joe:-::
+j:short:1001:100:/home/short:-:j:
=joe-secret:ann:1002:100:/home/ann:-:joes:
=joe:never:1003:100:/home/never:::
+:qmaild-alias:990:990:/var/lib/alias:-::anything may stand here
.
what stands behind the dot is not read
"""


def made(lines: bytes = LINES) -> Assignments:
    return Assignments(cdb.build(assign.records(lines)))


@pytest.mark.parametrize(("local", "user", "dash", "extension"), [
    (b"joe", b"joe", b"", b""), (b"JOE", b"joe", b"", b""), (b"Joe-A-b", b"joe", b"-", b"A-b"), (b"joe-", b"joe", b"-", b""),
    (b"joe-SECRET", b"ann", b"-", b"joes"), (b"joe-secret-x", b"joe", b"-", b"secret-x"), (b"joker", b"short", b"-", b"joker"),
    (b"J", b"short", b"-", b"j"), (b"other", b"qmaild-alias", b"-", b"other"), (b"", b"qmaild-alias", b"-", b""),
])  # fmt: skip
def test_exact_then_the_longest_prefix_then_the_rest(local: bytes, user: bytes, dash: bytes, extension: bytes) -> None:
    found = made().find(local)
    assert found is not None
    assert (found.user, found.dash, found.extension) == (user, dash, extension)


def test_a_local_part_that_no_line_is_about_is_left_to_the_accounts() -> None:
    lines = b"=joe:joe:1000:100:/home/joe:::\n.\n"
    assert made(lines).find(b"joe") == Assigned(b"joe", 1000, 100, b"/home/joe", b"", b"")
    assert made(lines).find(b"joe-x") is None
    assert made(b".\n").find(b"joe") is None


def test_the_dot_needs_no_line_end() -> None:
    assert made(b"=joe:joe:1000:100:/home/joe:::\n.").find(b"joe") is not None


def test_the_records_are_those_of_qmail_newu() -> None:
    assert list(assign.records(b"=J:joe:1:2:/h:-:x:\n+a:b:3:4:/c:::\n+:d:5:6:/e:-::\n.\n")) == [
        (b"!j\0", b"joe\x001\x002\0/h\0-\0x"), (b"!a", b"b\x003\x004\0/c\0\0"), (b"!", b"d\x005\x006\0/e\0-\0"), (b"", b"a"),
    ]  # fmt: skip


@pytest.mark.parametrize(("text", "line"), [
    (b"", 1), (b"=joe:joe:1:1:/h:::\n", 2), (b"=joe:joe:1:1:/h:::", 1), (b"=joe:joe:1:1:/h::\n.\n", 1), (b"\n.\n", 1),
    (b"# comment\n.\n", 1), (b":joe:1:1:/h:::\n.\n", 1), (b"=j\0e:joe:1:1:/h:::\n.\n", 1), (b"=a:joe:x:1:/h:::\n.\n", 1),
    (b"=a:joe:1:-1:/h:::\n.\n", 1), (b"=a:joe:4294967295:1:/h:::\n.\n", 1), (b"=a:joe:1:1:h:::\n.\n", 1),
    (b"=a::1:1:/h:::\n.\n", 1), (b"=a:joe:1:1:/h:-:../x:\n.\n", 1),
])  # fmt: skip
def test_a_line_that_cannot_be_followed_is_named(text: bytes, line: int) -> None:
    with pytest.raises(AssignError) as error:
        list(assign.records(text))
    assert error.value.line == line


@settings(deadline=None)
@given(st.binary(max_size=1000))
def test_a_hostile_local_part_costs_one_look_a_letter(local: bytes) -> None:
    looks: list[bytes] = []
    found = made()
    real = found._reader.find

    def find(key: bytes, hashed: int | None = None) -> bytes | None:
        assert hashed == cdb.hash_of(key)
        looks.append(key)
        return real(key, hashed)

    found._reader.find = find  # type: ignore[method-assign]
    found.find(local)
    assert len(looks) <= len(local) + 2


@pytest.mark.parametrize("size", [4, 16, 512])
def test_no_zeros_in_the_file_make_anybody_somebody_else(size: int) -> None:
    whole = cdb.build(assign.records(LINES))
    locals = (b"joe", b"joe-a", b"joker", b"joe-secret", b"other")
    truth = {local: Assignments(whole).find(local) for local in locals}
    for start in range(0, len(whole), size):
        torn = whole[:start] + bytes(len(whole[start : start + size])) + whole[start + size :]
        for local in locals:
            try:
                found = Assignments(torn).find(local)
            except CdbError:
                continue
            assert found == truth[local], (start, local)


@pytest.mark.parametrize("value", [b"", b"joe", b"joe\x001\x002\0/h\0-", b"joe\x001\x002\0h\0\0", b"joe\0x\x002\0/h\0\0"])
def test_a_record_that_names_no_user_is_damage(value: bytes) -> None:
    with pytest.raises(CdbError):
        Assignments(cdb.build([(b"!joe\0", value), (b"", b"")])).find(b"joe")


def test_a_file_without_the_record_of_prefixes_is_none_of_users() -> None:
    with pytest.raises(CdbError):
        Assignments(cdb.build([(b"!joe\0", b"joe\x001\x002\0/h\0\0")]))


# --- in local

OTHER_UID = os.geteuid() + 1


def write(house: House, lines: str) -> None:
    """Put users/cdb in place, as qmail-newu does: a new file under the old name."""
    folder = house.top / "assigned"
    folder.mkdir(exist_ok=True)
    text = lines.replace("UID", str(os.geteuid())).replace("HOME", f"{house.top}/home").encode()
    (folder / "new").write_bytes(cdb.build(assign.records(text)))
    (folder / "new").rename(folder / "cdb")


def test_local_goes_by_the_assignments_and_by_new_ones_at_once(house: House) -> None:
    bob, eve = house.user("bob"), house.user("eve")
    (eve / ".qmail-in-x").write_text("./Maildir/\n")
    with house.running() as (orders, lookups):
        assert house.order(orders, b"virtual@h").outcomes == b"D"
        write(house, "=virtual:bob:UID:1:HOME/bob:::\n.\n")
        report = house.order(orders, b"Virtual@h", b"eve@h", b"virtual-x@h")
        assert (report.outcomes, report.peers) == (b"KKD", [b"bob", b"eve", b"qmaild-alias"])
        assert house.exists(lookups, b"virtual@h")[0] == SUCCESS
        write(house, "+virtual-:eve:UID:1:HOME/eve:-:in-:\n.\n")
        assert house.order(orders, b"virtual@h", b"virtual-x@h").outcomes == b"DK"
        assert house.exists(lookups, b"virtual-x@h")[0] == SUCCESS
        assert house.exists(lookups, b"virtual-y@h")[0] == PERMANENT
    assert len(files_in(bob / "Maildir/new")) == 1 and len(files_in(eve / "Maildir/new")) == 2


def test_a_line_for_a_uid_that_receives_nothing_defers_and_says_so(house: House) -> None:
    house.user("bob")
    write(house, f"=bob:bob:{OTHER_UID}:1:HOME/bob:::\n.\n")
    with house.running() as (orders, lookups):
        report = house.order(orders, b"bob@h", b"bob-x@h")
        assert report.outcomes == b"ZD" and b"uid %d" % OTHER_UID in report.texts[0]
        assert house.exists(lookups, b"bob@h")[0] == TEMPORARY


@pytest.mark.parametrize("damage", ["short", "zeros", "folder", "nothing"])
def test_a_damaged_file_defers_everybody_and_is_named_until_it_is_mended(house: House, damage: str) -> None:
    home = house.user("bob")
    write(house, "=virtual:bob:UID:1:HOME/bob:::\n.\n")
    path = house.top / "assigned/cdb"
    with house.running() as (orders, lookups):
        assert house.order(orders, b"virtual@h").outcomes == b"K"
        made = path.read_bytes()
        if damage == "folder":
            path.unlink()
            path.mkdir()
        else:  # in its place, under the reader's hands
            path.write_bytes({"short": made[:-1], "zeros": bytes(len(made)), "nothing": b""}[damage])
        assert house.order(orders, b"virtual@h", b"bob@h", b"nobody@h").outcomes == b"ZZZ"
        for address in (b"virtual@h", b"bob@h", b"nobody@h"):
            assert house.exists(lookups, address)[0] == TEMPORARY
        if damage == "folder":
            path.rmdir()
        write(house, "=virtual:bob:UID:1:HOME/bob:::\n.\n")
        assert house.order(orders, b"virtual@h").outcomes == b"K"
    assert len(files_in(home / "Maildir/new")) == 2
    told = (house.top / "journal").read_text()
    assert f"{path}: " in told and "local mail waits" in told


def test_an_unreadable_file_defers(house: House, tmp_path: Path) -> None:
    house.user("bob")
    (house.top / "assigned").mkdir()
    (house.top / "assigned/cdb").symlink_to("cdb")  # a circle: neither there nor absent
    with house.running() as (orders, _):
        assert house.order(orders, b"bob@h").outcomes == b"Z"
