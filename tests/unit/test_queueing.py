"""What programs of dot-qmail lines hand to qmail-queue, and what they make of its exit code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmaild.commands import queueing
from qmaild.commands.queueing import Refused


def queue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> Path:
    """Have this script stand in the place of qmail-queue; it runs in the folder that is returned."""
    path = tmp_path / "queue"
    path.write_text(f"#!/bin/sh\ncd {tmp_path}\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("QMAILQUEUE", str(path))
    return tmp_path


def send(content: Iterator[bytes] | list[bytes]) -> int:
    before = set(os.listdir("/proc/self/fd"))
    try:
        return queueing.send(content, b"s@x.test", [b"a@y.test", b"b@y.test"])
    finally:
        assert set(os.listdir("/proc/self/fd")) == before


def test_message_and_envelope_are_read_whole_and_in_this_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = queue(monkeypatch, tmp_path, "cat >message; cat <&1 >envelope; ls /proc/self/fd | wc -l >open")
    content = [b"x" * 100_000, b"\n", b"", b"end"]
    assert send(content) > 0
    assert (folder / "message").read_bytes() == b"".join(content)
    assert (folder / "envelope").read_bytes() == b"Fs@x.test\0Ta@y.test\0Tb@y.test\0\0"


@pytest.mark.parametrize(
    ("script", "is_permanent", "text"),
    [
        ("exit 11", True, "an envelope address is too long"), ("exit 31", True, "the message was refused"),
        ("exit 40", True, "qmail-queue said 40"), ("exit 10", False, "qmail-queue said 10"),
        ("exit 53", False, "the disk is full, or a write failed"), ("exit 120", False, "qmail-queue said 120"),
        ("echo Dnever >&6; exit 82", True, "never"), ("echo Zlater >&6; exit 82", False, "later"),
        ("echo D >&6; exit 82", False, "qmail-queue said 82"), ("kill -9 $$", False, "qmail-queue was ended by signal 9"),
    ],
)  # fmt: skip
def test_an_exit_code_says_whether_trying_again_is_of_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, is_permanent: bool, text: str
) -> None:
    queue(monkeypatch, tmp_path, script)
    for content in ([b"short"], [b"x" * 1_000_000]):  # the second finds nobody who reads it to its end
        with pytest.raises(Refused) as caught:
            send(content)
        assert (caught.value.is_permanent, str(caught.value)) == (is_permanent, text)


def test_a_message_that_cannot_be_read_to_its_end_gets_no_envelope(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = queue(monkeypatch, tmp_path, "cat >message; cat <&1 >envelope; exit 54")

    def broken() -> Iterator[bytes]:
        yield b"begun"
        raise OSError(5, "the disk")

    with pytest.raises(OSError, match="the disk"):
        send(broken())
    assert (folder / "envelope").read_bytes() == b""


def test_without_the_program_nothing_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QMAILQUEUE", "/no/such/queue")
    with pytest.raises(FileNotFoundError):
        send([b"x"])
