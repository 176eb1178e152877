"""A cdb that others replace while we read it: the file as it stands now. Knows its path, not what is in it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from qmaild.control.cdb import CdbError, Content
from qmaild.runtime import journal

_Reader = TypeVar("_Reader")
_Answer = TypeVar("_Answer")

TROUBLE_SECONDS = 1.0  # a file that cannot be used, and does not change, is tried and complained of no more often


class _Open:
    """An open file, cut like bytes.

    Read by call and not mapped: who writes over a mapped file in its place ends the process that has it.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        self._size = os.fstat(self._descriptor).st_size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: slice, /) -> bytes:
        start, end = place.start or 0, place.stop
        return os.pread(self._descriptor, max(end - start, 0), start)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


class CdbFile(Generic[_Reader]):
    """The file at `path`. A changed one counts from the next question on, with no command in between.

    made: what reads it. consequence: what its trouble means, for the journal.
    """

    def __init__(self, path: str, made: Callable[[Content], _Reader], consequence: str) -> None:
        self._path = path
        self._made = made
        self._consequence = consequence
        self._reader: _Reader | None = None
        self._state: tuple[int, ...] = ()
        self._trouble = ""  # of the file in this state
        self._look_at = 0.0

    def ask(self, question: Callable[[_Reader], _Answer]) -> _Answer | None:
        """Return what the question finds; None if there is no file. CdbError: it cannot be used, and the journal says why."""
        try:
            status = os.stat(self._path)
            state: tuple[int, ...] = (status.st_mtime_ns, status.st_ino, status.st_size)
        except FileNotFoundError:
            self._reader, self._state, self._trouble = None, (), ""
            return None
        except OSError as error:
            state = (error.errno or 0,)
        if self._trouble and state == self._state and time.monotonic() < self._look_at:
            raise CdbError(self._trouble)
        try:
            if self._reader is None or state != self._state:
                self._reader, self._state = self._made(_Open(self._path)), state
                self._trouble = ""
            return question(self._reader)
        except (OSError, CdbError) as error:
            self._reader, self._state = None, state
            self._trouble = (error.strerror or "cannot be read") if isinstance(error, OSError) else str(error)
            self._look_at = time.monotonic() + TROUBLE_SECONDS
        journal.note(journal.ERROR, f"{self._path}: {self._trouble}; {self._consequence}")
        raise CdbError(self._trouble)
