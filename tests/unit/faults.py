"""Faults that a test orders in a running service: errors of the disk, a clock that jumps. Knows faults.c and its orders.

The machine's own clock and disk stay as they are: a library that the service is started with stands before libc.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .processes import ROOT

SOURCE = Path(__file__).with_name("faults.c")
LIBRARY = ROOT / "build" / "faults.so"
ORDERS = struct.Struct("=qiiii")
CLOCK, SYNC_ERROR, WRITE_ERROR, FAILED, IS_LOADED = range(5)


def _library() -> Path:
    """The compiled library, made when it is missing or older than its source."""
    LIBRARY.parent.mkdir(exist_ok=True)
    with LIBRARY.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not LIBRARY.exists() or LIBRARY.stat().st_mtime < SOURCE.stat().st_mtime:
            words = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC"]
            subprocess.run([*words, "-o", LIBRARY, SOURCE], check=True)
    return LIBRARY


class Faults:
    """What shall go wrong in the services that are started within `ordered()`."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "faults"
        self._path.write_bytes(bytes(ORDERS.size))
        with self._path.open("r+b") as file:
            self._orders = mmap.mmap(file.fileno(), ORDERS.size)

    @contextlib.contextmanager
    def ordered(self) -> Iterator[None]:
        """Services that start meanwhile obey."""
        given = {"LD_PRELOAD": str(_library()), "QMAILD_TEST_FAULTS": str(self._path)}
        before = {name: os.environ.get(name) for name in given}
        os.environ.update(given)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def _order(self, place: int, value: int) -> None:
        now = list(ORDERS.unpack_from(self._orders))
        now[place] = value
        ORDERS.pack_into(self._orders, 0, *now)

    def syncs_fail(self, error: int) -> None:
        """From now on fsync and fdatasync give this errno; 0: they work."""
        self._order(SYNC_ERROR, error)

    def writes_fail(self, error: int) -> None:
        """From now on writes to the queue's files give this errno; 0: they work."""
        self._order(WRITE_ERROR, error)

    def clock_is_ahead(self, seconds: int) -> None:
        """From now on it is so much later (earlier) than it is."""
        self._order(CLOCK, seconds)

    @property
    def is_obeyed(self) -> bool:
        """Whether a process has begun to obey."""
        return bool(ORDERS.unpack_from(self._orders)[IS_LOADED])

    @property
    def failed(self) -> int:
        """How many calls were made to fail."""
        count: int = ORDERS.unpack_from(self._orders)[FAILED]
        return count
