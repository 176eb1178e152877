"""The queue core as Python values. Knows the core's interface; no frames, no clock, no address syntax.

Times are integer microseconds since the epoch, handed in. One thread calls everything here. Nothing waits for the
disk but open, close and the reading of a message. What was appended is promised only when its commit is durable.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from qmaild.queue.core import REASONS, counted, ffi, lib, numbers_of, octets, parts_of, spans_of
from qmaild.queue.values import Collected, Counts, Job, StoreError
from qmaild.queue.view import View

SEGMENT_BYTES = 32 << 20
LARGE_BYTES = 256 << 10  # a body above this gets a file of its own
LANE_BYTES = 1024  # of a lane's name

# The two classes that fall due, each by itself: new messages and those to finish; what waits in lanes.
FRESH: int = lib.QUEUE_FRESH
RETRY: int = lib.QUEUE_RETRY


class Staged:
    """A large message's own file on its way in: write, then sync, then (when collect names it) add; or abort."""

    __slots__ = ("_store", "number", "size")

    def __init__(self, store: Store, number: int) -> None:
        self._store = store
        self.number = number  # of the file and of the message to be
        self.size = 0

    def write(self, content: bytes) -> None:
        """Append. StoreError space or io: the file is good for abort only."""
        core = self._store._core
        self._store._check(lib.queue_stage_write(core, self.number, ffi.from_buffer(content), len(content)))
        self.size += len(content)

    def sync(self) -> None:
        """Ask for it to be made durable; collect tells (staged or staged_failed)."""
        self._store._check(lib.queue_stage_sync(self._store._core, self.number))

    def open(self) -> int:
        """Return a read-only descriptor of it, the caller's to close."""
        return self._store._check(lib.queue_stage_open(self._store._core, self.number))

    def abort(self) -> None:
        """Remove it. After add, or a second time, this does nothing."""
        if self._store.is_open:
            lib.queue_stage_abort(self._store._core, self.number)


