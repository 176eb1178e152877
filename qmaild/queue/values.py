"""What the store tells: messages, recipients, searches, counts, and why it refuses. Knows nothing of the core.

Times are integer microseconds since the epoch.
"""

from __future__ import annotations

from typing import NamedTuple


class StoreError(Exception):
    """Why the core refused; the text names what it was about.

    Temporary: space, io, memory. About the directory: owner, format, locked. About the call: unknown (no such
    message, recipient or staged file), state (it does not allow that), limit (no record can hold it). damaged: the
    message was good once and can no longer be read.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Job(NamedTuple):
    """One message with all that is due of it. kind "attempt": recipients are out now. kind "finish": nobody is left
    undone and notes tell who failed. content is None for a message with a file of its own (open_large)."""

    number: int
    birth: int
    flags: int
    origin: bytes
    sender: bytes
    recipients: tuple[tuple[int, bytes], ...]
    content: bytes | None
    kind: str
    size: int
    notes: tuple[tuple[int, bytes, bytes], ...]


class Part(NamedTuple):
    """One recipient of a message: state is new, waiting, out, done or failed; due is 0 for now; lane is b"" if new."""

    index: int  # type: ignore[assignment]  # tuple has a method of that name, which nobody asks of a recipient
    address: bytes
    state: str
    lane: bytes
    due: int
    note: bytes


class Summary(NamedTuple):
    """One message as people want to see it. due: the earliest of what waits, None if nothing does."""

    number: int
    birth: int
    flags: int
    size: int
    origin: bytes
    sender: bytes
    due: int | None
    recipients: tuple[Part, ...]


class Brief(NamedTuple):
    """What a list shows of one message. left: the first recipients that are neither done nor failed, of left_count."""

    number: int
    birth: int
    size: int
    sender: bytes
    left: tuple[bytes, ...]
    left_count: int


class Search(NamedTuple):
    """Which undone recipients are meant: those in the lanes meant; of those in the lanes asked, and of the new ones, those
    whose address ends with suffix (letters' case aside)."""

    meant: tuple[bytes, ...]
    asked: tuple[bytes, ...]
    suffix: bytes


class Match(NamedTuple):
    """What a search means of one message: indexes of undone_count undone recipients."""

    number: int
    sender: bytes
    indexes: list[int]
    undone_count: int


class Collected(NamedTuple):
    """durable: every ticket up to it is decided, and durable unless in failed. staged: numbers of synced files."""

    durable: int
    failed: list[int]
    staged: list[int]
    staged_failed: list[int]


class Counts(NamedTuple):
    """messages; recipients new, waiting and out; bytes; segment files; records skipped; tails cut; bytes not durable yet;
    of the log read on opening, and of the checkpoint; checkpoints made since, and not used on opening."""

    messages: int
    new: int
    waiting: int
    out: int
    bytes_living: int
    bytes_disk: int
    segments: int
    damaged: int
    torn: int
    bytes_pending: int
    bytes_index: int
    bytes_replayed: int
    bytes_checkpoint: int
    checkpoints_made: int
    checkpoints_refused: int
