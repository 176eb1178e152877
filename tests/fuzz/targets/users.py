"""Files of the administrator that are compiled, and what they are compiled to: users/assign, passwd, client rules, any cdb.

The first byte of an input chooses the reader: its letter in READERS.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

from qmaild.control import cdb
from qmaild.policy import assign, clientrules, pw2u, users
from qmaild.policy.assign import Assigned, Assignments
from qmaild.policy.clientrules import Client

SYSTEM_USERS = frozenset({users.ALIAS_USER})
CLIENTS = (
    Client(b"192.0.2.7"), Client(b"192.0.2.200", b"mx.example", b"joe"), Client(b"2001:db8::1", b"a.b.example"), Client(b""),
)  # fmt: skip


class _Counting(bytes):
    """Content that tells how often it is cut: a question must come to an end."""

    cuts = 0

    def __getitem__(self, place: Any) -> Any:
        self.cuts += 1
        return super().__getitem__(place)


def any_cdb(data: bytes) -> None:
    """A file of whatever bytes has answers or is damaged, and takes no longer than its size explains."""
    content = _Counting(data)
    with contextlib.suppress(cdb.CdbError):
        reader = cdb.Reader(content)
        records = list(reader.records())
        assert sum(8 + len(key) + len(value) for key, value in records) <= len(data)
        for key in [b"", *(key for key, _ in records[:50])]:
            content.cuts = 0
            values = reader.values(key)
            assert content.cuts <= len(data) // 4 + 4
            assert reader.find(key) == (values[0] if values else None)
            assert reader.find(key, cdb.hashes_of(key)[-1]) == reader.find(key)


def patched(data: bytes) -> None:
    """The file of some records, with bytes changed or its end cut off: an answer is the old one, damage, or has such a byte."""
    count, cut = data[:2].ljust(2, b"\0")
    patches = list(zip(data[2::3], data[3::3], data[4::3], strict=False))
    records = [(b"key %d" % each, b"value %d" % each) for each in range(count % 64)]
    whole = cdb.build(records)
    assert list(cdb.Reader(whole).records()) == records
    changed = bytearray(whole)
    for high, low, byte in patches:
        changed[(high << 8 | low) % len(changed)] = byte
    torn = bytes(changed[: len(changed) - cut])
    any_cdb(torn)
    if torn == whole:
        assert all(cdb.Reader(torn).find(key) == value for key, value in records)
    elif cut and not patches:
        with contextlib.suppress(cdb.CdbError):
            cdb.Reader(torn)
            raise AssertionError("a file without its end was believed")
    as_users(torn)


def as_users(data: bytes) -> None:
    """Whom a file of whatever bytes names, it names whole."""
    for local in (b"joe", b"Joe-List-x", b"", b"-", b"key 1"):
        with contextlib.suppress(cdb.CdbError):
            found = Assignments(data).find(local)
            if found:
                _sound(found)


def _sound(found: Assigned) -> None:
    assert found.user and found.home.startswith(b"/") and 0 <= found.uid <= assign.MAX_ID
    assert b"\0" not in found.user + found.home + found.dash and found.home.count(b"\0") == 0


def assign_file(data: bytes) -> None:
    """Every line is followed as it says, by the reading of it that looks at one line after the other."""
    try:
        records = list(assign.records(data))
    except assign.AssignError as error:
        assert 0 < error.line <= data.count(b"\n") + 1
        return
    reader = Assignments(cdb.build(records))
    lines = [line.split(b":") for line in itertools.takewhile(lambda line: not line.startswith(b"."), data.split(b"\n"))]
    for line in lines[:20]:
        name = line[0][1:]
        for local in (name, name + b"-X", name.upper(), name[:-1]):
            assert reader.find(local) == _by_lines(lines, local), local


def _by_lines(lines: list[list[bytes]], local: bytes) -> Assigned | None:
    best: tuple[int, Assigned] | None = None
    for first, user, uid, gid, home, dash, extension, *_ in lines:
        is_prefix, name = first[:1] == b"+", first[1:].lower()
        if is_prefix and local.lower().startswith(name):
            worth, rest = len(name), local[len(name) :]
        elif not is_prefix and local.lower() == name:
            worth, rest = 1 << 30, b""
        else:
            continue
        if best is None or worth > best[0]:
            best = worth, Assigned(user, int(uid), int(gid), home, dash, extension + rest)
    return best and best[1]


def rules_file(data: bytes) -> None:
    try:
        records = list(clientrules.records(data))
    except clientrules.RuleError as error:
        assert 0 < error.line <= data.count(b"\n") + 1
        return
    reader = cdb.Reader(cdb.build(records))
    for client in CLIENTS:
        found = clientrules.find(reader, client)
        for name, value in found.variables if found else ():
            assert name and b"=" not in name and b"\0" not in name + value and b"\n" not in name + value
    keys = {key for key, _ in records}
    assert b"" not in keys or all(clientrules.find(reader, client) for client in CLIENTS)


def rules_cdb(data: bytes) -> None:
    """A record of whatever bytes is a rule, or damage; it denies if it says so."""
    reader = cdb.Reader(cdb.build([(b"", data), (b"/4", data), (b"/6", data[::-1])]))
    for client in CLIENTS:
        with contextlib.suppress(cdb.CdbError):
            found = clientrules.find(reader, client)
            assert found and found.is_denied == (b"D" in data.split(b"\0"))


def passwd_file(data: bytes) -> None:
    """What is written is an assign file, in which nobody who receives no mail stands."""
    passwd, _, subusers = data.partition(b"\n\n")
    lists = pw2u.Lists(subusers=tuple(line for line in subusers.split(b"\n") if line), mailnames=(b"joe:a:b",))
    try:
        lines = b"".join(pw2u.lines(
            passwd, lists, pw2u.Options(homes=pw2u.ANY_HOME), lambda home: None,
            lambda user, uid: users.may_receive(user, uid, SYSTEM_USERS)))  # fmt: skip
    except pw2u.CannotConvert:
        return
    with contextlib.suppress(assign.AssignError):
        for _, value in assign.records(lines):
            fields = value.split(b"\0")
            assert len(fields) != assign.FIELDS or users.may_receive(fields[0], int(fields[1]), SYSTEM_USERS)


READERS: dict[bytes, Callable[[bytes], Any]] = {
    b"c": any_cdb, b"b": patched, b"u": as_users, b"a": assign_file, b"t": rules_file, b"r": rules_cdb, b"p": passwd_file,
}  # fmt: skip


def one_input(data: bytes) -> None:
    READERS.get(data[:1], patched)(data[1:])


def _many_lines(data: bytes) -> None:
    assign_file(b"\n".join([b"+n%d-:u:1000:1:/h:-::" % each for each in range(len(data) // 200)]) + b"\n.\n")


def _long_local(data: bytes) -> None:
    made = Assignments(cdb.build(assign.records(b"+a:u:1000:1:/h:-::\n+-:u:1000:1:/h:-::\n.\n")))
    made.find(b"x" + b"-" * min(len(data), 1000))


GROWTH = {"assign": assign_file, "rules": rules_file, "passwd": passwd_file, "cdb": any_cdb}
DRIBBLE = {"assignments": _many_lines, "local part": _long_local}
