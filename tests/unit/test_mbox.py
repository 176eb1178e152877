"""mbox delivery: locks, quoting, taking back."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmaild.delivery import mbox
from qmaild.delivery.contents import Contents
from qmaild.protocol.frames import SUCCESS, TEMPORARY
from qmaild.runtime import system

FROM = b"From a@x Mon Nov 23 09:05:07 2026\n"
ORDINARY = 54321  # a uid that is nobody's
LINES = b"Return-Path: <a@x>\nDelivered-To: b@y\n"


def deliver(path: Path, content: bytes) -> bytes:
    return mbox.deliver(os.fsencode(path), FROM, LINES, Contents(content)).outcome


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mbox, "LOCK_SECONDS", 0.1)


def test_a_message_is_appended_with_its_from_line_and_an_empty_line(tmp_path: Path) -> None:
    path = tmp_path / "mbox"
    assert deliver(path, b"Subject: 1\n\none\n") == SUCCESS
    assert deliver(path, b"Subject: 2\n\ntwo without newline") == SUCCESS
    assert path.read_bytes() == (
        FROM + LINES + b"Subject: 1\n\none\n\n" + FROM + LINES + b"Subject: 2\n\ntwo without newline\n\n"
    )
    assert path.stat().st_mode & 0o777 == 0o600
    assert not Path(f"{path}.lock").exists()


def test_lines_that_begin_like_a_from_line_are_quoted(tmp_path: Path) -> None:
    assert deliver(tmp_path / "m", b"From x\n>From y\n>>From z\n From n\nFrom\nxFrom \n") == SUCCESS
    assert (tmp_path / "m").read_bytes() == (
        FROM + LINES + b">From x\n>>From y\n>>>From z\n From n\nFrom\nxFrom \n\n"
    )


def expected(content: bytes) -> bytes:
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    quoted = [b">" + line if line.lstrip(b">").startswith(b"From ") else line for line in lines]
    return FROM + LINES + b"".join(line + b"\n" for line in quoted) + b"\n"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([b"From ", b">", b"\n", b"x", b"Fro", b"y" * 1500]), max_size=30).map(b"".join),
       st.integers(1, 9))  # fmt: skip
def test_quoting_does_not_depend_on_where_chunks_end(tmp_path_factory: pytest.TempPathFactory, body: bytes, size: int) -> None:
    class Chunked(Contents):
        def chunks(self):  # type: ignore[no-untyped-def]
            yield from (self.content[place : place + size] for place in range(0, len(self.content), size))

    path = tmp_path_factory.mktemp("m") / "mbox"
    content = b"S: x\n" + body
    assert mbox.deliver(os.fsencode(path), FROM, LINES, Chunked(content)).outcome == SUCCESS
    assert path.read_bytes() == expected(content)


def test_a_large_message_comes_from_its_descriptor(tmp_path: Path) -> None:
    body = b"\nFrom here\n" + b"x" * 200_000 + b"\nFrom there\n"
    descriptor = system.sealed_memfd(body)
    outcome = mbox.deliver(os.fsencode(tmp_path / "m"), FROM, LINES, Contents(b"P: q\n", descriptor))
    os.close(descriptor)
    assert outcome.outcome == SUCCESS
    assert (tmp_path / "m").read_bytes() == expected(b"P: q\n" + body)


def test_a_mailbox_that_another_process_has_locked_defers(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"before\n")
    code = "import fcntl,sys; f=open(sys.argv[1],'r+'); fcntl.lockf(f,fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdin is not None
        other.stdout.readline()
        assert deliver(path, b"text\n") == TEMPORARY
        other.stdin.close()
    assert path.read_bytes() == b"before\n"
    assert deliver(path, b"text\n") == SUCCESS


def test_a_dot_lock_of_another_defers_and_stays_and_a_stale_one_is_removed(tmp_path: Path) -> None:
    path, lock = tmp_path / "m", tmp_path / "m.lock"
    lock.write_bytes(b"1")
    assert deliver(path, b"text\n") == TEMPORARY
    assert lock.exists() and path.read_bytes() == b""
    old = lock.stat().st_mtime - mbox.STALE_SECONDS - 10
    os.utime(lock, (old, old))
    assert deliver(path, b"text\n") == SUCCESS
    assert not lock.exists()


def test_a_write_that_fails_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"before\n")
    short = system.sealed_memfd(b"x" * 10)
    contents = Contents(b"", short)
    contents.body_size = 20
    assert mbox.deliver(os.fsencode(path), FROM, LINES, contents).outcome == TEMPORARY
    os.close(short)
    assert path.read_bytes() == b"before\n" and not Path(f"{path}.lock").exists()


def test_what_is_not_a_regular_file_defers(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert deliver(tmp_path / "fifo", b"text\n") == TEMPORARY
    assert deliver(tmp_path, b"text\n") == TEMPORARY
    assert deliver(tmp_path / "absent" / "m", b"text\n") == TEMPORARY


def test_the_dot_lock_is_left_out_where_the_folder_is_not_ours() -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "m"
        path.touch()
        Path(name).chmod(0o555)
        if os.geteuid() == 0:
            os.chown(path, ORDINARY, ORDINARY)
        process = os.fork()
        if process == 0:
            if os.geteuid() == 0:
                os.setresuid(ORDINARY, ORDINARY, ORDINARY)  # root may write to every folder
            os._exit(0 if deliver(path, b"text\n") == SUCCESS else 1)
        assert os.waitpid(process, 0)[1] == 0
        Path(name).chmod(0o700)
        assert path.read_bytes() == expected(b"text\n")


def test_the_lock_is_the_one_other_programs_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = mbox._append

    def append(*arguments):  # type: ignore[no-untyped-def]
        code = "import fcntl,sys; fcntl.lockf(open(sys.argv[1],'r+'),fcntl.LOCK_EX|fcntl.LOCK_NB)"
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "m"], capture_output=True, check=False)
        seen.append("fcntl" if b"BlockingIOError" in done.stderr else "none")
        seen.append("dot" if (tmp_path / "m.lock").exists() else "none")
        return real(*arguments)

    monkeypatch.setattr(mbox, "_append", append)
    assert deliver(tmp_path / "m", b"text\n") == SUCCESS
    assert seen == ["fcntl", "dot"]
