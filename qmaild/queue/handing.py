"""A job as send gets it: a frame, and perhaps a descriptor beside it. Knows what rides where; no window, no connection."""

from __future__ import annotations

from collections.abc import Callable

from qmaild.protocol import frames
from qmaild.queue.store import Store
from qmaild.queue.values import Job
from qmaild.runtime import system

MAX_NOTES = 4 << 20  # of one message, in its Finish: 100,000 recipients may each have failed with a page of text


def frame_of(store: Store, job: Job, believed: Callable[[int], int]) -> tuple[frames.Job | frames.Finish, int]:
    """Return the frame and the descriptor that rides beside it, or -1. believed gives a birth by the clock as it is now.

    OSError, StoreError: there is no descriptor or memory for it now.
    """
    content, descriptor = _content(store, job)
    birth, rides = believed(job.birth), int(descriptor >= 0)
    if job.kind == "attempt":
        indexes = [index for index, _ in job.recipients]
        addresses = [address for _, address in job.recipients]
        return frames.Job(job.number, birth, job.flags, job.origin, job.sender, indexes, addresses, job.size, content,
                          rides), descriptor  # fmt: skip
    failed = [address for _, address, _ in job.notes]
    notes = _bounded([note for _, _, note in job.notes])
    return frames.Finish(job.number, birth, job.flags, job.origin, job.sender, failed, notes, job.size, content,
                         rides), descriptor  # fmt: skip


def _content(store: Store, job: Job) -> tuple[bytes, int]:
    """Return what rides inside the frame and the descriptor beside it: never one of a segment."""
    if job.content is None:
        return store.open_large(job.number)
    if len(job.content) > frames.INLINE_BYTES:
        return b"", system.sealed_memfd(job.content)
    return job.content, -1


def _bounded(notes: list[bytes]) -> list[bytes]:
    """Return notes that fit into a frame with all the rest: when they are too long, equally much of each."""
    if sum(map(len, notes)) <= MAX_NOTES:
        return notes
    return [note[: MAX_NOTES // len(notes)] for note in notes]