class Store(View):
    """The store, open. A file, a lock and two threads; close lets go of them."""

    def __init__(self, core: Any, large_bytes: int) -> None:
        super().__init__(core)
        self._message = ffi.new("struct queue_message *")
        self._number = ffi.new("uint64_t *")
        self.large_bytes = large_bytes
        self.eventfd: int = lib.queue_eventfd(core)  # readable while collect has something to say

    @classmethod
    def open(
        cls, directory: str, *, segment_bytes: int = SEGMENT_BYTES, large_bytes: int = LARGE_BYTES, create: bool = True,
        checkpoint_bytes: int = 0,
    ) -> Store:  # fmt: skip
        """Replay what is there. checkpoint_bytes: of log between two checkpoints, if not what the core thinks best.

        StoreError owner, format, locked, io, space, memory, limit; its text names the path.
        """
        options = ffi.new("struct queue_options *", {
            "segment_bytes": segment_bytes, "create": create, "threads": 1, "checkpoint_bytes": checkpoint_bytes,
        })  # fmt: skip
        core, text = ffi.new("struct queue **"), ffi.new("char[512]")
        code = lib.queue_open(core, os.fsencode(directory), options, ffi.NULL, text, len(text))
        if code != lib.Q_OK:
            raise StoreError(REASONS[code], ffi.string(text).decode(errors="replace"))
        return cls(core[0], large_bytes)

    def close(self) -> None:
        """Commit what was appended, wait for that, let go. A second time does nothing."""
        if self._core is not None:
            lib.queue_close(self._core)
            self._core = None

    # --- appending

    def add(
        self, *, birth: int, flags: int, origin: bytes, sender: bytes, recipients: Sequence[bytes], content: bytes,
        staged: Staged | None = None, ends: int = 0, serves: tuple[int, int] | None = None,
    ) -> int:  # fmt: skip
        """Append a message; return its number. It is due once its commit is durable.

        With staged (synced), content is only what stands before the file's bytes. ends=N: N ends with the same
        commit. serves=(N, i): with the same commit recipient i of N is done. StoreError space, io, limit, unknown, state.
        """
        message, count = self._message, len(recipients)
        try:
            addresses = counted(recipients)
        except OverflowError as error:
            raise StoreError("limit", "a forward-path is longer than 65535 bytes") from error
        message.birth, message.flags, message.recipients = birth, flags, count
        # The names below keep the buffers alive until the call is over.
        message.origin, message.origin_length = origin_at, _ = ffi.from_buffer(origin), len(origin)
        message.sender, message.sender_length = sender_at, _ = ffi.from_buffer(sender), len(sender)
        message.addresses, message.addresses_length = addresses_at, _ = ffi.from_buffer(addresses), len(addresses)
        message.content, message.content_length = content_at, _ = ffi.from_buffer(content), len(content)
        message.ends = ends
        message.serves, message.serves_index = serves or (0, 0)
        message.staged = staged.number if staged else 0
        code = lib.queue_add(self._core, message, self._number)
        del origin_at, sender_at, addresses_at, content_at
        if code:
            self._check(code)
        return int(self._number[0])

    def done(self, number: int, indexes: Sequence[int]) -> None:
        """These recipients are served. The last one ends the message unless there are notes. StoreError unknown."""
        self._check(lib.queue_done(self._core, number, indexes, len(indexes)))

    def fail(self, number: int, index: int, note: bytes) -> None:
        """This recipient failed for good, and why, for the bounce (4096 bytes of it are kept). StoreError unknown."""
        self._check(lib.queue_fail(self._core, number, index, ffi.from_buffer(note), len(note)))

    def defer(self, number: int, lane: bytes, due: int, indexes: Sequence[int]) -> None:
        """These recipients wait in this lane until due. StoreError unknown, limit."""
        self._check(
            lib.queue_defer(self._core, number, ffi.from_buffer(lane), len(lane), due, indexes, len(indexes))
        )

    def end(self, number: int) -> None:
        """The message is over, whatever its recipients' states. StoreError unknown."""
        self._check(lib.queue_end(self._core, number))

    def commit(self) -> int:
        """Hand over all that was appended; return its ticket. Call once per tick, not once per message."""
        return int(lib.queue_commit(self._core))

    def collect(self) -> Collected:
        """Take in what was decided since the last call, and reset eventfd."""
        out = ffi.new("struct queue_collected *")
        self._check(lib.queue_collect(self._core, out))
        return Collected(
            out.durable, numbers_of(out.failed, out.failed_count), numbers_of(out.staged, out.staged_count),
            numbers_of(out.staged_failed, out.staged_failed_count),
        )  # fmt: skip

    # --- due order

    def due(self, now: int, which: int) -> Job | None:
        """Take out the next message of this class (FRESH or RETRY) with its recipients due at now; None if there is none."""
        return _job(self._job) if self._check(lib.queue_due(self._core, now, which, self._job)) else None

    def next_due(self, which: int) -> int | None:
        """Return when something of this class is due next (0: now), None if nothing waits, or only behind the limit."""
        due = ffi.new("int64_t *")
        return int(due[0]) if lib.queue_next_due(self._core, which, due) else None

    def limit(self, per_lane: int) -> None:
        """From now on no lane has more than so many messages out (0: any number)."""
        lib.queue_limit(self._core, per_lane)

    def give_back(self, number: int) -> None:
        """What is out of this message is due again now. StoreError unknown."""
        self._check(lib.queue_give_back(self._core, number))

    def retry(self, number: int, indexes: Sequence[int] | None = None) -> None:
        """What waits of this message, or of these recipients, is due now. StoreError unknown."""
        if indexes is None:
            self._check(lib.queue_retry(self._core, number))
        else:
            self._check(lib.queue_retry_some(self._core, number, indexes, len(indexes)))

    def is_out(self, number: int, index: int) -> bool:
        return bool(lib.queue_is_out(self._core, number, index))

    def counts(self) -> Counts:
        out = ffi.new("struct queue_counts *")
        lib.queue_counts(self._core, out)
        return Counts(
            out.messages, out.fresh, out.waiting, out.out, out.living, out.disk, out.segments, out.damaged, out.torn,
            out.pending, out.index_bytes, out.replayed, out.checkpoint, out.checkpoints_made, out.checkpoints_refused,
        )  # fmt: skip

    # --- large messages

    def stage(self) -> Staged:
        """Begin a file for a large message. StoreError space, io."""
        self._check(lib.queue_stage(self._core, self._number))
        return Staged(self, int(self._number[0]))


def _job(job: Any) -> Job:
    record = bytes(ffi.buffer(job.record, job.record_length))
    origin, sender, content = job.origin_offset, job.sender_offset, job.content_offset
    recipients: tuple[tuple[int, bytes], ...] = ()
    notes: tuple[tuple[int, bytes, bytes], ...] = ()
    is_attempt = job.kind == lib.QUEUE_ATTEMPT
    if is_attempt:
        recipients = tuple([(index, record[at : at + length]) for index, at, length in spans_of(job)])
    else:
        notes = tuple(
            (part.index, record[part.offset : part.offset + part.length], octets(part.note, part.note_length))
            for part in parts_of(job)
        )
    length = job.content_length
    return Job(
        job.number, job.birth, job.flags, record[origin : origin + job.origin_length],
        record[sender : sender + job.sender_length], recipients,
        None if job.large else record[content : content + length],
        "attempt" if is_attempt else "finish", length + job.large, notes,
    )  # fmt: skip
