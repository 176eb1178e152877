"""What a run costs and how runs compare. Knows control groups and medians; no server and no load."""

from __future__ import annotations

import contextlib
import math
import os
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
LARGE = 1 << 20  # bytes of a body from which on a run is told in megabytes too


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
    """One run: how many units (messages, or deliveries of a fan-out) in how long, at which cost.

    Of lone messages the latencies count, not the rate: from before connect() to the file, in milliseconds.
    """

    peer: str
    workload: str
    sessions: int
    units: int
    seconds: float
    cpu_seconds: float
    body_bytes: int = 4096
    p50_ms: float = 0.0
    p99_ms: float = 0.0

    @property
    def rate(self) -> float:
        return self.units / self.seconds

    @property
    def cpu_ms(self) -> float:
        return self.cpu_seconds * 1000 / self.units

    def line(self) -> str:
        return f"run {self.workload} sessions={self.sessions} peer={self.peer} units={self.units} {median([self]).text()}"


@dataclass(frozen=True, slots=True)
class Median:
    rate: float
    cpu_ms: float
    mb_per_second: float
    p50_ms: float
    p99_ms: float

    @property
    def is_lone(self) -> bool:
        return self.p50_ms > 0

    def text(self) -> str:
        if self.is_lone:
            return f"p50_ms={self.p50_ms:.1f} p99_ms={self.p99_ms:.1f} cpu_ms={self.cpu_ms:.3f}"
        large = f" mb={self.mb_per_second:.0f}/s" if self.mb_per_second > 0 else ""
        return f"rate={self.rate:.0f}/s{large} cpu_ms={self.cpu_ms:.3f}"


def median(results: Iterable[Result]) -> Median:
    chosen = list(results)
    return Median(
        statistics.median(r.rate for r in chosen), statistics.median(r.cpu_ms for r in chosen),
        statistics.median(r.rate * r.body_bytes / 1e6 if r.body_bytes >= LARGE else 0.0 for r in chosen),
        statistics.median(r.p50_ms for r in chosen), statistics.median(r.p99_ms for r in chosen),
    )  # fmt: skip


def percentile(values: list[float], share: float) -> float:
    """The value that this share of all do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Our median and theirs of one workload. Ratios: ours divided by theirs."""

    workload: str
    sessions: int
    ours: Median
    theirs: Median

    def ratios(self) -> dict[str, float]:
        """By name. More is better of a rate, less of everything else."""
        cpu = {"cpu_ratio": self.ours.cpu_ms / self.theirs.cpu_ms}
        if self.ours.is_lone:
            return {"p50_ratio": self.ours.p50_ms / self.theirs.p50_ms, "p99_ratio": self.ours.p99_ms / self.theirs.p99_ms} | cpu
        return {"rate_ratio": self.ours.rate / self.theirs.rate} | cpu

    def line(self) -> str:
        figures = " ".join(f"{name}={ratio:.2f}" for name, ratio in self.ratios().items())
        return f"bench {self.workload} sessions={self.sessions} {figures}"


def comparisons(results: list[Result], ours: str = "qmaild", theirs: str = "postfix") -> list[Comparison]:
    """One for each workload and number of sessions that both sides have run, in that order."""
    found = []
    for workload, sessions in dict.fromkeys((r.workload, r.sessions) for r in results):
        sides = {
            side: [r for r in results if (r.peer, r.workload, r.sessions) == (side, workload, sessions)]
            for side in (ours, theirs)
        }
        if all(sides.values()):
            found.append(Comparison(workload, sessions, median(sides[ours]), median(sides[theirs])))
    return found
