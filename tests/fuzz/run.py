"""Fuzzes: python -m tests.fuzz.run [--minutes N] [--jobs N] [TARGET...]. Prints executions a target; fails on any finding.

What a run learns stays in build/fuzz/corpus/TARGET, what it finds in build/fuzz/findings.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from . import building, growth

FINDINGS = building.BUILD / "findings"
LIMITS = ["-timeout=25", "-rss_limit_mb=2048", "-max_len=4096", "-print_final_stats=1"]
_EXECUTED = re.compile(rb"stat::number_of_executed_units: (\d+)")
_COVERED = re.compile(rb"cov: (\d+) ft: (\d+)")
_WRITTEN = re.compile(rb"Test unit written to (\S+)")


class Outcome(NamedTuple):
    """One target's run. findings: files that hold an input which must be looked at."""

    target: str
    executions: int
    covered: int
    findings: list[str]
    has_failed: bool
    log: pathlib.Path


def fuzz(target: str, seconds: int, words: list[str]) -> Outcome:
    """Run one target for so long, or until it finds something."""
    learned = building.BUILD / "corpus" / target
    learned.mkdir(parents=True, exist_ok=True)
    FINDINGS.mkdir(exist_ok=True)
    log = building.BUILD / f"{target}.log"
    options = [*LIMITS, f"-max_total_time={seconds}", f"-artifact_prefix={FINDINGS}/{target}-"]
    options += [f"-dict={building.dictionary(target)}", str(learned), str(building.corpus(target))]
    with open(log, "wb") as output:
        done = subprocess.run(
            [*words, *options], cwd=building.ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(building.ROOT)},
        )  # fmt: skip
    said = log.read_bytes()
    executed, covered = _EXECUTED.findall(said), _COVERED.findall(said)
    return Outcome(
        target, int(executed[-1]) if executed else 0, int(covered[-1][0]) if covered else 0,
        [each.decode() for each in _WRITTEN.findall(said)], done.returncode != 0, log,
    )  # fmt: skip


def _tell(outcome: Outcome) -> None:
    verdict = "FAILED, see " + str(outcome.log) if outcome.has_failed else "nothing found"
    print(f"{outcome.target:12} {outcome.executions:10} executions, {outcome.covered:5} edges: {verdict}", flush=True)
    for path in outcome.findings:
        print(f"             input: {path}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description="Fuzz everything that reads foreign bytes.")
    parser.add_argument("--minutes", type=float, default=1.0, help="for each target")
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all if none is named: " + " ".join(building.TARGETS))
    asked = parser.parse_args()
    for name in asked.targets:
        if name not in building.TARGETS:
            parser.error(f"there is no target {name}")
    names = asked.targets or list(building.TARGETS)
    if not building.has_atheris():
        print("atheris cannot be installed: Python targets run unguided", flush=True)
    slow = [text for name in names if name in building.PYTHON for text in growth.too_slow(name, growth.LONG)]
    print("".join(f"{text}\n" for text in slow), end="", flush=True)
    words = {name: building.command(name) for name in names}
    with ThreadPoolExecutor(asked.jobs) as pool:
        runs = [pool.submit(fuzz, name, int(asked.minutes * 60), words[name]) for name in names]
        outcomes = []
        for run in runs:
            outcomes.append(run.result())
            _tell(outcomes[-1])
    print(f"{sum(each.executions for each in outcomes)} executions in all")
    return 1 if slow or any(each.has_failed for each in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
