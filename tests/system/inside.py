"""Our services of a booted machine as the host sees them: their processes, and what they say. No program is started.

A kill at a known moment, and a count taken right before it, need both within a millisecond.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from pathlib import Path

from qmaild.protocol import frames, netstring

from .machines import Machine

ASK_SECONDS = 5.0
MODULE = re.compile(rb"qmaild\.services\.(\w+)")


def main_processes(machine: Machine) -> dict[str, int]:
    """The main process of each service that runs: its name, its pid on the host."""
    found = {}
    children = Path(f"/proc/{machine.pid1}/task/{machine.pid1}/children")
    for pid in children.read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            named = MODULE.search(Path(f"/proc/{pid}/cmdline").read_bytes())
            if named:
                found[named[1].decode()] = int(pid)
    return found


def kill(machine: Machine, service: str) -> bool:
    """SIGKILL for the main process of a service. False if there is none."""
    pid = main_processes(machine).get(service)
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # it has ended by itself
        return False
    return True


def ask(machine: Machine, service: str, *words: str) -> str | None:
    """What a service answers to a command of qmailctl's. None if it does not, as one that starts may be slow to."""
    reader = netstring.Reader(frames.MAX_FRAME)
    asked = frames.Command(1, [word.encode() for word in words])
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(ASK_SECONDS)
            sock.connect(f"/proc/{machine.pid1}/root/run/qmaild/control/{service}.sock")
            sock.sendall(frames.encode(frames.Hello(frames.VERSION, b"qmailctl")) + frames.encode(asked))
            while data := sock.recv(1 << 16):
                for payload in reader.feed(data):
                    answer = frames.decode(payload)
                    if isinstance(answer, frames.Hello):
                        continue
                    assert isinstance(answer, frames.Answer)
                    return answer.text.decode()
    except OSError:
        pass
    return None


def count(machine: Machine, service: str, pattern: str) -> int | None:
    """A number in a service's status: what stands for the first group of the pattern."""
    found = re.search(pattern, ask(machine, service, "status") or "")
    return int(found[1]) if found else None


def queued(machine: Machine) -> int | None:
    """Messages in the queue; None if it cannot be asked at this moment."""
    return count(machine, "queue", r"^(\d+) messages")
