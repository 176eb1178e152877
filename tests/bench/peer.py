"""What the benchmark asks of a mail server: start fresh, tell its port, say when all is done, stop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path

from .load import LOCAL_DOMAIN, LoadError, Sink, Workload, await_count, count_files
from .measure import CpuGroup

START_SECONDS = 60
STOP_SECONDS = 30


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Peer(ABC):
    """One server for one run, in a folder of its own on the disk that is measured.

    It serves SMTP on 127.0.0.1:port, relays for everybody, delivers for u1 to u4 of local.test to Maildirs
    and sends relay.test to the sink. In a held workload it makes messages durable and keeps them.
    """

    name: str

    def __init__(self, folder: Path, sink: Sink) -> None:
        self.folder = folder
        self.sink = sink
        self.port = free_port()
        self.group = CpuGroup(f"{self.name}-{folder.name}")
        self._process: subprocess.Popen[bytes] | None = None
        self._sunk_before = 0

    @abstractmethod
    def configure(self, workload: Workload) -> None:
        """Write everything that the server reads, below folder."""

    @abstractmethod
    def argv(self) -> list[str]:
        """The command that runs the server in the foreground; killing it must end all of it."""

    @abstractmethod
    def maildirs(self) -> list[Path]:
        """The new/ folders of u1 to u4."""

    def await_held(self, messages: int) -> None:
        """Check that all are in the queue, where that can be seen; every one had its 250 already."""
        return

    def start(self, workload: Workload) -> None:
        self.folder.mkdir(parents=True)
        self.configure(workload)
        self._sunk_before = self.sink.recipients()
        with (self.folder / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                self.group.argv(self.argv()),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._await_banner()

    def _await_banner(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as probe:
                if probe.recv(512).startswith(b"220"):
                    probe.sendall(b"QUIT\r\n")
                    return
            time.sleep(0.05)
        log = (self.folder / "server.log").read_text(errors="replace")[-3000:]
        self.stop()
        raise LoadError(f"{self.name} does not serve SMTP:\n{log}")

    def wait_done(self, workload: Workload, messages: int) -> None:
        """Return when everything of `messages` sent since start() is where the workload wants it."""
        wanted = messages * workload.recipients
        if workload.held:
            self.await_held(messages)
            if self.sink.recipients() != self._sunk_before:
                raise LoadError(f"{self.name} has delivered what it should hold")
        elif workload.is_relayed:
            await_count(
                lambda: self.sink.recipients() - self._sunk_before, wanted, f"{self.name}: at the sink"
            )
        else:
            await_count(
                lambda: count_files(self.maildirs()), wanted, f"{self.name}: in {LOCAL_DOMAIN} Maildirs"
            )

    def stop(self) -> None:
        """End every process of the server; its files stay (deleting would slow down the next run)."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        for _ in range(100):
            left = self.group.processes()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not left:
                break
            time.sleep(0.05)
        self._process.wait()
        self._process = None
        self.group.remove()
