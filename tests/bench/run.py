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

from . import results as report
from .load import (
    DEFAULT_WORKLOADS,
    EVERY,
    LARGE_BYTES,
    WORKLOADS,
    LoadError,
    SenderCall,
    Sink,
    Workload,
    compile_program,
    send,
    send_marked,
)
from .measure import Result, comparisons, median, percentile
from .peer import Peer, free_port
from .peer_postfix import Postfix, postfix_root, postfix_version
from .peer_qmaild import Qmaild
from .tracing import Proof, processes_of, prove

PROOF_MESSAGES = 300
PROOF_LARGE = 40  # the trace has every byte of them twice
PROOF_SESSIONS = 20
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
    parser.add_argument("--rest", type=float, default=5, help="seconds between runs that delete files (5)")
    parser.add_argument("--json", type=Path, help="also write every run there")
    parser.add_argument(
        "--proof", action=argparse.BooleanOptionalAction, default=True,
        help="first trace qmaild: is every 250 behind the sync of its message? (yes)",
    )
    parser.add_argument("--results", type=Path, nargs="?", const=report.FILE, help="also write the section of RESULTS.md")
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


def one_run(peer: Peer, workload: Workload, wanted: int, sessions: int, sender: Path) -> Result:
    """Start a peer, warm it up, measure one load, stop it."""
    messages = workload.messages(wanted, sessions)
    warm_up = workload.warm_up(messages)
    root = postfix_root()
    taken: list[float] = []
    try:
        peer.start(workload)
        send(root, workload, peer.port, warm_up, min(sessions, warm_up))
        peer.wait_done(workload, warm_up)
        time.sleep(SETTLE)
        cpu, begun = peer.group.seconds(), time.monotonic()
        if workload.is_lone:
            taken = send_lone(peer, workload, messages, sender)
        else:
            send(root, workload, peer.port, messages, sessions)
        peer.wait_done(workload, warm_up + messages)
        seconds = time.monotonic() - begun
        time.sleep(SETTLE)
        cpu = peer.group.seconds() - cpu
    finally:
        peer.stop()
    latencies = (percentile(taken, 0.5), percentile(taken, 0.99)) if taken else (0.0, 0.0)
    units = messages * workload.recipients
    return Result(peer.name, workload.name, sessions, units, seconds, cpu, workload.body_bytes, *latencies)


def send_lone(peer: Peer, workload: Workload, messages: int, sender: Path) -> list[float]:
    """Send one message at a time, by the clock; milliseconds from before connect() to the file, of each."""
    call = SenderCall(sender, peer.port, messages, workload.forward_paths[0], "lone", every=EVERY, place=peer.maildirs()[0])
    sent = send_marked(call)
    if not all(each.placed for each in sent):
        raise LoadError(f"{peer.name}: a lone message did not arrive")
    return [each.placed / 1000 for each in sent]


def proofs(sink: Sink, folder: Path, sender: Path) -> list[Proof]:
    """qmaild under strace: small messages, then large ones. Its figures are no figures: a tracer slows it down."""
    workload = WORKLOADS["accept"]
    peer = Qmaild(folder / "proof", sink)
    found = []
    try:
        peer.start(workload)
        send_marked(SenderCall(sender, peer.port, 1, workload.forward_paths[0], "warm"))
        for name, messages, size in (("small", PROOF_MESSAGES, workload.body_bytes), ("large", PROOF_LARGE, LARGE_BYTES)):
            call = SenderCall(sender, peer.port, messages, workload.forward_paths[0], name, PROOF_SESSIONS, size)
            found.append(prove(processes_of(peer.group.processes(), "queue", "smtpd"), call, folder))
            print(found[-1].line(), flush=True)
    finally:
        peer.stop()
    if faults := [fault for proof in found for fault in proof.faults]:
        raise LoadError("a 250 came before its sync had returned:\n" + "\n".join(faults[:10]))
    return found


def measure(given: argparse.Namespace, folder: Path) -> tuple[list[Result], list[Proof]]:
    sender, program = compile_program("sender", folder), compile_program("sink", folder)
    sink = Sink(program, free_port(), folder)
    sides: dict[str, Callable[[Path], Peer]] = {
        "qmaild": lambda place: Qmaild(place, sink),
        "postfix": lambda place: Postfix(place, sink, program),
    }
    chosen = [given.only] if given.only else list(sides)
    results: list[Result] = []
    proven: list[Proof] = []
    try:
        if given.proof and "qmaild" in chosen:
            proven = proofs(sink, folder, sender)
        for name, sessions in plan(given):
            for side in chosen * given.runs:
                if results and not WORKLOADS[results[-1].workload].held:
                    os.sync()
                    time.sleep(given.rest)
                # A short name: paths of sockets end at 107 bytes.
                peer = sides[side](folder / f"{side[0]}{len(results)}")
                results.append(one_run(peer, WORKLOADS[name], given.messages, sessions, sender))
                print(results[-1].line(), flush=True)
    finally:
        sink.stop()
    return results, proven


def plan(given: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """What is measured: workloads and how many sessions each has."""
    for name in given.workloads:
        for sessions in [WORKLOADS[name].at_once] if WORKLOADS[name].at_once else given.sessions:
            yield name, sessions


def summary(results: list[Result]) -> Iterator[str]:
    """The medians of each side, before the closing lines that compare them."""
    for peer, workload, sessions in dict.fromkeys((r.peer, r.workload, r.sessions) for r in results):
        same = [r for r in results if (r.peer, r.workload, r.sessions) == (peer, workload, sessions)]
        middle = median(same)
        yield (f"median {workload} sessions={sessions} peer={peer} runs={len(same)} "
               f"{middle.text()}")  # fmt: skip


def main(argv: list[str]) -> int:
    given = options(argv)
    if os.geteuid() != 0:
        print("bench: root only (it makes namespaces and control groups)", file=sys.stderr)
        return 100
    try:
        with workplace(given.folder) as folder:
            results, proven = measure(given, folder)
            compared = comparisons(results)
            if given.results:
                versions = {} if given.only == "qmaild" else {"Postfix": postfix_version()}
                text = report.benchmark(results, compared, [each.line() for each in proven], folder, versions)
                report.write_section("Benchmark", text, given.results)
    except (LoadError, RootError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 111
    if given.json:
        given.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    for line in [*summary(results), *(each.line() for each in compared)]:
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
