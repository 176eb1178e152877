"""RESULTS.md: what the tools found, each its own section, with the machine it was found on. Knows the floors."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .load import LARGE_BYTES
from .measure import Comparison, Median, Result

FILE = Path(__file__).with_name("RESULTS.md")
TREE = Path(__file__).resolve().parents[2]
TITLE = "# Results\n\nWritten by the tools themselves (`--results`): each replaces its own section.\n"
CPU_FLOOR = 0.45
RATE_FLOORS = {"accept": 2.5, "maildir": 2.0, "relay": 1.5, "fanout": 1.5, "large": 1.5}
LATENCY_FLOOR = 1.0


def floor(workload: str, ratio: str) -> float | None:
    """What this ratio must reach (a rate) or not exceed (anything else); None where nothing was asked."""
    if ratio == "rate_ratio":
        return RATE_FLOORS.get(workload)
    return CPU_FLOOR if ratio == "cpu_ratio" else LATENCY_FLOOR


def is_met(workload: str, ratio: str, value: float) -> bool:
    wanted = floor(workload, ratio)
    if wanted is None:
        return True
    return value >= wanted if ratio == "rate_ratio" else value <= wanted


@dataclass(frozen=True, slots=True)
class Line:
    """One figure that has a floor: what it is, what was found, what must hold, and whether it does."""

    what: str
    found: str
    floor: str
    is_met: bool

    def row(self) -> str:
        return f"| {self.what} | {self.found} | {self.floor} | {'met' if self.is_met else '**not met**'} |"

    def line(self) -> str:
        return f"{self.what}: {self.found} ({self.floor}: {'met' if self.is_met else 'NOT MET'})"


def table(lines: Iterable[Line]) -> list[str]:
    return ["| what | found | floor | |", "|---|---|---|---|", *(each.row() for each in lines)]


def facts(folder: Path, versions: dict[str, str]) -> list[str]:
    """When and on what: no name and no path of the machine."""
    memory = re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    said = {
        "Date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "Machine": f"{os.cpu_count()} cores ({cpu[1] if cpu else platform.machine()}), "
                   f"{int(memory[1]) // (1 << 20) if memory else '?'} GiB, load average {os.getloadavg()[0]:.1f} at the end",
        "System": f"{_release()}, kernel {platform.release()}, {_file_system(folder)}",
        "Versions": ", ".join(f"{name} {version}" for name, version in {
            "Python": platform.python_version(), "aiosmtpd": _version("aiosmtpd"), "dnspython": _version("dnspython"),
        }.items() | versions.items()),
        "Commit": _commit(),
    }  # fmt: skip
    return [f"- {name}: {text}" for name, text in said.items()]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _release() -> str:
    return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")


def _file_system(folder: Path) -> str:
    found = subprocess.run(["findmnt", "-no", "FSTYPE,OPTIONS", "-T", folder], capture_output=True, text=True).stdout.split()
    return f"{found[0]} ({found[1]})" if len(found) == 2 else "unknown file system"


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", TREE, *words], capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "qmaild", "native")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + (" with changes" if changed else "")


def write_section(title: str, body: list[str], file: Path = FILE) -> None:
    """Put the section `## title` in place of the one before it, or at the end."""
    text = file.read_text() if file.exists() else TITLE
    section = f"## {title}\n\n" + "\n".join(body).rstrip() + "\n"
    begin = re.search(rf"(?m)^## {re.escape(title)}\n", text)
    if not begin:
        text = text.rstrip("\n") + "\n\n" + section
    else:
        end = re.compile(r"(?m)^## ").search(text, begin.end())
        text = text[: begin.start()] + section + ("\n" + text[end.start() :] if end else "")
    file.write_text(text)


# --- the benchmark's own section


def lines_of(compared: Iterable[Comparison]) -> list[Line]:
    """Every ratio, beside its floor."""
    found = []
    for each in compared:
        for ratio, value in each.ratios().items():
            wanted = floor(each.workload, ratio)
            sign = ">=" if ratio == "rate_ratio" else "<="
            found.append(Line(
                f"{each.workload}, {each.sessions} session{'s' if each.sessions > 1 else ''}, {ratio.replace('_', ' ')}",
                f"{value:.2f}", f"{sign} {wanted:.2f}" if wanted else "none", is_met(each.workload, ratio, value),
            ))  # fmt: skip
    return found


def benchmark(
    results: list[Result], compared: list[Comparison], proofs: list[str], folder: Path, versions: dict[str, str]
) -> list[str]:
    medians = ["| workload | sessions | qmaild | Postfix |", "|---|---|---|---|"]
    medians += [f"| {each.workload} | {each.sessions} | {_figures(each.ours)} | {_figures(each.theirs)} |" for each in compared]
    return [
        *facts(folder, versions), "", "Ratios of the medians, qmaild divided by Postfix:", "", *table(lines_of(compared)), "",
        "Medians:", "", *medians, "", "The order of sync and 250, traced:", "", "```", *(proofs or ["not run"]), "```", "",
        "Every run, in order:", "", "```", *(each.line() for each in results), "```",
    ]  # fmt: skip


def _figures(of: Median) -> str:
    if of.is_lone:
        return f"p50 {of.p50_ms:.1f} ms, p99 {of.p99_ms:.1f} ms, CPU {of.cpu_ms:.2f} ms"
    size = f" ({of.mb_per_second:.0f} MB/s)" if of.mb_per_second else ""
    unit = f", {of.cpu_ms / (LARGE_BYTES / 1e6):.2f} a MB" if of.mb_per_second else ""
    return f"{of.rate:.0f}/s{size}, CPU {of.cpu_ms:.3f} ms{unit}"
