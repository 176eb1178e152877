"""qmail-queue's envelope: F sender NUL, then T recipient NUL for each, then NUL. Knows its exit codes."""

from __future__ import annotations

from typing import NamedTuple

from qmaild.message.inject import MAX_ENVELOPE, MAX_RECIPIENTS

MAX_PATH = 1002  # longer is exit 11; the documented limit is 1000

TOO_LONG, REFUSED, DISK_FULL, INCOMPLETE, MALFORMED = 11, 31, 53, 54, 91


class EnvelopeError(ValueError):
    """The envelope is not one. code is the exit code that says so."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Envelope(NamedTuple):
    sender: bytes
    recipients: list[bytes]


MAX_BYTES = MAX_ENVELOPE + 2 * MAX_RECIPIENTS + MAX_PATH  # a longer one is refused before it is kept


def parse(content: bytes) -> Envelope:
    """Return the envelope. The final NUL must be there: without it the caller has changed its mind."""
    records = content.split(b"\0")
    paths: list[bytes] = []
    for number, record in enumerate(records[:-1]):
        if number and not record:
            if len(paths) - 1 > MAX_RECIPIENTS:
                raise EnvelopeError(REFUSED, f"more than {MAX_RECIPIENTS} recipients")
            return Envelope(paths[0], paths[1:])
        paths.append(_path(record, b"T" if number else b"F"))
    if records[-1]:
        _path(records[-1], b"T" if paths else b"F")  # what is there already decides between the codes
    raise EnvelopeError(INCOMPLETE, "the envelope has no end")


def _path(record: bytes, letter: bytes) -> bytes:
    if record[:1] != letter:
        raise EnvelopeError(MALFORMED, f"expected {letter.decode()} before an address")
    if len(record) - 1 > MAX_PATH:
        raise EnvelopeError(TOO_LONG, f"an address is longer than {MAX_PATH} bytes")
    return record[1:]
