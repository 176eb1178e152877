"""The load: what is sent, by Postfix's smtp-source or sender.c, and where it ends up. Knows no server but its port."""

from __future__ import annotations

import mmap
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .proof import Sent

BYTES = 4096
LARGE_BYTES = 1 << 20
USERS = ("u1", "u2", "u3", "u4")
LOCAL_DOMAIN = "local.test"
SINK_DOMAIN = "relay.test"
FAN_OUT = 1000  # recipients of one message; Postfix's own limit for a transaction
DONE_SECONDS = 300
WARM_UP = 100  # messages before the clock starts: a server that is up is measured, not one that comes up
WARM_UP_FAN_OUT = 2  # of 1,000 recipients each
EVERY = 100_000  # microseconds between lone messages


@dataclass(frozen=True, slots=True)
class Workload:
    """What is measured. A unit is one message, or in a fan-out one delivery.

    share: of the messages asked for, how many it sends. at_once: sessions, whatever is asked for. is_lone: one message
    at a time, by the clock; what counts is how long it takes.
    """

    name: str
    forward_paths: tuple[str, ...]
    held: bool = False
    recipients: int = 1
    reuse: bool = False
    body_bytes: int = BYTES
    share: float = 1.0
    at_once: int = 0
    is_lone: bool = False

    @property
    def is_relayed(self) -> bool:
        return not self.held and self.forward_paths[0].endswith("@" + SINK_DOMAIN)

    def messages(self, wanted: int, sessions: int) -> int:
        """How many messages a run sends: a fan-out one for each session."""
        return sessions if self.recipients > 1 else max(1, round(wanted * self.share))

    def warm_up(self, messages: int) -> int:
        """How many of a run's messages are sent once more beforehand."""
        return min(WARM_UP_FAN_OUT if self.recipients > 1 else round(WARM_UP * self.share) or 1, messages)


_SINK = (f"user@{SINK_DOMAIN}",)
_MAILDIRS = tuple(f"{user}@{LOCAL_DOMAIN}" for user in USERS)
WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("accept", _SINK, held=True),
        Workload("accept-reused", _SINK, held=True, reuse=True),
        Workload("maildir", _MAILDIRS),
        Workload("relay", _SINK),
        Workload("fanout", _SINK, recipients=FAN_OUT),
        Workload("large", _SINK, held=True, body_bytes=LARGE_BYTES, share=0.1, at_once=20),
        Workload("latency", _MAILDIRS[:1], share=0.07, at_once=1, is_lone=True),
    )
}
DEFAULT_WORKLOADS = ("accept", "maildir", "relay", "fanout", "large", "latency")


class LoadError(RuntimeError):
    """The load did not go through; a run like that has no figures."""


def send(root: Path, workload: Workload, port: int, messages: int, sessions: int) -> None:
    """Send `messages` over `sessions` sessions at once and wait for every reply.

    The forward-paths share both equally. `root` is where Postfix's programs are.
    """
    paths = workload.forward_paths
    shares = len(paths) if sessions >= len(paths) else 1
    started = [
        subprocess.Popen(
            _smtp_source(root, workload, n, shares, port, messages, sessions),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for n in range(shares)
    ]  # fmt: skip
    for process in started:
        printed, _ = process.communicate()
        if process.returncode != 0:
            raise LoadError(f"smtp-source: exit {process.returncode}: {printed[-2000:]}")


def _smtp_source(
    root: Path, workload: Workload, n: int, shares: int, port: int, messages: int, sessions: int
) -> list[str]:
    argv = ["chroot", str(root), "/usr/sbin/smtp-source", "-4", "-l", str(workload.body_bytes),
            "-s", str(_share(sessions, shares, n)), "-m", str(_share(messages, shares, n)),
            "-f", "sender@client.test", "-t", workload.forward_paths[n]]  # fmt: skip
    if workload.reuse:
        argv.append("-d")
    if workload.recipients > 1:
        argv += ["-r", str(workload.recipients)]
    return [*argv, f"127.0.0.1:{port}"]


def _share(total: int, shares: int, n: int) -> int:
    return total // shares + (n < total % shares)


class Sink:
    """Our sink (sink.c) as a process, and its counters."""

    def __init__(self, program: Path, port: int, folder: Path) -> None:
        self.port = port
        self.file = counters = folder / "sink.counters"
        self._process = subprocess.Popen(
            [program, "smtp", str(port), counters], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise LoadError("the sink did not start")
        with counters.open("rb") as file:
            self._counters = mmap.mmap(file.fileno(), 24, access=mmap.ACCESS_READ)

    def recipients(self) -> int:
        """Recipients of all messages taken so far."""
        return int(struct.unpack("=QQQ", self._counters[:24])[2])

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._counters.close()


@dataclass(frozen=True, slots=True)
class SenderCall:
    """How sender.c is called: messages that can be told apart by `name`, each timed; place is where they must arrive."""

    program: Path
    port: int
    messages: int
    forward_path: str
    name: str
    sessions: int = 1
    body_bytes: int = BYTES
    every: int = 0
    place: Path | str = "-"


def send_marked(call: SenderCall) -> list[Sent]:
    """Send what `call` says and wait for every reply; what became of each message."""
    done = subprocess.run(
        [call.program, *map(str, (call.port, call.sessions, call.messages, call.body_bytes, call.every,
                                  call.forward_path, call.name, call.place))],
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        raise LoadError(f"sender: exit {done.returncode}: {done.stderr[-2000:]}")
    return [Sent.of(line) for line in done.stdout.splitlines()]


def compile_program(name: str, folder: Path) -> Path:
    """Build sink.c or sender.c with the system's compiler and return the program."""
    program = folder / name
    source = Path(__file__).with_name(f"{name}.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-pthread", "-o", program, source], check=True)
    return program


def count_files(folders: list[Path]) -> int:
    """Entries of all these folders; one that is not there has none."""
    return sum(len(list(folder.iterdir())) for folder in folders if folder.is_dir())


def await_count(count: Callable[[], int], wanted: int, what: str) -> None:
    """Wait until `count` has reached `wanted`, looking rarely while far away: looking costs CPU too."""
    begun = time.monotonic()
    before, looked = count(), begun
    while before < wanted:
        if looked - begun > DONE_SECONDS:
            raise LoadError(f"{what}: {before} of {wanted} after {DONE_SECONDS} s")
        time.sleep(0.02)
        now = count()
        if now > before:
            speed = (now - before) / (time.monotonic() - looked)
            time.sleep(min(1.0, 0.5 * max(0, wanted - now) / speed))
        before, looked = now, time.monotonic()
