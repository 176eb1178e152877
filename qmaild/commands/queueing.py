"""Hands a message to qmail-queue, or to what QMAILQUEUE names in its place: descriptors 0 and 1 in, exit code and 6 back.

Programs of dot-qmail lines use it for every delivery: it imports what Python has loaded anyway.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator

QUEUE = "/usr/bin/qmail-queue"
CHUNK_BYTES = 64 << 10
MAX_REASON = 1000
SIGPIPE = 13  # the module signal would cost more than all of this

PERMANENT_EXITS = range(11, 41)  # qmail.c's: what will not get better
OWN_REASON = 82  # notqmail's: D or Z and a text are on descriptor 6
REASONS = {
    11: "an envelope address is too long", 31: "the message was refused", 51: "out of memory", 52: "it took too long",
    53: "the disk is full, or a write failed", 54: "the message or envelope ended early", 56: "the server cannot be reached",
    71: "the mail server refused the message for now", 74: "the server was lost", 91: "the envelope is malformed",
}  # fmt: skip


class Refused(Exception):
    """The message is not in the queue. is_permanent: and trying again is of no use."""

    def __init__(self, is_permanent: bool, text: str) -> None:
        super().__init__(text)
        self.is_permanent = is_permanent


def rest_of(descriptor: int) -> Iterator[bytes]:
    """Yield what can be read from here to the end."""
    while chunk := os.read(descriptor, CHUNK_BYTES):
        yield chunk


def send(content: Iterable[bytes], sender: bytes, recipients: Iterable[bytes]) -> int:
    """Return the process that has queued the message. Refused: it is not queued; OSError: it cannot even be offered.

    If content raises nothing is queued.
    """
    program = os.environ.get("QMAILQUEUE") or QUEUE
    message, envelope, reason = (_high_pipe() for _ in range(3))
    ours, theirs = [message[1], envelope[1], reason[0]], [message[0], envelope[0], reason[1]]
    process = 0
    try:
        try:
            given = [(os.POSIX_SPAWN_DUP2, end, number) for end, number in zip(theirs, (0, 1, 6), strict=True)]
            process = os.posix_spawnp(program, [program], os.environ, file_actions=given, setsigdef=[SIGPIPE])
        finally:
            _close(theirs)
        is_taken = _write(message[1], content)
        os.close(ours.pop(0))
        if is_taken:
            parts = [b"F" + sender + b"\0", *[b"T" + each + b"\0" for each in recipients], b"\0"]
            _write(envelope[1], [b"".join(parts)])
        os.close(ours.pop(0))
        said = b"".join(rest_of(reason[0]))[:MAX_REASON]
    finally:
        _close(ours)  # without an envelope's end it queues nothing
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) if process else 0
    if status:
        raise _refusal(status, said)
    return process


def _refusal(status: int, said: bytes) -> Refused:
    text = said[1:].decode("utf-8", "replace").strip()
    if status == OWN_REASON and said[:1] in (b"D", b"Z") and text:
        return Refused(said[:1] == b"D", text)
    if status < 0:
        return Refused(False, f"qmail-queue was ended by signal {-status}")
    return Refused(status in PERMANENT_EXITS, REASONS.get(status, f"qmail-queue said {status}"))


def _write(pipe: int, chunks: Iterable[bytes]) -> bool:
    """Write all. False if the reader has gone before: its exit code will say why."""
    for chunk in chunks:
        try:
            while chunk:
                chunk = chunk[os.write(pipe, chunk) :]
        except BrokenPipeError:
            return False
    return True


def _high_pipe() -> tuple[int, int]:
    """Return a pipe whose ends are none of the numbers that the program gets."""
    low = os.pipe()
    high = tuple([fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low])
    _close(low)
    return high[0], high[1]


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
