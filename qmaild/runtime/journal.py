"""Structured records to the journal by its native protocol, without ever waiting for it.

A stalled or absent journal counts drops and never stops mail. Standalone, the same records go as JSON
lines to DIR/journal, where `qmailctl trace` reads them.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import time

from qmaild.control.events import ERROR, FIELDS, INFO, NOTICE, WARNING, Event
from qmaild.runtime import paths

__all__ = ["ERROR", "INFO", "NOTICE", "WARNING", "note", "open_as", "record"]

JOURNAL_SOCKET = "/run/systemd/journal/socket"
MAX_VALUE = 4096  # one field; far below the socket's datagram limit

_KEYS = {name: field.encode() for name, field in FIELDS.items()}


class _Journal:
    """Where records go: the journal's socket, the standalone file, or standard error."""

    def __init__(self) -> None:
        self.identifier = b"qmaild"
        self.dropped = 0
        self._sock: socket.socket | None = None
        self._file = -1

    def open(self, identifier: str) -> None:
        self.identifier = identifier.encode()
        if paths.STANDALONE:
            path = os.path.join(paths.STANDALONE, "journal")
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        elif os.path.exists(JOURNAL_SOCKET):
            self._connect()

    def _connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(JOURNAL_SOCKET)
        except OSError:
            sock.close()
        else:
            self._sock = sock

    def write(self, fields: list[tuple[bytes, bytes]]) -> None:
        if self._sock is not None:
            try:
                self._sock.send(_datagram(fields))
            except BlockingIOError:
                self.dropped += 1
            except OSError:  # journald was restarted: its socket is a new one
                self.dropped += 1
                self._sock.close()
                self._sock = None
                self._connect()
        elif self._file >= 0:
            text = {key.decode(): value.decode(errors="replace") for key, value in fields}
            text["__REALTIME_TIMESTAMP"] = str(time.time_ns() // 1000)
            text["_PID"] = str(os.getpid())
            os.write(self._file, (json.dumps(text) + "\n").encode())
        else:
            sys.stderr.write(dict(fields)[b"MESSAGE"].decode(errors="replace") + "\n")


def _datagram(fields: list[tuple[bytes, bytes]]) -> bytes:
    parts = []
    for key, value in fields:
        if b"\n" in value:
            parts.append(b"%b\n%b%b\n" % (key, struct.pack("<Q", len(value)), value))
        else:
            parts.append(b"%b=%b\n" % (key, value))
    return b"".join(parts)


_journal = _Journal()


def open_as(identifier: str) -> None:
    """Say who is speaking. Called once at start, before the first record."""
    _journal.open(identifier)


def dropped() -> int:
    """Return how many records the journal did not take."""
    return _journal.dropped


def note(priority: int, text: str) -> None:
    """Write a record for people that has no event of its own: trouble of this process."""
    _journal.write([(b"MESSAGE", text.encode(errors="replace")), (b"PRIORITY", b"%d" % priority),
                    (b"SYSLOG_IDENTIFIER", _journal.identifier)])  # fmt: skip


def _printable(value: bytes) -> str:
    return value.decode("utf-8", "replace").translate(_CONTROLS)


_CONTROLS = {number: "?" for number in (*range(32), 127)}  # a record's text is one line whatever a peer sent


def record(event: Event, **values: bytes | int | float | str) -> None:
    """Write one record of this event. Fields that are absent or empty are left out; values are bounded."""
    shown: dict[str, str] = dict.fromkeys(event.fields, "")
    fields: list[tuple[bytes, bytes]] = []
    for name, value in values.items():
        if isinstance(value, bytes):
            value = _printable(value[:MAX_VALUE])
        elif isinstance(value, float):
            value = f"{value:.3f}"
        text = str(value)
        shown[name] = text
        if text:
            fields.append((_KEYS[name], text.encode("utf-8", "replace")))
    shown["sender"] = f"<{shown.get('sender', '')}>"
    message = event.text.format_map(shown)
    fields += [
        (b"MESSAGE", message.encode("utf-8", "replace")), (b"PRIORITY", b"%d" % event.priority),
        (b"SYSLOG_IDENTIFIER", _journal.identifier), (b"MESSAGE_ID", event.message_id.encode()),
        (b"QMAILD_EVENT", event.name.encode()),
    ]  # fmt: skip
    _journal.write(fields)
