"""The queue core as Python values. Knows the core's interface; no frames, no clock, no address syntax.

Times are integer microseconds since the epoch, handed in. One thread calls everything here. Nothing waits for the
disk but open, close and the reading of a message. What was appended is promised only when its commit is durable.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from qmaild._queue import ffi, lib

SEGMENT_BYTES = 32 << 20
LARGE_BYTES = 256 << 10  # a body above this gets a file of its own
SHOWN_PARTS = 200_000  # recipients looked at in one call of messages()
LANE_BYTES = 1024  # of a lane's name
BRIEF_RECIPIENTS = 3
BRIEF_WORK = 4 << 20  # bytes read in one call of briefs(): milliseconds, for anybody may ask
FIND_WORK = 200_000  # recipients looked at in one call of find(): milliseconds

# The two classes that fall due, each by itself: new messages and those to finish; what waits in lanes.
FRESH: int = lib.QUEUE_FRESH
RETRY: int = lib.QUEUE_RETRY

_REASONS = {
    lib.Q_OWNER: "owner", lib.Q_FORMAT: "format", lib.Q_LOCKED: "locked", lib.Q_IO: "io", lib.Q_SPACE: "space",
    lib.Q_UNKNOWN: "unknown", lib.Q_STATE: "state", lib.Q_LIMIT: "limit", lib.Q_MEMORY: "memory",
    lib.Q_DAMAGED: "damaged",
}  # fmt: skip
_STATES = {lib.Q_NEW: "new", lib.Q_WAITING: "waiting", lib.Q_OUT: "out", lib.Q_DONE: "done", lib.Q_FAILED: "failed"}


def checksum(data: bytes | memoryview, before: int = 0) -> int:
    """Return the CRC32C of data, continuing from that of what stands before it."""
    return int(lib.crc32c(before, ffi.from_buffer(data), len(data)))


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


class Store:
    """The store, open. A file, a lock and two threads; close lets go of them."""

    def __init__(self, core: Any, large_bytes: int) -> None:
        self._core = core
        self._message = ffi.new("struct queue_message *")
        self._number = ffi.new("uint64_t *")
        self._job = ffi.new("struct queue_job *")
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
            raise StoreError(_REASONS[code], ffi.string(text).decode(errors="replace"))
        return cls(core[0], large_bytes)

    @property
    def is_open(self) -> bool:
        return self._core is not None

    def close(self) -> None:
        """Commit what was appended, wait for that, let go. A second time does nothing."""
        if self._core is not None:
            lib.queue_close(self._core)
            self._core = None

    def _check(self, code: int) -> int:
        if code < 0:
            raise StoreError(_REASONS[code], ffi.string(lib.queue_error(self._core)).decode(errors="replace"))
        return code

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
            addresses = _counted(recipients)
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
            out.durable, _numbers(out.failed, out.failed_count), _numbers(out.staged, out.staged_count),
            _numbers(out.staged_failed, out.staged_failed_count),
        )  # fmt: skip

    # --- reading, due order

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

    def read(self, number: int) -> bytes:
        """Return the whole content. StoreError unknown, state (not durable yet, or it has a file), damaged, io."""
        job = self._show(number)
        if job.large:
            raise StoreError("state", f"message {number} has a file of its own")
        return bytes(ffi.buffer(job.record + job.content_offset, job.content_length))

    def open_large(self, number: int) -> tuple[bytes, int]:
        """Return what stands before the file, and a read-only descriptor of it, the caller's to close."""
        descriptor = self._check(lib.queue_open_large(self._core, number))
        try:
            job = self._show(number)
        except StoreError:
            os.close(descriptor)
            raise
        return bytes(ffi.buffer(job.record + job.content_offset, job.content_length)), descriptor

    def _show(self, number: int) -> Any:
        self._check(lib.queue_show(self._core, number, self._job))
        return self._job

    def summary(self, number: int) -> Summary:
        """Return one message with every recipient's state. StoreError unknown, state, damaged, io."""
        return _summary(self._show(number))

    def messages(self, after: int, limit: int) -> list[Summary]:
        """Return up to limit messages with numbers above after, ascending; those that cannot be read are left out.

        Fewer if they have very many recipients; none only if there are no more.
        """
        shown: list[Summary] = []
        parts = 0
        for number in self._numbers_above(after, limit):
            if lib.queue_show(self._core, number, self._job) == lib.Q_OK:
                shown.append(_summary(self._job))
                parts += self._job.part_count
            if parts > SHOWN_PARTS:
                break
        return shown

    def brief(self, number: int) -> Brief:
        """Return what to list of one message. StoreError unknown, state, damaged, io."""
        job = self._job
        self._check(lib.queue_glance(self._core, number, BRIEF_RECIPIENTS, job))
        return _brief(job)

    def briefs(self, after: int, limit: int, origin: bytes) -> tuple[list[Brief], int]:
        """Return what to list of the messages above after that have this origin (b"": any), and where to go on (0: the end)."""
        shown: list[Brief] = []
        work = last = 0
        for last in self._numbers_above(after, limit):
            if lib.queue_glance(self._core, last, BRIEF_RECIPIENTS, self._job) == lib.Q_OK:
                job = self._job
                if origin in (b"", _bytes(job.record + job.origin_offset, job.origin_length)):
                    shown.append(_brief(job))
                work += job.record_length
            if work > BRIEF_WORK:
                break
        return shown, last

    def find(self, search: Search | None, after: int, limit: int) -> tuple[list[int], int]:
        """Return up to limit numbers above after, ascending, of messages with a recipient who is meant (None: all
        messages), and where to go on (0: the end). One call costs milliseconds, and finds fewer or none rather than more.
        """
        numbers, cursor = ffi.new("uint64_t[]", max(limit, 1)), ffi.new("uint64_t *", after)
        sought = _Sought(search)
        count = lib.queue_find(self._core, sought.at, cursor, numbers, limit, FIND_WORK)
        del sought  # not before: the core reads what it keeps alive
        return _numbers(numbers, count), int(cursor[0])

    def verify(self, number: int) -> None:
        """Read the message's record, and look for the file of its own. StoreError unknown, state, damaged, io."""
        self._check(lib.queue_glance(self._core, number, 0, self._job))
        if self._job.large:
            descriptor = self._check(lib.queue_open_large(self._core, number))
            size = os.fstat(descriptor).st_size
            os.close(descriptor)
            if size < self._job.large:
                raise StoreError("damaged", f"large/{number:016x} at {size}: expected {self._job.large} bytes")

    def match(self, number: int, search: Search | None) -> Match:
        """Return which undone recipients of this message are meant (None: all). StoreError unknown, state, damaged, io."""
        if search is None:
            self._check(lib.queue_glance(self._core, number, ffi.cast("uint32_t", -1), self._job))
        else:
            sought = _Sought(search)
            self._check(lib.queue_match(self._core, number, sought.at, self._job))
            del sought  # not before: the core reads what it keeps alive
        job = self._job
        sender = _bytes(job.record + job.sender_offset, job.sender_length)
        return Match(number, sender, [part.index for part in _parts(job)], job.undone)

    def _numbers_above(self, after: int, limit: int) -> list[int]:
        numbers = ffi.new("uint64_t[]", max(limit, 1))
        return _numbers(numbers, lib.queue_list(self._core, after, numbers, max(limit, 0)))

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


