"""The messages of the store, one by one or as many as are sought. Changes nothing; nothing waits but for the disk to read."""

from __future__ import annotations

import os
from typing import Any

from qmaild.queue.core import Core, counted, ffi, lib, numbers_of, octets, parts_of, spans_of
from qmaild.queue.values import Brief, Match, Part, Search, StoreError, Summary

EVERYBODY = (1 << 32) - 1  # more recipients than a message can have
SHOWN_PARTS = 200_000  # recipients looked at in one call of messages()
BRIEF_RECIPIENTS = 3
BRIEF_WORK = 4 << 20  # bytes read in one call of briefs(): milliseconds, for anybody may ask
FIND_WORK = 200_000  # recipients looked at in one call of find(): milliseconds

_STATES = {lib.Q_NEW: "new", lib.Q_WAITING: "waiting", lib.Q_OUT: "out", lib.Q_DONE: "done", lib.Q_FAILED: "failed"}


class View(Core):
    """What can be asked of an open store."""

    def read(self, number: int) -> bytes:
        """Return the whole content. StoreError unknown, state (not durable yet, or it has a file), damaged, io."""
        job = self._head(number)
        if job.large:
            raise StoreError("state", f"message {number} has a file of its own")
        return bytes(ffi.buffer(job.record + job.content_offset, job.content_length))

    def open_large(self, number: int) -> tuple[bytes, int]:
        """Return what stands before the file, and a read-only descriptor of it, the caller's to close."""
        descriptor = self._check(lib.queue_open_large(self._core, number))
        try:
            job = self._head(number)
        except StoreError:
            os.close(descriptor)
            raise
        return bytes(ffi.buffer(job.record + job.content_offset, job.content_length)), descriptor

    def _head(self, number: int) -> Any:
        """Return the core's job without any recipients."""
        self._check(lib.queue_glance(self._core, number, 0, self._job))
        return self._job

    def summary(self, number: int, first: int = 0, most: int = EVERYBODY) -> Summary:
        """Return one message with the states of its recipients from this index on, so many. StoreError unknown, state,
        damaged, io."""
        self._check(lib.queue_show_some(self._core, number, first, most, self._job))
        return _summary(self._job)

    def recipients(self, number: int, first: int, most: int) -> list[bytes]:
        """Return forward-paths from this index on, so many or fewer; it reads the whole record. StoreError unknown, state,
        damaged, io."""
        return [part.address for part in self.summary(number, first, most).recipients]

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
                if origin in (b"", octets(job.record + job.origin_offset, job.origin_length)):
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
        return numbers_of(numbers, count), int(cursor[0])

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
            self._check(lib.queue_glance(self._core, number, EVERYBODY, self._job))
        else:
            sought = _Sought(search)
            self._check(lib.queue_match(self._core, number, sought.at, self._job))
            del sought  # not before: the core reads what it keeps alive
        job = self._job
        sender = octets(job.record + job.sender_offset, job.sender_length)
        return Match(number, sender, [index for index, _, _ in spans_of(job)], job.undone)

    def _numbers_above(self, after: int, limit: int) -> list[int]:
        numbers = ffi.new("uint64_t[]", max(limit, 1))
        return numbers_of(numbers, lib.queue_list(self._core, after, numbers, max(limit, 0)))


class _Sought:
    """A search as the core reads it (None: NULL). It keeps the bytes alive, so it must live as long as the call."""

    def __init__(self, search: Search | None) -> None:
        self.at = ffi.NULL
        if search is None:
            return
        self.at = ffi.new("struct queue_search *")
        values = (counted(search.meant), counted(search.asked), search.suffix)
        self._kept = [ffi.from_buffer(value) for value in values]
        for name, value, kept in zip(Search._fields, values, self._kept, strict=True):
            setattr(self.at, name, kept)
            setattr(self.at, f"{name}_length", len(value))


def _summary(job: Any) -> Summary:
    parts = tuple(
        Part(part.index, octets(job.record + part.offset, part.length), _STATES[part.state],
             octets(part.lane, part.lane_length), part.due, octets(part.note, part.note_length))
        for part in parts_of(job)
    )  # fmt: skip
    waiting = [part.due for part in parts if part.state in ("new", "waiting")]
    return Summary(
        job.number, job.birth, job.flags, job.content_length + job.large,
        octets(job.record + job.origin_offset, job.origin_length),
        octets(job.record + job.sender_offset, job.sender_length), min(waiting, default=None), parts,
    )  # fmt: skip


def _brief(job: Any) -> Brief:
    record = ffi.buffer(job.record, job.record_length)  # one look through cffi for all of them
    left = [record[at : at + length] for _, at, length in spans_of(job)]
    sender = job.sender_offset
    return Brief(
        job.number, job.birth, job.content_length + job.large, record[sender : sender + job.sender_length],
        tuple(left), job.undone,
    )  # fmt: skip
