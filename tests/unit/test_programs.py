"""The programs with names of their own: how they are called, and what they leave when something is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qmaild.__main__ import COMMANDS, PROGRAMS
from qmaild.commands import compiling, configuration, flags, qmail_getpw, qmail_newmrh, qmail_newu
from qmaild.control.cdb import Reader
from qmaild.runtime import paths, system

from .processes import ROOT

LINE = b"=joe:joe:1000:100:/home/joe:::\n"


def run(*words: str | Path, given: bytes = b"", **variables: str | Path) -> subprocess.CompletedProcess[bytes]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **{name: str(each) for name, each in variables.items()}}
    return subprocess.run([*words], input=given, capture_output=True, env=environment, timeout=60)


def installed(tmp_path: Path, name: str) -> Path:
    """The program as packages have it: a link, to a file that knows where qmaild is."""
    packages = tmp_path / "packages"
    packages.mkdir()
    text = (ROOT / "packaging/program").read_text()
    assert text.startswith("#!/usr/bin/python3 -IS\n") and text.count("/usr/lib/python3/dist-packages") == 1
    (packages / "program").write_text(text.replace("/usr/lib/python3/dist-packages", str(ROOT)))
    shutil.copymode(ROOT / "packaging/program", packages / "program")
    (packages / name).symlink_to("program")
    return packages / name


def test_a_link_is_the_program_it_is_named_after(tmp_path: Path) -> None:
    (tmp_path / "assign").write_bytes(LINE + b".\n")
    done = run(installed(tmp_path, "qmail-newu"), QMAILD_USERS=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert Reader((tmp_path / "cdb").read_bytes()).find(b"!joe\0") == b"joe\x001000\x00100\0/home/joe\0\0"


@pytest.mark.parametrize("name", ["qmail-newu", "qmail-newmrh", "tcprules", "maildirmake"])
def test_the_same_program_is_a_command_of_qmaild(name: str) -> None:
    done = run(sys.executable, "-m", "qmaild", name, "-x", "-y", "-z")
    assert done.returncode == 100 and done.stderr.startswith(name.encode() + b": ")


def test_all_commands_are_told_to_who_asks_for_none() -> None:
    done = run(sys.executable, "-m", "qmaild")
    assert done.returncode == 100
    shown = [line.split()[0].decode() for line in done.stderr.splitlines() if line.startswith(b"  ")]
    assert shown == [*COMMANDS, *PROGRAMS]


# Whatever these bring along is paid for at each start; asyncio alone doubles it.
HEAVY = {"asyncio", "socket", "ssl", "aiosmtpd", "dns", "systemd", "inspect", "json", "logging"}


@pytest.mark.parametrize("name", sorted(set(PROGRAMS) - {"qmail-pw2u", "qmail-getpw"}))
def test_a_program_loads_nothing_that_takes_long(name: str) -> None:
    script = f"import sys, {PROGRAMS[name][0]}; print(*sorted(sys.modules))"
    loaded = run(sys.executable, "-c", script).stdout.decode().split()
    assert not HEAVY & set(loaded)


@pytest.mark.parametrize("program", [qmail_newu, qmail_newmrh])
def test_a_text_that_is_missing_or_wrong_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: object
) -> None:
    monkeypatch.setattr(paths, "USERS", str(tmp_path))
    monkeypatch.setattr(paths, "CONTROL", str(tmp_path))
    source, made, good = {
        qmail_newu: (tmp_path / "assign", tmp_path / "cdb", LINE + b".\n"),
        qmail_newmrh: (tmp_path / "morercpthosts", tmp_path / "morercpthosts.cdb", b"a.test\n"),
    }[program]  # type: ignore[index]
    main = program.main  # type: ignore[attr-defined]
    assert main([]) == 111 and f"{source}: No such file" in capsys.readouterr().err
    source.write_bytes(good)
    assert main([]) == 0
    before = made.read_bytes()
    assert made.stat().st_mode & 0o777 == 0o644
    source.write_bytes(b"=joe\0\n")
    assert main([]) == 111 and f"{source}: line 1: expected" in capsys.readouterr().err
    assert main(["x"]) == 100
    assert made.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, made.name])


def test_tcprules_makes_its_file_by_way_of_the_temporary_one(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "qmaild", "tcprules", tmp_path / "rules.cdb", tmp_path / "rules.tmp"]
    assert run(*words, given=b'127.:allow,RELAYCLIENT=""\n:deny\n').returncode == 0
    assert Reader((tmp_path / "rules.cdb").read_bytes()).find(b"127.") == b"+RELAYCLIENT=\0"
    done = run(*words, given=b":allow\n1.2.3.4:perhaps\n")
    assert done.returncode == 100 and b"line 2" in done.stderr
    assert Reader((tmp_path / "rules.cdb").read_bytes()).find(b"") == b"D\0"
    assert [path.name for path in tmp_path.iterdir()] == ["rules.cdb"]
    assert run(*words[:-1], tmp_path / "no/such/folder", given=b"").returncode == 111


ACCOUNTS = {b"joe": 1000, b"joe-x": 1001, b"games": 5, b"qmaild-alias": 990}


@pytest.mark.parametrize(("local", "fields"), [
    ("Joe", [b"joe", b"1000", b"", b""]), ("joe-A-b", [b"joe", b"1000", b"-", b"A-b"]),
    ("joe-X-b", [b"joe-x", b"1001", b"-", b"b"]), ("games", [b"qmaild-alias", b"990", b"-", b"games"]),
    ("", [b"qmaild-alias", b"990", b"-", b""]),
])  # fmt: skip
def test_qmail_getpw_prints_the_account_and_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], local: str, fields: list[bytes]
) -> None:
    def account(name: bytes) -> system.Answer:
        if name in ACCOUNTS:
            return system.Found(system.Account(name, ACCOUNTS[name], 100, b"/home/" + name, b"/bin/sh"))
        return system.Absent()

    monkeypatch.setattr(paths, "CONTROL", str(tmp_path))
    monkeypatch.setattr(system, "account_by_name", account)
    assert qmail_getpw.main([local]) == 0
    user, uid, gid, home, dash, extension, rest = capfdbinary.readouterr().out.split(b"\0")
    assert ([user, uid, dash, extension], gid, home, rest) == (fields, b"100", b"/home/" + user, b"")


def test_qmail_getpw_says_what_it_cannot_do_by_its_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "CONTROL", str(tmp_path))
    monkeypatch.setattr(system, "account_by_name", lambda name: system.Absent())
    assert qmail_getpw.main(["joe"]) == 116
    monkeypatch.setattr(system, "account_by_name", lambda name: system.Trouble(5))
    assert qmail_getpw.main(["joe"]) == 118
    assert qmail_getpw.main([]) == qmail_getpw.main(["a", "b"]) == 100
    (tmp_path / "databytes").write_text("many\n")
    assert qmail_getpw.main(["joe"]) == 111


def test_what_is_older_than_its_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "CONTROL", str(tmp_path))
    monkeypatch.setattr(paths, "USERS", str(tmp_path / "users"))
    assert configuration.stale_files() == []
    (tmp_path / "morercpthosts").write_text("a.test\n")
    assert configuration.stale_files() == [(f"{tmp_path}/morercpthosts.cdb", "qmail-newmrh")]
    assert qmail_newmrh.main([]) == 0
    assert configuration.stale_files() == []
    later = (tmp_path / "morercpthosts.cdb").stat().st_mtime_ns + 1
    os.utime(tmp_path / "morercpthosts", ns=(later, later))
    assert configuration.stale_files() == [(f"{tmp_path}/morercpthosts.cdb", "qmail-newmrh")]


def test_a_file_gets_its_name_when_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    path = tmp_path / "cdb"

    def fsync(descriptor: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    real = os.rename

    def rename(old: str, new: str) -> None:
        done.append(f"{old} -> {new}")
        real(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    compiling.replace(str(path), f"{path}.new", [(b"a", b"b")])
    assert done == [f"{path}.new", f"{path}.new -> {path}", str(tmp_path)]


def test_a_disk_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cdb"
    compiling.replace(str(path), f"{path}.new", [(b"a", b"b")])

    def fsync(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError):
        compiling.replace(str(path), f"{path}.new", [(b"a", b"c")])
    assert Reader(path.read_bytes()).find(b"a") == b"b"
    assert [each.name for each in tmp_path.iterdir()] == ["cdb"]


@pytest.mark.parametrize(("words", "expected"), [
    ([], ([], [])), (["a", "-x"], ([], ["a", "-x"])), (["-ab", "-c", "v", "w"], ([("a", ""), ("b", ""), ("c", "v")], ["w"])),
    (["-acv", "--", "-b"], ([("a", ""), ("c", "v")], ["-b"])), (["-", "-a"], ([], ["-", "-a"])),
])  # fmt: skip
def test_flags_are_read_as_by_qmails_programs(words: list[str], expected: object) -> None:
    assert flags.parse(words, "ab", "c") == expected


@pytest.mark.parametrize("words", [["-x"], ["-ax"], ["-c"], ["--a"]])
def test_a_flag_that_is_not_there_is_a_wrong_call(words: list[str]) -> None:
    with pytest.raises(flags.Usage):
        flags.parse(words, "ab", "c")
