"""Calls of the machine that Python lacks or gets wrong: accounts with three answers, giving up power, sealed memory.

Python's pwd raises KeyError when there is no such account and also when the name service had trouble: here these
are two answers. Look-ups may wait for a name service: call them off the event loop. No lock is held meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from qmaild._system import ffi, lib

MAX_GROUPS = 65536  # NGROUPS_MAX of Linux
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Account(NamedTuple):
    """A line of the account database, bytes as it has them."""

    name: bytes
    uid: int
    gid: int
    home: bytes
    shell: bytes


class Found(NamedTuple):
    """The account exists."""

    account: Account


class Absent(NamedTuple):
    """The name service is sure that there is no such account."""


class Trouble(NamedTuple):
    """The name service could not say: temporary."""

    errno: int


Answer = Found | Absent | Trouble


def account_by_name(name: bytes) -> Answer:
    """Look an account up by its name. A name that no account can have is absent."""
    if not name or b"\0" in name:
        return Absent()
    account = ffi.new("struct system_account *")
    return _answer(lib.system_account_by_name(name, account), account)


def account_by_uid(uid: int) -> Answer:
    """Look an account up by its uid."""
    if not 0 <= uid < 0xFFFFFFFF:
        return Absent()
    account = ffi.new("struct system_account *")
    return _answer(lib.system_account_by_uid(uid, account), account)


def _answer(code: int, account: Any) -> Answer:
    if code == lib.SYSTEM_ABSENT:
        return Absent()
    if code != lib.SYSTEM_FOUND:
        return Trouble(code)
    try:
        name, home, shell = (ffi.string(text) for text in (account.name, account.home, account.shell))
        return Found(Account(name, account.uid, account.gid, home, shell))
    finally:
        lib.system_account_free(account)


def groups_of(name: bytes, gid: int) -> list[int]:
    """Return all groups of this account, gid among them. OSError if there are more than the kernel takes."""
    room = 64
    while room <= MAX_GROUPS * 2:
        groups, count = ffi.new("uint32_t[]", room), ffi.new("int *", room)
        if lib.system_groups_of(name, gid, groups, count) == 0:
            return list(groups[0 : count[0]])
        room = max(room * 2, count[0])
    raise OSError(errno.ERANGE, f"more than {MAX_GROUPS} groups")


def become(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Become this user with no other power, for good, and check it (SECURITY rule 1).

    On OSError the process must end itself at once: what it is then is not known. uid 0 and gid 0 are refused first.
    """
    code = lib.system_become(uid, gid, list(groups), len(groups))
    if code:
        raise OSError(code, f"becoming uid {uid}, gid {gid}: {os.strerror(code)}")


def write_out(descriptors: Sequence[int]) -> list[int]:
    """Start writing all these files, then fsync each; return an errno for each, 0 for success."""
    errors = ffi.new("int[]", max(len(descriptors), 1))
    lib.system_write_out(list(descriptors), errors, len(descriptors))
    return list(errors[0 : len(descriptors)])


def memfd() -> int:
    """Return a descriptor of memory that has nothing in it yet and can be sealed; the caller's to close."""
    return os.memfd_create("message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of it where the descriptor stands, to a file or memory."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def seal(descriptor: int) -> None:
    """Let nobody change this memory any more."""
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)


def is_sealed(descriptor: int) -> bool:
    """Return whether this is memory that nobody can change any more: reading it never waits, whoever sent it."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:
        return False


def sealed_memfd(content: bytes) -> int:
    """Return a descriptor of these bytes in memory that nobody can change any more, at offset 0; the caller's to close."""
    descriptor = memfd()
    try:
        write_all(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        seal(descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
