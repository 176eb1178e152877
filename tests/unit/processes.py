"""Runs a service of ours as systemd would: handed-in sockets by name, its own control directory, real processes."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from qmaild.protocol import frames, netstring
from qmaild.runtime import system

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 20.0  # no answer in this time is a failure
NETWORK = ("smtp", "qmqp")  # sockets that are TCP: their numbers are in `ports`

# The child moves the sockets to 3, 4, ... and names itself in LISTEN_PID, as sd_listen_fds(3) wants it.
_START = """
import fcntl, os, sys
moved = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in sys.argv[2].split(",")]
for place, number in enumerate(moved, 3):
    os.dup2(number, place, inheritable=True)
    os.close(number)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "qmaild.services." + sys.argv[1]])
"""


class Running:
    """A service process and its sockets below `directory`/run. Ends with the with-statement.

    held: sockets that are there already, as systemd holds them while a service comes and goes.
    """

    def __init__(
        self, name: str, sockets: list[str], directory: Path, held: dict[str, socket.socket] | None = None, **settings: str
    ) -> None:
        self._run = directory / "run"
        control = directory / f"control-{name}"
        (self._run / "control").mkdir(parents=True, exist_ok=True)
        control.mkdir(exist_ok=True)
        for file, content in {"me": "host.test", **settings}.items():
            (control / file).write_text(content + "\n")
        self.control = control
        self.name = name
        self.clients: list[Client] = []
        listeners = []
        self.ports: dict[str, int] = {}
        for each in sockets:
            if held and each in held:
                listener = held[each].dup()
            elif each in NETWORK:
                listener = socket.create_server(("127.0.0.1", 0), backlog=100)
                self.ports[each] = listener.getsockname()[1]
            else:
                listener = socket.socket(socket.AF_UNIX)
                self._path_of(each).unlink(missing_ok=True)  # of a process that was here before
                listener.bind(str(self._path_of(each)))
                listener.listen(100)
            listeners.append(listener)
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "QMAILD_CONTROL": str(control), "QMAILD_RUN": str(self._run),
            "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": ":".join(sockets),
            "QMAILD_RESOLV": str(directory / "resolv.conf"),
        }  # fmt: skip
        numbers = [listener.fileno() for listener in listeners]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, name, ",".join(map(str, numbers))], env=environment, pass_fds=numbers
        )
        for listener in listeners:
            listener.close()

    def client(self, name: str) -> Client:
        """A client of one of its sockets; "control" is the service's own."""
        client = Client(self._path_of(name))
        self.clients.append(client)
        return client

    def _path_of(self, name: str) -> Path:
        return self._run / ("control" if name == "control" else ".") / f"{self.name if name == 'control' else name}.sock"

    def __enter__(self) -> Running:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for client in self.clients:
            client.close()  # a service that stops waits for its clients to part
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(SECONDS)


class Client:
    """A blocking client of a frame socket."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(SECONDS)
        self._sock.connect(str(path))
        self._reader = netstring.Reader(frames.MAX_FRAME)
        self._frames: list[frames.Frame] = []
        self._descriptors: list[int] = []
        self._is_greeted = False
        self.send(frames.Hello(frames.VERSION, b"test"))

    def send(self, frame: frames.Frame, descriptor: int = -1) -> None:
        data = frames.encode(frame)
        if descriptor >= 0:
            socket.send_fds(self._sock, [data[:1]], [descriptor])
            data = data[1:]
        self._sock.sendall(data)

    def piece(self, tag: int, content: bytes) -> frames.Frame:
        """Send the next piece of a large message and return what the service says to it."""
        memory = system.sealed_memfd(content)
        self.send(frames.Piece(tag, len(content), 1), memory)
        os.close(memory)
        return self.receive()[0]

    def receive(self) -> tuple[frames.Frame, int]:
        """The next frame and its descriptor (-1 if it has none)."""
        while not self._frames:
            data, descriptors, _, _ = socket.recv_fds(self._sock, 1 << 16, 16)
            assert data, "the service closed the connection"
            self._descriptors += descriptors
            self._frames += [frames.decode(payload) for payload in self._reader.feed(data)]
            if not self._is_greeted and self._frames:
                self._is_greeted = True
                greeting = self._frames.pop(0)
                assert isinstance(greeting, frames.Hello), greeting
        frame = self._frames.pop(0)
        return frame, self._descriptors.pop(0) if getattr(frame, "descriptor", 0) else -1

    def is_closed_by_service(self) -> bool:
        """Whether it ends the connection without another frame."""
        said = b"".join(iter(lambda: self._sock.recv(1 << 16), b""))
        return all(isinstance(frames.decode(payload), frames.Hello) for payload in self._reader.feed(said))

    def close(self) -> None:
        self._sock.close()


@contextlib.contextmanager
def no_descriptor_free(process: int) -> Iterator[None]:
    """Every descriptor below the limit is in use."""
    limits = resource.prlimit(process, resource.RLIMIT_NOFILE)
    # Asked one by one: listing them would take one itself, if the process is this one.
    free = next(number for number in range(limits[0]) if not os.path.lexists(f"/proc/{process}/fd/{number}"))
    resource.prlimit(process, resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):  # it may have ended meanwhile
            resource.prlimit(process, resource.RLIMIT_NOFILE, limits)
