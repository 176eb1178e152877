"""The sockets that systemd would open for the services, opened by ourselves. Knows paths and ports; no process."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from qmaild.runtime.units import SocketUnit

PATH_LIMIT = 107  # bytes of an AF_UNIX address, without its closing NUL
HIGH = 100  # our own descriptors stay clear of the numbers the services get theirs at


class StartError(Exception):
    """The sockets cannot be made; the text says which and why."""


class Listener(NamedTuple):
    """One open socket and what it is called for the service that gets it."""

    name: str
    sock: socket.socket


def listen(
    units: list[SocketUnit], run: Path, ports: Mapping[str, Sequence[int]]
) -> dict[str, list[Listener]]:
    """Open every socket: paths below `run`; of 127.0.0.1 the first port that is free of those for its name.

    Returns service → its listeners.
    """
    found: dict[str, list[Listener]] = {}
    for unit in units:
        try:
            sock = _listen_unix(unit, run) if unit.path else _listen_tcp(unit, ports[unit.name])
        except OSError as error:
            where = str(run / unit.path) if unit.path else f"127.0.0.1 port {ports[unit.name][-1]}"
            raise StartError(f"cannot listen for {unit.name} at {where}: {error.strerror}") from None
        found.setdefault(unit.service, []).append(Listener(unit.name, sock))
    return found


def _listen_unix(unit: SocketUnit, run: Path) -> socket.socket:
    path = run / unit.path
    if len(os.fsencode(path)) > PATH_LIMIT:
        raise StartError(f"{path}: expected at most {PATH_LIMIT} bytes in its name; use a shorter directory")
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    sock = _high(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    sock.bind(str(path))
    path.chmod(unit.mode)
    sock.listen(unit.backlog)
    return sock


def _listen_tcp(unit: SocketUnit, ports: Sequence[int]) -> socket.socket:
    sock = _high(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for port in ports:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or port == ports[-1]:
                raise
        else:
            break
    sock.listen(unit.backlog)
    return sock


def _high(sock: socket.socket) -> socket.socket:
    with sock:
        return socket.socket(fileno=fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, HIGH))
