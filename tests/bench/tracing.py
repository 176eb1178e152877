"""A running server under strace while sender.c sends to it, and the verdict. Knows processes; proof.py reads the trace."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .load import LoadError, SenderCall, send_marked
from .proof import CALLS, Trace

STRING_BYTES = 4 << 20  # of one write that strace writes down: a block of the queue has a few hundred kilobytes
ATTACH_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of it: messages sent, syncs that returned 0 meanwhile, and what is wrong."""

    messages: int
    sessions: int
    body_bytes: int
    syncs: int
    faults: list[str]

    def line(self) -> str:
        return (f"proof bytes={self.body_bytes} sessions={self.sessions} messages={self.messages} "
                f"covered={self.messages - len(self.faults)} syncs={self.syncs}")  # fmt: skip


def processes_of(pids: list[int], *services: str) -> list[int]:
    """Those of these processes that run one of our services (workers are forks and called alike)."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if any(f"qmaild.services.{service}".encode() in words for service in services):
                found.append(pid)
    return found


@contextlib.contextmanager
def traced(pids: list[int], output: Path) -> Iterator[None]:
    """strace on all threads of these processes, from when it holds them all until the block is left."""
    if not pids:
        raise LoadError("nothing runs that could be traced")
    argv = ["strace", "-f", "-tt", "-yy", "-s", str(STRING_BYTES), "-o", str(output), "-e", "trace=" + ",".join(CALLS)]
    said = output.with_suffix(".said")
    with said.open("wb") as out:
        tracer = subprocess.Popen([*argv, *(f"--attach={pid}" for pid in pids)], stdout=out, stderr=out)
    try:
        _await_attached(tracer, pids, said)
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait()


def _await_attached(tracer: subprocess.Popen[bytes], pids: list[int], said: Path) -> None:
    deadline = time.monotonic() + ATTACH_SECONDS
    while not set(map(str, pids)) <= set(re.findall(r"Process (\d+) attached", said.read_text())):
        if tracer.poll() is not None or time.monotonic() > deadline:
            raise LoadError(f"strace cannot follow {pids}:\n{said.read_text()[-2000:]}")
        time.sleep(0.02)


def prove(pids: list[int], call: SenderCall, folder: Path) -> Proof:
    """Trace queue and smtpd while the messages of `call` are sent; see that each 250 followed its sync."""
    output = folder / f"trace.{call.name}"
    with traced(pids, output):
        sent = send_marked(call)
    trace = Trace()
    with output.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            trace.feed(line)
    os.unlink(output)
    return Proof(call.messages, call.sessions, call.body_bytes, trace.syncs, trace.faults(sent))
