"""Local delivery in a standalone directory: local, spawn and program as real processes, and what tests ask of them."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmaild.protocol import frames, netstring
from tests.unit.peers import take
from tests.unit.processes import Client, Running

MESSAGE = b"Subject: hello\n\nthe body\n"


class House:
    """users: every name has a home below `top`/home. alias is the alias user's home."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.alias = top / "alias"
        self.alias.mkdir(mode=0o700)
        self._names: list[str] = []
        self._tag = 0

    def user(self, name: str) -> Path:
        home = self.top / "home" / name
        home.mkdir(mode=0o700, parents=True)
        self._names.append(name)
        (self.top / "users").write_text("".join(each + "\n" for each in self._names))
        return home

    def aliases(self, text: str) -> None:
        (self.top / "aliases").write_text(text)

    def order(
        self, client: Client, *recipients: bytes, content: bytes = MESSAGE, sender: bytes = b"from@x.test",
        body: int = -1, number: int = 7,
    ) -> frames.Report:  # fmt: skip
        """Send one order and return its report."""
        self.send_order(client, *recipients, content=content, sender=sender, body=body, number=number)
        report, _ = client.receive()
        assert isinstance(report, frames.Report)
        return report

    def send_order(
        self, client: Client, *recipients: bytes, content: bytes = MESSAGE, sender: bytes = b"from@x.test",
        body: int = -1, number: int = 7,
    ) -> int:  # fmt: skip
        self._tag += 1
        size = len(content) + (os.fstat(body).st_size if body >= 0 else 0)
        client.send(frames.Order(
            self._tag, number, 1_700_000_000_000_000, 0, b"local", sender, list(range(len(recipients))),
            list(recipients), size, content, int(body >= 0)), body)  # fmt: skip
        return self._tag

    def exists(self, client: Client, address: bytes) -> tuple[bytes, bytes]:
        """Ask whether the recipient exists; return outcome and text."""
        self._tag += 1
        client.send(frames.Who(self._tag, address))
        answer, _ = client.receive()
        assert isinstance(answer, frames.Is) and answer.tag == self._tag
        return answer.outcome, answer.text

    @contextlib.contextmanager
    def running(self, programs: bool = False) -> Iterator[tuple[Client, Client]]:
        """Run local and spawn, and program if told; yield a client of local's orders and one of its look-ups."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(Running("spawn", ["spawn"], self.top))
            if programs:
                stack.enter_context(Running("program", ["program"], self.top))
            local = stack.enter_context(Running("local", ["local", "lookup"], self.top))
            orders, lookups = local.client("local"), local.client("lookup")
            try:
                yield orders, lookups
            finally:
                orders.close()
                lookups.close()


@pytest.fixture
def house(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> House:
    top = tmp_path_factory.mktemp("h")  # short: names of sockets end at 107 bytes
    monkeypatch.setenv("QMAILD_STANDALONE", str(top))
    monkeypatch.setenv("QMAILD_ALIASES", str(top / "aliases"))
    return House(top)


def files_in(folder: Path) -> list[bytes]:
    """The contents of a folder's files, in the order of their names."""
    return [path.read_bytes() for path in sorted(folder.iterdir())]


class Intake:
    """Stands where the queue's intake does: keeps every message whole, and answers each as told."""

    def __init__(self, top: Path) -> None:
        (top / "run").mkdir(exist_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(top / "run/intake.sock"))
        self._listener.listen(5)
        self.messages: list[frames.Message] = []
        self.refusal: frames.Refused | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                self._session(sock)

    def _session(self, sock: socket.socket) -> None:
        reader = netstring.Reader(frames.MAX_FRAME)
        streams: dict[int, bytes] = {}
        memory: list[int] = []
        while True:
            data, received, _, _ = socket.recv_fds(sock, 1 << 16, 16)
            if not data:
                return
            memory += received
            for frame in map(frames.decode, reader.feed(data)):
                if isinstance(frame, frames.Hello):
                    sock.sendall(frames.encode(frame))
                elif isinstance(frame, frames.Open):
                    streams[frame.tag] = b""
                elif isinstance(frame, frames.Piece):
                    streams[frame.tag] += take(memory.pop(0), frame.size)
                    sock.sendall(frames.encode(frames.Taken(frame.tag, frame.size)))
                elif isinstance(frame, frames.End):
                    content = frame.prefix + streams.pop(frame.tag)
                    self._take(sock, frames.Message(*frame[:5], content, *frame[6:]))
                elif isinstance(frame, frames.Message):
                    self._take(sock, frame)

    def _take(self, sock: socket.socket, message: frames.Message) -> None:
        if self.refusal:
            sock.sendall(frames.encode(self.refusal._replace(tag=message.tag)))
            return
        self.messages.append(message)
        sock.sendall(frames.encode(frames.Accepted(message.tag, 100 + len(self.messages))))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def intake(house: House) -> Iterator[Intake]:
    made = Intake(house.top)
    yield made
    made.close()
