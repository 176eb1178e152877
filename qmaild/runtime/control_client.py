"""Asks one service over its control socket and waits for the answer: what qmailctl does. Knows no command's meaning."""

from __future__ import annotations

import socket
from typing import NamedTuple

from qmaild.protocol import frames, netstring
from qmaild.runtime import paths
from qmaild.runtime.running import shown

SECONDS = 60.0  # a reload of large control files, a listing of a long queue
READ_BYTES = 64 << 10

MISSING, FORBIDDEN = "missing", "forbidden"


class Unreachable(Exception):
    """No answer: the socket is not there, not ours to use, or the service was lost. reason: MISSING, FORBIDDEN or empty."""

    def __init__(self, service: str, why: str, reason: str = "") -> None:
        super().__init__(f"{service}: {why}")
        self.reason = reason


class Reply(NamedTuple):
    """code: 0, 1 (could not), 100 (no such command or wrong words), 111 (not now). text: what to print."""

    code: int
    text: str


def ask(service: str, *words: str, seconds: float = SECONDS) -> Reply:
    """Send one command to a service and return its answer. A service that rests is started by the connection."""
    path = paths.control_socket_of(service)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(seconds)
            sock.connect(path)
            command = frames.Command(1, [word.encode("utf-8", "surrogateescape") for word in words])
            sock.sendall(frames.encode(frames.Hello(frames.VERSION, b"qmailctl")) + frames.encode(command))
            return _answer(service, sock)
    except (FileNotFoundError, ConnectionRefusedError):
        raise Unreachable(service, f"nothing listens at {path}", MISSING) from None
    except PermissionError:
        raise Unreachable(
            service, f"{path} may be used by root and the group qmaild-admin only", FORBIDDEN) from None  # fmt: skip
    except TimeoutError:
        raise Unreachable(service, f"no answer in {seconds:.0f} seconds") from None
    except OSError as error:
        raise Unreachable(service, f"{path}: {error.strerror}") from None


def _answer(service: str, sock: socket.socket) -> Reply:
    reader = netstring.Reader(frames.MAX_FRAME)
    while data := sock.recv(READ_BYTES):
        try:
            for payload in reader.feed(data):
                frame = frames.decode(payload)
                if isinstance(frame, frames.Hello) and frame.version == frames.VERSION:
                    continue
                if isinstance(frame, frames.Answer):
                    return Reply(frame.code, shown(frame.text.decode("utf-8", "replace")))
                raise Unreachable(service, "it is of another version; restart it")
        except (frames.FrameError, netstring.NetstringError) as error:
            raise Unreachable(service, f"it answered with something that is no frame: {error}") from None
    raise Unreachable(service, "it ended before it answered")
