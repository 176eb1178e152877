"""Control groups of the tests' own: one for each machine, and groups that hold a process to little memory.

Without one, the root of every container's tree would be the same group of the host: a service of one
machine would never be seen empty while its namesake in another runs.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import time
from pathlib import Path

TOP = Path("/sys/fs/cgroup")
# Where systemd keeps its tree: version 2 alone, version 2 beside 1, and the named hierarchy of version 1.
TREES = (TOP, TOP / "unified", TOP / "systemd")
END_SECONDS = 10  # what is killed dies within milliseconds, unless the disk is very busy


class ControlGroup:
    """One group in each of systemd's trees that this host has."""

    def __init__(self, name: str) -> None:
        trees = [tree for tree in TREES if (tree / "cgroup.procs").exists()]
        self._folders = [tree / f"qmaild-test-{os.getpid()}-{name}" for tree in trees]
        for folder in self._folders:
            folder.mkdir(exist_ok=True)

    def argv(self, argv: list[str]) -> list[str]:
        """The same command, started inside the group."""
        files = [str(folder / "cgroup.procs") for folder in self._folders]
        enter = 'n=$0; while [ "$n" -gt 0 ]; do echo $$ >"$1"; shift; n=$((n - 1)); done; exec "$@"'
        return ["/bin/sh", "-c", enter, str(len(files)), *files, *argv]

    def remove(self) -> None:
        """Remove it now, or at the end of the run if something in it is still dying."""
        for folder in self._folders:
            if not remove_group(folder):
                atexit.register(_end_group, folder)


class MemoryGroup:
    """A group whose processes may take so many bytes of memory more than they had before they came; there is no swap."""

    def __init__(self, name: str, limit: int) -> None:
        is_first = (TOP / "memory/memory.limit_in_bytes").exists()  # of the two versions
        self._top = TOP / "memory" if is_first else TOP
        self._limits = {"memory.limit_in_bytes": "-1"} if is_first else {"memory.max": "max"}
        self._kills = "memory.oom_control" if is_first else "memory.events"
        if not is_first:
            (TOP / "cgroup.subtree_control").write_text("+memory")
        self._folder = self._top / f"qmaild-test-{os.getpid()}-{name}"
        self._folder.mkdir()
        atexit.register(_end_group, self._folder)
        for file in [*self._limits, *(() if is_first else ("memory.swap.max",))]:
            (self._folder / file).write_text(str(limit if file in self._limits else 0))
        self._limit = limit

    def hold(self, process: int) -> None:
        """From now on what this process takes is counted."""
        (self._folder / "cgroup.procs").write_text(str(process))

    def lift(self) -> None:
        """From now on there is no limit."""
        for file, unlimited in self._limits.items():
            (self._folder / file).write_text(unlimited)

    @property
    def kills(self) -> int:
        """How many processes were killed because there was no more."""
        words = (self._folder / self._kills).read_text().split()
        return int(words[words.index("oom_kill") + 1])

    def remove(self) -> None:
        """Let its processes go, and be gone."""
        self.lift()
        for process in _processes(self._folder):
            (self._top / "cgroup.procs").write_text(str(process))
        remove_group(self._folder)


def remove_group(folder: Path) -> bool:
    """Remove a group and those below it. False if one of them still holds a process."""
    for path, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(path)
    return not folder.exists()


def remove_groups_of(pid: str) -> None:
    """End what a dead run has left running in its groups, and remove them in every tree."""
    for tree in TREES:
        for folder in tree.glob(f"qmaild-test-{pid}-*"):
            _end_group(folder)


def _end_group(folder: Path) -> None:
    deadline = time.monotonic() + END_SECONDS
    while not remove_group(folder) and time.monotonic() < deadline:
        for process in _processes(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.02)


def _processes(folder: Path) -> list[int]:
    found = []
    for procs in folder.rglob("cgroup.procs"):
        # A group may go, or be one of threads, while we look.
        with contextlib.suppress(OSError):
            found += [int(word) for word in procs.read_text().split()]
    return [process for process in found if process > 0]
