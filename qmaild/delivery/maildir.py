"""Maildir: how messages get into one, many at a time. Knows no dot-qmail rule.

A batch is written to tmp, brought to the disk together, moved to new, and the moves are brought to the
disk folder by folder. Only then is anything a success.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import NamedTuple

from qmaild.delivery.contents import Contents
from qmaild.delivery.outcome import DELIVERED, Outcome, of_error
from qmaild.runtime import system

MAX_BATCH = 100  # descriptors open at a time


class Letter(NamedTuple):
    """One message for one Maildir. lines: what stands above it; create: make a Maildir that is missing."""

    folder: bytes
    lines: bytes
    contents: Contents
    create: bool


class _Written(NamedTuple):
    place: int
    descriptor: int
    path: bytes
    new_folder: bytes
    new_path: bytes


class Maildirs:
    """Delivers to Maildirs under the name of this host and process."""

    def __init__(self, host: bytes) -> None:
        self._host = host.replace(b"/", b"\\057").replace(b":", b"\\072")
        self._count = 0

    def unique_name(self) -> bytes:
        """Return a name no other delivery has: time, process, counter, host."""
        self._count += 1
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        return b"%d.M%06dP%dQ%d.%b" % (seconds, nanoseconds // 1000, os.getpid(), self._count, self._host)

    def deliver(self, letters: Sequence[Letter]) -> list[Outcome]:
        """Deliver each letter and return the outcomes in their order. One that fails costs only itself."""
        outcomes: list[Outcome] = []
        for start in range(0, len(letters), MAX_BATCH):
            outcomes += self._batch(letters[start : start + MAX_BATCH])
        return outcomes

    def _batch(self, letters: Sequence[Letter]) -> list[Outcome]:
        outcomes = [DELIVERED] * len(letters)
        written: list[_Written] = []
        for place, letter in enumerate(letters):
            try:
                written.append(self._write(place, letter))
            except OSError as error:
                outcomes[place] = of_error(b"write to the Maildir", error)
        errors = system.write_out([each.descriptor for each in written])
        moved: dict[bytes, list[_Written]] = {}
        for each, code in zip(written, errors, strict=True):
            try:
                # After a failed fsync nothing is known about the data: the file is never trusted.
                if code:
                    raise OSError(code, "")
                # rename, not link: one change of the folders where link and unlink are two. The name was made with
                # O_EXCL and holds time, process and counter, so that none of it can stand in new.
                os.rename(each.path, each.new_path)
                moved.setdefault(each.new_folder, []).append(each)
            except OSError as error:
                _remove(each.path)
                outcomes[each.place] = of_error(b"write to the Maildir", error)
            os.close(each.descriptor)
        for folder, files in moved.items():
            try:
                sync_folder(folder)
            except OSError as error:
                for each in files:
                    _remove(each.new_path)
                    outcomes[each.place] = of_error(b"write to the Maildir", error)
        return outcomes

    def _write(self, place: int, letter: Letter) -> _Written:
        name = self.unique_name()
        path = b"%b/tmp/%b" % (letter.folder, name)
        try:
            descriptor = os.open(path, _NEW_FILE, 0o600)
        except FileNotFoundError:
            if not letter.create:
                raise
            make(letter.folder)
            descriptor = os.open(path, _NEW_FILE, 0o600)
        try:
            letter.contents.write_to(descriptor, letter.lines)
        except OSError:
            os.close(descriptor)
            _remove(path)
            raise
        new = letter.folder + b"/new"
        return _Written(place, descriptor, path, new, b"%b/%b" % (new, name))


_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def make(folder: bytes) -> None:
    """Make a Maildir, or what is missing of one, so that it outlives a power cut."""
    for part in (folder, folder + b"/tmp", folder + b"/new", folder + b"/cur"):
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, 0o700)
    sync_folder(folder)
    sync_folder(os.path.dirname(folder) or b".")


def sync_folder(folder: bytes) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: bytes) -> None:
    with contextlib.suppress(OSError):  # what is left in tmp is removed by readers after 36 hours
        os.unlink(path)
