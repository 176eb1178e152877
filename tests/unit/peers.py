"""What a door talks to, as small real servers: an intake and a lookup that speak frames, and clients on the network."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from qmaild.protocol import frames, netstring
from qmaild.runtime import system

from .processes import SECONDS

Answer = Callable[[Any], frames.Frame | None]


class Peer:
    """A frame server at run/NAME.sock. Frames it is asked are in `asked`; answer(frame) says what goes back, None is nothing.

    What the pieces of a stream had is in `streamed`, by tag, and `largest` the size of the largest.
    """

    def __init__(self, directory: Path, name: str, answer: Answer) -> None:
        (directory / "run").mkdir(exist_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / "run" / f"{name}.sock"))
        self._listener.listen(20)
        self._connections: list[socket.socket] = []
        self.answer = answer
        self.asked: queue.Queue[Any] = queue.Queue()
        self.streamed: dict[int, bytes] = {}
        self.largest = 0
        self.may_read = threading.Event()
        self.may_read.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def next(self) -> Any:
        """The next frame that was asked, waited for."""
        return self.asked.get(timeout=SECONDS)

    def say(self, frame: frames.Frame, connection: int = -1) -> None:
        """Say something now, on the last connection or another."""
        self._connections[connection].sendall(frames.encode(frame))

    @property
    def connections(self) -> int:
        """How many there have been."""
        return len(self._connections)

    def is_closed(self, connection: int) -> bool:
        """Whether the client has ended this connection, and it was noticed."""
        return self._connections[connection].fileno() < 0

    def hang_up(self) -> None:
        """End all connections."""
        connections, self._connections = self._connections, []
        for each in connections:
            with contextlib.suppress(OSError):  # the door may have closed it first
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if error.errno == errno.EMFILE:  # a test took all of this process away for a while
                    continue
                return
            self._connections.append(sock)
            threading.Thread(target=self._serve, args=[sock], daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        reader = netstring.Reader(frames.MAX_FRAME)
        memory: list[int] = []
        with sock:
            while True:
                self.may_read.wait()
                try:
                    data, received, _, _ = socket.recv_fds(sock, 1 << 16, 16)
                except OSError:
                    return
                if not data:
                    return
                memory += received
                for payload in reader.feed(data):
                    frame = frames.decode(payload)
                    if isinstance(frame, frames.Hello):
                        sock.sendall(frames.encode(frame))
                        continue
                    if isinstance(frame, frames.Piece):
                        content = take(memory.pop(0), frame.size)
                        self.streamed[frame.tag] = self.streamed.get(frame.tag, b"") + content
                        self.largest = max(self.largest, len(content))
                    self.asked.put(frame)
                    said = self.answer(frame)
                    if said is not None:
                        with contextlib.suppress(BrokenPipeError):  # the test hung up meanwhile
                            sock.sendall(frames.encode(said))

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.may_read.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()


def take(memory: int, size: int) -> bytes:
    """Return what a piece has: sealed memory of exactly this size."""
    try:
        assert system.is_sealed(memory)
        content = os.pread(memory, size + 1, 0)
        assert len(content) == size
        return content
    finally:
        os.close(memory)


def accepting(frame: Any) -> frames.Frame | None:
    """Answer of an intake that stores everything: the number is 1000 more than the tag."""
    if isinstance(frame, frames.Piece):
        return frames.Taken(frame.tag, frame.size)
    if isinstance(frame, frames.Message | frames.End):
        return frames.Accepted(frame.tag, 1000 + frame.tag)
    return None


def knowing(frame: frames.Who) -> frames.Frame:
    """Answer of a lookup: everybody but nobody@, and trouble with trouble@."""
    if frame.address.startswith(b"nobody"):
        return frames.Is(frame.tag, frames.PERMANENT, b"no such user")
    if frame.address.startswith(b"trouble"):
        return frames.Is(frame.tag, frames.TEMPORARY, b"accounts cannot be read")
    return frames.Is(frame.tag, frames.SUCCESS, b"")


class Client:
    """A blocking SMTP client that says exactly what it is told to."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), SECONDS, (source, 0))
        self._file = self._sock.makefile("rb")

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def reply(self) -> bytes:
        """The last line of the next reply, without its end; empty if the server has closed."""
        while True:
            line = self._file.readline()
            if line[3:4] != b"-":
                return line.rstrip(b"\r\n")

    def ask(self, line: bytes) -> bytes:
        self.send(line + b"\r\n")
        return self.reply()

    def message(self, content: bytes, sender: bytes = b"<a@b.test>", *recipients: bytes) -> bytes:
        """The reply to the end of the data, or the first refusal."""
        said = b""
        for line in (b"MAIL FROM:" + sender, *[b"RCPT TO:" + each for each in recipients or [b"<bob@host.test>"]], b"DATA"):
            said = self.ask(line)
            if said[:1] not in b"23":
                return said
        self.send(content + b".\r\n")
        return self.reply()

    def rest(self) -> bytes:
        """Everything until the server closes."""
        return self._file.read()

    def finish_sending(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._file.close()
        self._sock.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def lingering() -> Iterator[socket.socket]:
    """A socket that keeps whoever closes it last waiting for a minute, or until the end of this."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
    with peer:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.send(bytes(1 << 16))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
        yield sock
