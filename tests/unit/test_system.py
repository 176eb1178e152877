"""Accounts with three answers, giving up power, sealed memory, batched syncs: against the real machine."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import pathlib
import pwd
from collections.abc import Callable

import pytest

from qmaild.runtime import system

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")


def in_child(act: Callable[[], int]) -> int:
    """Run act in a forked child; return its exit code (99 if it raised)."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = act()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_an_account_is_found_by_name_with_all_its_fields() -> None:
    expected = pwd.getpwnam("nobody")
    assert system.account_by_name(b"nobody") == system.Found(
        system.Account(
            b"nobody", expected.pw_uid, expected.pw_gid, expected.pw_dir.encode(), expected.pw_shell.encode()
        )
    )


def test_an_account_is_found_by_uid() -> None:
    answer = system.account_by_uid(0)
    assert isinstance(answer, system.Found)
    assert answer.account.name == b"root"


@pytest.mark.parametrize("name", [b"no-such-account-here", b"", b"ro\0ot", b"\xff\xfe", b"a:b"])
def test_a_name_without_an_account_is_absent(name: bytes) -> None:
    assert system.account_by_name(name) == system.Absent()


@pytest.mark.parametrize("uid", [4_000_000_001, -1, 0xFFFFFFFF, 1 << 40])
def test_a_uid_without_an_account_is_absent(uid: int) -> None:
    assert system.account_by_uid(uid) == system.Absent()


def test_trouble_is_not_absence() -> None:
    def act() -> int:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # the database cannot be opened: EMFILE
        answer = system.account_by_name(b"nobody-has-this-name")
        return 0 if answer == system.Trouble(errno.EMFILE) else 1

    assert in_child(act) == 0


def test_groups_hold_the_primary_group() -> None:
    assert 12345 in system.groups_of(b"nobody", 12345)


@as_root
def test_become_leaves_nothing_but_the_user() -> None:
    def act() -> int:
        system.become(12345, 23456, [23456, 34567])
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        return 0 if (
            os.getresuid() == (12345,) * 3 and os.getresgid() == (23456,) * 3
            and sorted(os.getgroups()) == [23456, 34567]
            and all(int(status[name], 16) == 0 for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"))
        ) else 1  # fmt: skip

    assert in_child(act) == 0


@as_root
def test_become_takes_ambient_capabilities_away() -> None:
    """As a unit gives them: a user that is not root, with CAP_SETUID and CAP_SETGID in every set."""

    def act() -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        setgid, setuid, keep_caps, ambient, ambient_raise = 6, 7, 8, 47, 2
        libc.prctl(keep_caps, 1, 0, 0, 0)
        os.setresuid(12000, 12000, 12000)
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        bits = 1 << setgid | 1 << setuid
        assert libc.capset(header, (ctypes.c_uint32 * 6)(bits, bits, bits, 0, 0, 0)) == 0
        for capability in (setgid, setuid):
            assert libc.prctl(ambient, ambient_raise, capability, 0, 0) == 0
        system.become(12345, 23456, [])
        status = pathlib.Path("/proc/self/status").read_text()
        return 0 if "CapAmb:\t0000000000000000" in status and "CapPrm:\t0000000000000000" in status else 1

    assert in_child(act) == 0


@as_root
@pytest.mark.parametrize(("uid", "gid"), [(0, 23456), (12345, 0), (0xFFFFFFFF, 1), (1, 0xFFFFFFFF)])
def test_become_refuses_root_and_no_id_before_it_changes_anything(uid: int, gid: int) -> None:
    def act() -> int:
        try:
            system.become(uid, gid, [])
        except OSError as error:
            return 0 if error.errno == errno.EINVAL and os.getresuid() == (0, 0, 0) else 1
        return 2

    assert in_child(act) == 0


@as_root
def test_become_without_the_power_to_is_an_error() -> None:
    def act() -> int:
        system.become(12345, 23456, [])
        try:
            system.become(12346, 23456, [])
        except OSError as error:
            return 0 if error.errno == errno.EPERM else 1
        return 2

    assert in_child(act) == 0


def test_write_out_tells_of_each_file_by_itself(tmp_path: os.PathLike[str]) -> None:
    reader, writer = os.pipe()
    with open(os.path.join(tmp_path, "a"), "wb") as one, open(os.path.join(tmp_path, "b"), "wb") as two:
        one.write(b"x")
        one.flush()
        assert system.write_out([one.fileno(), writer, two.fileno(), 9999]) == [0, errno.EINVAL, 0, errno.EBADF]
    os.close(reader)
    os.close(writer)


def test_write_out_of_nothing_is_nothing() -> None:
    assert system.write_out([]) == []


def test_a_sealed_memfd_cannot_be_changed() -> None:
    descriptor = system.sealed_memfd(b"content")
    assert os.read(descriptor, 100) == b"content"
    changes: list[Callable[[], object]] = [
        lambda: os.pwrite(descriptor, b"x", 0), lambda: os.ftruncate(descriptor, 0),
        lambda: os.ftruncate(descriptor, 100), lambda: fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, 0),
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(PermissionError):
            change()
    os.close(descriptor)
