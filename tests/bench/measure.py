"""What a run costs and how runs compare. Knows control groups and medians; no server and no load."""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


class CpuGroup:
    """A control group of one server: everything started in it is counted, also after it has ended.

    Version 2 (cpu.stat) where it is mounted, alone or beside version 1; else the cpuacct controller.
    """

    def __init__(self, name: str) -> None:
        for top, counter in ((CGROUPS, "cpu.stat"), (CGROUPS / "unified", "cpu.stat"),
                             (CGROUPS / "cpuacct", "cpuacct.usage")):  # fmt: skip
            if counter == "cpu.stat" and not (top / "cgroup.controllers").exists():
                continue
            folder = top / f"qmaild-bench-{os.getpid()}-{name}"
            with contextlib.suppress(OSError):
                folder.mkdir(exist_ok=True)
                if (folder / counter).exists():
                    self._folder, self._counter = folder, folder / counter
                    return
        raise RuntimeError("no control group can be made here: CPU per message cannot be measured")

    def argv(self, argv: list[str]) -> list[str]:
        """The same command, started inside the group."""
        return ["/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self._folder / "cgroup.procs"), *argv]

    def seconds(self) -> float:
        """CPU so far, user and system together, of all processes that ever were inside."""
        text = self._counter.read_text()
        if self._counter.name == "cpuacct.usage":
            return int(text) / 1e9
        return int(dict(line.split() for line in text.splitlines())["usage_usec"]) / 1e6

    def processes(self) -> list[int]:
        return [int(pid) for pid in (self._folder / "cgroup.procs").read_text().split()]

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self._folder.rmdir()


@dataclass(frozen=True, slots=True)
class Result:
    """One run: how many units (messages, or deliveries of a fan-out) in how long, at which cost."""

    peer: str
    workload: str
    sessions: int
    units: int
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        return self.units / self.seconds

    @property
    def cpu_ms(self) -> float:
        return self.cpu_seconds * 1000 / self.units

    def line(self) -> str:
        return (f"run {self.workload} sessions={self.sessions} peer={self.peer} units={self.units} "
                f"rate={self.rate:.0f}/s cpu_ms={self.cpu_ms:.3f}")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Median:
    rate: float
    cpu_ms: float


def median(results: Iterable[Result]) -> Median:
    chosen = list(results)
    return Median(statistics.median(r.rate for r in chosen), statistics.median(r.cpu_ms for r in chosen))


def closing_lines(results: list[Result], ours: str = "qmaild", theirs: str = "postfix") -> list[str]:
    """One line for each workload and number of sessions that both sides have run, in that order."""
    lines = []
    for workload, sessions in dict.fromkeys((r.workload, r.sessions) for r in results):
        sides = {
            side: [r for r in results if (r.peer, r.workload, r.sessions) == (side, workload, sessions)]
            for side in (ours, theirs)
        }
        if all(sides.values()):
            us, them = median(sides[ours]), median(sides[theirs])
            lines.append(
                f"bench {workload} sessions={sessions} "
                f"rate_ratio={us.rate / them.rate:.2f} cpu_ratio={us.cpu_ms / them.cpu_ms:.2f}"
            )
    return lines
