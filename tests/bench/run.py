"""The benchmark: /usr/bin/python3 -m tests.bench.run [options]. Root only; README.md says what it measures.

The sides take turns within each run, each time in a fresh folder. Nothing is deleted until all is measured:
creating files in an ext4 that has just deleted many is dearer, whoever deleted them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from tests.system.roots import CACHE, RootError

from .load import DEFAULT_WORKLOADS, WARM_UP, WORKLOADS, LoadError, Sink, Workload, compile_sink, send
from .measure import Result, closing_lines, median
from .peer import Peer, free_port
from .peer_postfix import Postfix, postfix_root
from .peer_qmaild import Qmaild

SETTLE = 0.3  # what a server still does right after the last message belongs to its cost


def options(argv: list[str]) -> argparse.Namespace:
    def words(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(prog="bench", description="qmaild and Debian's Postfix side by side")
    parser.add_argument("--runs", type=int, default=3, help="runs of each side; figures are medians (3)")
    parser.add_argument(
        "--messages", type=int, default=3000, help="messages a run; a fan-out sends one a session"
    )
    parser.add_argument("--workloads", type=words, default=list(DEFAULT_WORKLOADS), help=",".join(WORKLOADS))
    parser.add_argument("--sessions", type=words, default=["20", "100"], help="20,100")
    parser.add_argument("--only", choices=("qmaild", "postfix"), help="one side alone, without closing lines")
    parser.add_argument("--rest", type=float, default=10, help="seconds between runs that delete files (10)")
    parser.add_argument("--json", type=Path, help="also write every run there")
    parser.add_argument(
        "--folder", type=Path, default=CACHE / "bench", help="where to work: the disk measured"
    )
    given = parser.parse_args(argv)
    if unknown := set(given.workloads) - set(WORKLOADS):
        parser.error(f"no such workload: {', '.join(sorted(unknown))} (there are {', '.join(WORKLOADS)})")
    if given.runs < 1 or given.messages < 1:
        parser.error("at least one run and one message")
    given.sessions = [int(number) for number in given.sessions]
    return given


@contextlib.contextmanager
def workplace(parent: Path) -> Iterator[Path]:
    """A folder on the measured disk. Servers with users of their own must get through to it."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="b", dir=parent))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def one_run(peer: Peer, workload: Workload, wanted: int, sessions: int) -> Result:
    """Start a peer, warm it up, measure one load, stop it."""
    messages = workload.messages(wanted, sessions)
    warm_up = min(WARM_UP, messages)
    root = postfix_root()
    try:
        peer.start(workload)
        send(root, workload, peer.port, warm_up, min(sessions, warm_up))
        peer.wait_done(workload, warm_up)
        time.sleep(SETTLE)
        cpu, begun = peer.group.seconds(), time.monotonic()
        send(root, workload, peer.port, messages, sessions)
        peer.wait_done(workload, warm_up + messages)
        seconds = time.monotonic() - begun
        time.sleep(SETTLE)
        cpu = peer.group.seconds() - cpu
    finally:
        peer.stop()
    return Result(peer.name, workload.name, sessions, messages * workload.recipients, seconds, cpu)


def measure(given: argparse.Namespace, folder: Path) -> list[Result]:
    program = compile_sink(folder)
    sink = Sink(program, free_port(), folder)
    sides: dict[str, Callable[[Path], Peer]] = {
        "qmaild": lambda place: Qmaild(place, sink),
        "postfix": lambda place: Postfix(place, sink, program),
    }
    chosen = [given.only] if given.only else list(sides)
    results: list[Result] = []
    try:
        for name in given.workloads:
            for sessions in given.sessions:
                for _ in range(given.runs):
                    for side in chosen:
                        if results and not WORKLOADS[results[-1].workload].held:
                            os.sync()
                            time.sleep(given.rest)
                        # A short name: paths of sockets end at 107 bytes.
                        peer = sides[side](folder / f"{side[0]}{len(results)}")
                        results.append(one_run(peer, WORKLOADS[name], given.messages, sessions))
                        print(results[-1].line(), flush=True)
    finally:
        sink.stop()
    return results


def summary(results: list[Result]) -> Iterator[str]:
    """The medians of each side, before the closing lines that compare them."""
    for peer, workload, sessions in dict.fromkeys((r.peer, r.workload, r.sessions) for r in results):
        same = [r for r in results if (r.peer, r.workload, r.sessions) == (peer, workload, sessions)]
        middle = median(same)
        yield (f"median {workload} sessions={sessions} peer={peer} runs={len(same)} "
               f"rate={middle.rate:.0f}/s cpu_ms={middle.cpu_ms:.3f}")  # fmt: skip


def main(argv: list[str]) -> int:
    given = options(argv)
    if os.geteuid() != 0:
        print("bench: root only (it makes namespaces and control groups)", file=sys.stderr)
        return 100
    try:
        with workplace(given.folder) as folder:
            results = measure(given, folder)
    except (LoadError, RootError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 111
    if given.json:
        given.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    for line in [*summary(results), *closing_lines(results)]:
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