class _Sought:
    """A search as the core reads it (None: NULL). It keeps the bytes alive, so it must live as long as the call."""

    def __init__(self, search: Search | None) -> None:
        self.at = ffi.NULL
        if search is None:
            return
        self.at = ffi.new("struct queue_search *")
        values = (_counted(search.meant), _counted(search.asked), search.suffix)
        self._kept = [ffi.from_buffer(value) for value in values]
        for name, value, kept in zip(Search._fields, values, self._kept, strict=True):
            setattr(self.at, name, kept)
            setattr(self.at, f"{name}_length", len(value))


def _counted(values: Iterable[bytes]) -> bytes:
    return b"".join([len(each).to_bytes(2, "little") + each for each in values])


def _numbers(array: Any, count: int) -> list[int]:
    return list(array[0:count]) if count else []


def _parts(job: Any) -> Iterable[Any]:
    return (job.parts[at] for at in range(job.part_count))


def _job(job: Any) -> Job:
    record = bytes(ffi.buffer(job.record, job.record_length))
    origin, sender, content = job.origin_offset, job.sender_offset, job.content_offset
    recipients: tuple[tuple[int, bytes], ...] = ()
    notes: tuple[tuple[int, bytes, bytes], ...] = ()
    is_attempt = job.kind == lib.QUEUE_ATTEMPT
    if is_attempt:
        recipients = tuple((part.index, record[part.offset : part.offset + part.length]) for part in _parts(job))
    else:
        notes = tuple(
            (part.index, record[part.offset : part.offset + part.length], _bytes(part.note, part.note_length))
            for part in _parts(job)
        )
    length = job.content_length
    return Job(
        job.number, job.birth, job.flags, record[origin : origin + job.origin_length],
        record[sender : sender + job.sender_length], recipients,
        None if job.large else record[content : content + length],
        "attempt" if is_attempt else "finish", length + job.large, notes,
    )  # fmt: skip


def _summary(job: Any) -> Summary:
    parts = tuple(
        Part(part.index, _bytes(job.record + part.offset, part.length), _STATES[part.state],
             _bytes(part.lane, part.lane_length), part.due, _bytes(part.note, part.note_length))
        for part in _parts(job)
    )  # fmt: skip
    waiting = [part.due for part in parts if part.state in ("new", "waiting")]
    return Summary(
        job.number, job.birth, job.flags, job.content_length + job.large,
        _bytes(job.record + job.origin_offset, job.origin_length),
        _bytes(job.record + job.sender_offset, job.sender_length), min(waiting, default=None), parts,
    )  # fmt: skip


def _brief(job: Any) -> Brief:
    record, parts = ffi.buffer(job.record, job.record_length), job.parts  # one look through cffi for all of them
    left = []
    for at in range(job.part_count):
        part = parts[at]
        left.append(record[part.offset : part.offset + part.length])
    sender = job.sender_offset
    return Brief(
        job.number, job.birth, job.content_length + job.large, record[sender : sender + job.sender_length],
        tuple(left), job.undone,
    )  # fmt: skip


def _bytes(at: Any, length: int) -> bytes:
    return bytes(ffi.buffer(at, length)) if length else b""
