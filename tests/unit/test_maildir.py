"""Maildir delivery on a real disk: batches, names, errors."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from qmaild.delivery import maildir
from qmaild.delivery.contents import Contents
from qmaild.delivery.maildir import Letter, Maildirs
from qmaild.protocol.frames import SUCCESS, TEMPORARY
from qmaild.runtime import system
from tests.unit.local_house import files_in

LINES = b"Return-Path: <a@x>\nDelivered-To: b@y\n"


def letter(folder: Path, content: bytes = b"text\n", create: bool = False) -> Letter:
    return Letter(os.fsencode(folder), LINES, Contents(content), create)


def made(path: Path) -> Path:
    maildir.make(os.fsencode(path))
    return path


def test_a_message_stands_in_new_with_its_lines_on_top_and_nothing_added(tmp_path: Path) -> None:
    folder = made(tmp_path / "M")
    assert Maildirs(b"h").deliver([letter(folder, b"no newline at the end")])[0].outcome == SUCCESS
    assert files_in(folder / "new") == [LINES + b"no newline at the end"]
    assert not list((folder / "tmp").iterdir())
    assert [path.stat().st_mode & 0o777 for path in (folder / "new").iterdir()] == [0o600]


def test_a_large_message_comes_from_its_descriptor_whose_offset_does_not_matter(tmp_path: Path) -> None:
    folder = made(tmp_path / "M")
    body = os.urandom(300_000)
    descriptor = system.sealed_memfd(body)
    os.lseek(descriptor, 12345, os.SEEK_SET)
    outcomes = Maildirs(b"h").deliver([Letter(os.fsencode(folder), LINES, Contents(b"P: q\n", descriptor), False)] * 2)
    os.close(descriptor)
    assert [each.outcome for each in outcomes] == [SUCCESS] * 2
    assert files_in(folder / "new") == [LINES + b"P: q\n" + body] * 2


def test_names_are_unique_and_hold_no_separator_of_the_host(tmp_path: Path) -> None:
    makes = Maildirs(b"a/b:c")
    names = {makes.unique_name() for _ in range(1000)}
    assert len(names) == 1000
    assert all(name.endswith(rb".a\057b\072c") and b"/" not in name and b":" not in name for name in names)


def test_a_batch_larger_than_the_bound_is_delivered_whole(tmp_path: Path) -> None:
    folders = [made(tmp_path / name) for name in "ab"]
    letters = [letter(folders[n % 2], b"%03d" % n) for n in range(maildir.MAX_BATCH * 2 + 10)]
    assert all(each.outcome == SUCCESS for each in Maildirs(b"h").deliver(letters))
    for n, folder in enumerate(folders):
        assert sorted(files_in(folder / "new")) == [LINES + b"%03d" % k for k in range(n, len(letters), 2)]


def test_a_missing_maildir_defers_and_costs_the_others_nothing(tmp_path: Path) -> None:
    folder = made(tmp_path / "M")
    outcomes = Maildirs(b"h").deliver([letter(folder), letter(tmp_path / "absent"), letter(folder)])
    assert [each.outcome for each in outcomes] == [SUCCESS, TEMPORARY, SUCCESS]
    assert outcomes[1].enhanced == b"4.2.1"
    assert len(files_in(folder / "new")) == 2 and not (tmp_path / "absent").exists()


def test_a_missing_maildir_is_made_when_asked(tmp_path: Path) -> None:
    folder = tmp_path / "M"
    assert Maildirs(b"h").deliver([letter(folder, create=True)] * 2)[1].outcome == SUCCESS
    assert sorted(path.name for path in folder.iterdir()) == ["cur", "new", "tmp"]
    assert [path.stat().st_mode & 0o777 for path in (folder, folder / "cur")] == [0o700] * 2


def test_what_cannot_be_synced_is_not_delivered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path / "M")
    monkeypatch.setattr(system, "write_out", lambda fds: [0, errno.EIO, errno.ENOSPC][: len(fds)])
    outcomes = Maildirs(b"h").deliver([letter(folder, b"1"), letter(folder, b"2"), letter(folder, b"3")])
    assert [(each.outcome, each.enhanced) for each in outcomes[1:]] == [(TEMPORARY, b"4.3.0"), (TEMPORARY, b"4.3.1")]
    assert outcomes[0].outcome == SUCCESS and files_in(folder / "new") == [LINES + b"1"]
    assert not list((folder / "tmp").iterdir())


def test_a_folder_that_cannot_be_synced_takes_its_messages_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = made(tmp_path / "bad"), made(tmp_path / "good")
    real = maildir.sync_folder

    def sync(folder: bytes) -> None:
        if b"/bad/" in folder:
            raise OSError(errno.EIO, "")
        real(folder)

    monkeypatch.setattr(maildir, "sync_folder", sync)
    outcomes = Maildirs(b"h").deliver([letter(bad), letter(good), letter(bad)])
    assert [each.outcome for each in outcomes] == [TEMPORARY, SUCCESS, TEMPORARY]
    assert files_in(bad / "new") == [] and len(files_in(good / "new")) == 1


def test_a_failed_write_leaves_nothing_open_or_behind(tmp_path: Path) -> None:
    folder = made(tmp_path / "M")
    short = system.sealed_memfd(b"x" * 10)
    contents = Contents(b"", short)
    contents.body_size = 20  # as if the file had been cut after it was measured
    before = len(os.listdir("/proc/self/fd"))
    outcome = Maildirs(b"h").deliver([Letter(os.fsencode(folder), LINES, contents, False)])[0]
    assert outcome.outcome == TEMPORARY
    assert len(os.listdir("/proc/self/fd")) == before
    assert files_in(folder / "new") == files_in(folder / "tmp") == []
    os.close(short)
