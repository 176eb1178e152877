"""Structured records to the journal by its native protocol, without ever waiting for it.

A stalled or absent journal counts drops and never stops mail. Standalone, the same records go as JSON
lines to DIR/journal, where `qmailctl trace` reads them.
"""

from __future__ import annotations

import functools
import json
import os
import re
import socket
import string
import struct
import sys
import time
from typing import NamedTuple

from qmaild.control.events import ERROR, FIELDS, INFO, NOTICE, WARNING, Event
from qmaild.runtime import paths

__all__ = ["ERROR", "INFO", "NOTICE", "WARNING", "note", "open_as", "record"]

JOURNAL_SOCKET = "/run/systemd/journal/socket"
RETRY_SECONDS = 1.0  # between tries to reach a journal that is gone
MAX_VALUE = 4096  # one field; far below the socket's datagram limit

_as_json = json.JSONEncoder(check_circular=False).encode  # json.dumps makes such an encoder for each call with options
_KEYS = {name: field.encode() for name, field in FIELDS.items()}


class _Journal:
    """Where records go: the journal's socket, the standalone file, or standard error."""

    def __init__(self) -> None:
        self.identifier = b"qmaild"
        self.dropped = 0
        self._told = 0  # of those that were dropped
        self._has_journal = False
        self._retry_at = 0.0
        self._sock: socket.socket | None = None
        self._file = -1
        self._process = ""

    def open(self, identifier: str) -> None:
        self.identifier = identifier.encode()
        self._process = str(os.getpid())
        if paths.STANDALONE:
            path = os.path.join(paths.STANDALONE, "journal")
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        else:
            self._has_journal = os.path.isdir(os.path.dirname(JOURNAL_SOCKET))
            self._connect()

    def _connect(self) -> None:
        self._retry_at = time.monotonic() + RETRY_SECONDS
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError:
            return
        try:
            sock.connect(JOURNAL_SOCKET)
        except OSError:
            sock.close()
        else:
            self._sock = sock

    def write(self, fields: list[tuple[bytes, bytes]]) -> None:
        """Write one record, or count it as dropped. The next one that is taken is followed by how many were."""
        if not self._is_taken(fields):
            self.dropped += 1
        elif self.dropped > self._told:
            text = b"%d records before this one were lost: the journal did not take them" % (self.dropped - self._told)
            lost = [(b"MESSAGE", text), (b"PRIORITY", b"%d" % WARNING), (b"SYSLOG_IDENTIFIER", self.identifier)]
            if self._is_taken(lost):
                self._told = self.dropped

    def _is_taken(self, fields: list[tuple[bytes, bytes]]) -> bool:
        if self._file >= 0:
            text = {key.decode(): value.decode(errors="replace") for key, value in fields}
            text["__REALTIME_TIMESTAMP"] = str(time.time_ns() // 1000)
            text["_PID"] = self._process
            return _wrote(self._file, (_as_json(text) + "\n").encode())
        if not self._has_journal:
            sys.stderr.write(dict(fields)[b"MESSAGE"].decode(errors="replace") + "\n")
            return True
        if self._sock is None and time.monotonic() >= self._retry_at:
            self._connect()
        return self._sock is not None and self._is_sent(self._sock, _datagram(fields))

    def _is_sent(self, sock: socket.socket, data: bytes) -> bool:
        try:
            sock.send(data)
        except BlockingIOError:
            return False  # it stalls
        except OSError:  # journald was restarted: its socket is a new one
            sock.close()
            self._sock = None
            self._connect()
            return False
        return True


def _wrote(descriptor: int, data: bytes) -> bool:
    try:
        return os.write(descriptor, data) == len(data)
    except OSError:
        return False


def _datagram(fields: list[tuple[bytes, bytes]]) -> bytes:
    data = b"".join([b"%b=%b\n" % field for field in fields])
    if data.count(b"\n") == len(fields):
        return data
    parts: list[bytes] = []
    for key, value in fields:  # a value with a line end in it goes with its length
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


_PLAIN = re.compile(rb"[ -~]*")
_CONTROLS = {number: "?" for number in (*range(32), 127)}  # a record's text is one line whatever a peer sent


def _shown(value: bytes | int | float | str) -> bytes:
    """Return a value as it stands in a record: bounded, printable, UTF-8."""
    if isinstance(value, int):
        return b"%d" % value
    if isinstance(value, float):
        return b"%.3f" % value
    if isinstance(value, bytes):
        value = value[:MAX_VALUE]
        if _PLAIN.fullmatch(value):
            return value
        value = value.decode("utf-8", "replace")
    return value.translate(_CONTROLS).encode("utf-8", "replace")


class _Shape(NamedTuple):
    """Of all records of an event: its text as (literal, name of a field) pieces, and constant fields."""

    pieces: list[tuple[bytes, str]]
    constants: list[tuple[bytes, bytes]]


@functools.cache
def _shape(event: Event) -> _Shape:
    pieces = [(literal.encode(), name or "") for literal, name, _, _ in string.Formatter().parse(event.text)]
    constants = [(b"PRIORITY", b"%d" % event.priority), (b"MESSAGE_ID", event.message_id.encode()),
                 (b"QMAILD_EVENT", event.name.encode())]  # fmt: skip
    return _Shape(pieces, constants)


def record(event: Event, **values: bytes | int | float | str) -> None:
    """Write one record of this event. Fields that are absent or empty are left out; values are bounded."""
    shape = _shape(event)
    shown = {name: _shown(value) for name, value in values.items()}
    fields = [(_KEYS[name], text) for name, text in shown.items() if text]
    shown["sender"] = b"<%b>" % shown.get("sender", b"")
    message = [literal + shown.get(name, b"") for literal, name in shape.pieces]
    fields.append((b"MESSAGE", b"".join(message)))
    fields.append((b"SYSLOG_IDENTIFIER", _journal.identifier))
    _journal.write(fields + shape.constants)
