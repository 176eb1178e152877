"""A mail host on loopback for tests: a real socket, a thread, replies by a table, and a record of what it was told."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType

# In place of a reply: end the connection; say nothing more; say a byte now and then; say lines without an end; reset the
# connection; reply as usual and read nothing more.
CLOSE, SILENCE, DRIP, ENDLESS, RESET, DEAF = "close", "silence", "drip", "endless", "reset", "deaf"
STRANGE = (DRIP, ENDLESS, RESET, DEAF)
DRIP_SECONDS = 0.1

# Gets the command (DATA's end is ".") and how many of this verb came before on this peer; None is the usual reply.
Replies = Callable[[str, int], str | None]

USUAL = {
    "GREETING": "220 peer.test", "EHLO": "250-peer.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 5000000",
    "LHLO": "250-peer.test\r\n250 PIPELINING", "DATA": "354 go", ".": "250 2.0.0 taken",
}  # fmt: skip


@dataclasses.dataclass
class Seen:
    """One message that was taken: recipients accepted, content as it came (dots and all) without the final dot."""

    sender: str
    recipients: list[str]
    content: bytes
    connection: int


class Peer:
    """Serves until the with-statement ends. messages is a queue of Seen; lines are all commands, in order."""

    def __init__(self, replies: Replies = lambda command, count: None, sock: socket.socket | None = None) -> None:
        self._replies = replies
        self._listener = sock or socket.socket()
        if sock is None:
            self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(100)
        self.connections = 0
        self.lines: list[str] = []
        self.messages: queue.Queue[Seen] = queue.Queue()
        self.ended: queue.Queue[int] = queue.Queue()  # numbers of connections that the other side ended
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._open: list[socket.socket] = []
        self._is_over = threading.Event()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._is_over.set()
        for sock in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        self._thread.join(10)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                if sock.family == socket.AF_INET:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections += 1
                self._open.append(sock)
                threading.Thread(target=self._serve, args=(sock, self.connections), daemon=True).start()

    def _reply(self, sock: socket.socket, verb: str, command: str) -> str:
        """Send the reply to one command and return it; an empty string ends the session."""
        with self._lock:
            count = self._counts.get(verb, 0)
            self._counts[verb] = count + 1
        reply = self._replies(command, count) or USUAL.get(verb, "250 ok")
        if reply == SILENCE:
            if not sock.recv(1 << 20):
                self.ended.put(self.connections)
            reply = CLOSE
        elif reply in STRANGE:
            self._behave(sock, reply, verb)
            reply = CLOSE
        if reply == CLOSE:
            return ""
        sock.sendall(reply.encode() + b"\r\n")
        return reply

    def _behave(self, sock: socket.socket, how: str, verb: str) -> None:
        """Do something strange until the other side has had enough of it, or the test is over."""
        code = USUAL.get(verb, "250 ok")[:3]
        if how == RESET:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        said = [f"{code} ok\r\n", ""] if how == DEAF else [f"{code}-", "x"] if how == DRIP else [f"{code}-more\r\n"] * 2
        try:
            sock.sendall(said[0].encode())
            while not self._is_over.wait(0 if how == ENDLESS else DRIP_SECONDS):
                sock.sendall(said[1].encode())
        finally:
            self.ended.put(self.connections)

    def _serve(self, sock: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            self._session(sock, number)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()

    def _session(self, sock: socket.socket, number: int) -> None:
        file = sock.makefile("rb")
        sender, recipients, is_lmtp = "", list[str](), False
        if not self._reply(sock, "GREETING", "GREETING"):
            return
        while line := file.readline():
            command = line.decode().rstrip("\r\n")
            verb = command.split(" ")[0].split(":")[0]
            is_lmtp |= verb == "LHLO"
            self.lines.append(command)
            if verb == "QUIT":
                self.ended.put(number)
                return
            reply = self._reply(sock, verb, command)
            if not reply:
                return
            if verb == "MAIL":
                sender, recipients = command, []
            elif verb == "RCPT" and reply.startswith("2"):
                recipients.append(command[9:-1])
            elif verb == "DATA" and reply.startswith("354"):
                content: list[bytes] = []
                while (line := file.readline()) != b".\r\n":
                    if not line:
                        self.ended.put(number)
                        return
                    content.append(line)
                self.messages.put(Seen(sender, recipients, b"".join(content), number))
                for _ in recipients if is_lmtp else [""]:
                    if not self._reply(sock, ".", "."):
                        return
        self.ended.put(number)
