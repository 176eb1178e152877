"""Manage: what is due goes to send, what came of it comes back. Knows the window; not where a recipient goes.

The queue connects when something is due and closes when nothing has been outstanding for a while, so that
send may leave. A lost connection makes everything that was out due again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import socket
from collections.abc import Callable
from typing import Any

from qmaild.protocol import frames
from qmaild.queue.commits import Commits
from qmaild.queue.store import FRESH, LANE_BYTES, RETRY, Store
from qmaild.queue.values import Job, StoreError
from qmaild.runtime import poller, system
from qmaild.runtime.channel import Channel

# The first of a burst goes out at once, what comes within this time behind it as one batch: a lone message waits for
# nothing, and a busy host wakes everybody on the way a hundred times a second and not for each message.
PACE_SECONDS = 0.010
WINDOW_MESSAGES = 10_000  # out at send at a time
WINDOW_BYTES = 64 << 20  # their contents, as far as they are in memory
# What was deferred before has a part of the window, so that new mail finds room however much is due: of what send
# keeps for remote lanes half the messages and a third of the bytes.
RETRY_MESSAGES = 4_000
RETRY_BYTES = 8 << 20
LANE_MESSAGES = 300  # deferred ones of one lane: a destination that has died keeps no others out
MAX_NOTES = 4 << 20  # of one message, in its Finish: 100,000 recipients may each have failed with a page of text
NOTED_BYTES = 256 << 10  # of one message while it is out: above it a note keeps its beginning only
SHORT_NOTE = 80
BATCH = 200  # jobs in one look: the loop stays responsive
RETRY_SHARE = 50  # of these, what was deferred; so many go every PACE_SECONDS
# The same while new mail comes: it does not starve, but leaves the processes on the way time to spare, for who has used
# up its time waits for a processor behind all others on the machine, and new mail with it.
RETRY_BESIDE = 10
BESIDE_SECONDS = 1.0  # after a new message
UNREAD_BYTES = 64 << 10  # that send has not taken yet: above it nothing deferred follows, for new mail would stand behind it
UNREACHABLE_SECONDS = 1.0  # between tries to reach send
LONGEST_SLEEP_SECONDS = 60.0  # a clock that jumps is noticed within this
IDLE_SECONDS = 5.0  # rule 11
TROUBLE_SECONDS = 5.0  # until a message that could not be handed out is tried again
NO_ROOM_SECONDS = 60.0  # a bounce that found the disk full is made again after this
RECORD_SECONDS = 1.0  # what could not be recorded is recorded after this
PASSING = ("memory", "io", "space")  # why the store may refuse now and not later


@dataclasses.dataclass(slots=True)
class Out:
    """A message that send has. left: recipients not answered yet; held: bytes of its content; noted: of the notes about it."""

    left: int
    held: int
    is_retry: bool
    noted: int = 0


class Manager:
    """The queue's end of manage. wake() whenever something may have become due."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, store: Store, commits: Commits, now: Callable[[], int], path: str,
        believed: Callable[[int], int],
    ) -> None:  # fmt: skip
        self._loop = loop
        self._store = store
        self._commits = commits
        self._now = now
        self._believed = believed  # a birth, by the clock as it is now
        self._path = path
        self._channel: Channel | None = None
        self._out: dict[int, Out] = {}
        self._out_bytes = 0
        self._retries = self._retry_bytes = 0  # of these, what was deferred before
        self._unrecorded: list[Any] = []  # answers that the store could not take in yet
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._poller = poller.of(loop)
        self._is_looking_soon = False
        self._paced = 0.0  # nothing new is handed out before this time of the loop
        self._retries_paced = 0.0  # and nothing that was deferred before this one
        self._fresh_until = 0.0  # new mail comes
        self._idle: asyncio.TimerHandle | None = None
        self.is_stopping = False
        self.on_trouble: Callable[[str], None] = lambda text: None
        self.is_held: Callable[[], bool] = lambda: False  # an administrator wants nothing delivered now
        store.limit(LANE_MESSAGES)
        self._handlers: dict[type, Callable[[Any], None]] = {
            frames.Done: self._done, frames.Failed: self._failed, frames.Deferred: self._deferred,
            frames.Ended: self._ended, frames.Bounce: self._bounce,
        }  # fmt: skip

    @property
    def outstanding(self) -> int:
        """Messages that send has and has not settled."""
        return len(self._out)

    def wake(self) -> None:
        """New messages are durable, or something was made due, or there is room again: look, at our pace."""
        left = self._paced - self._loop.time()
        if left > 0:
            self._look_in(left)
        else:
            self._look_soon()

    def close(self, seconds: int) -> None:
        """Let go of send, which has so many seconds to answer what is in flight; what else is out is due again."""
        self.is_stopping = True
        if self._channel and self._out:
            self._channel.send(frames.Leaving(seconds))
        elif self._channel:
            self._channel.close()

    @property
    def is_parting(self) -> bool:
        """Whether send has still to answer something before a stop."""
        return self.is_stopping and self._channel is not None

    def _look_in(self, seconds: float) -> None:
        at = self._loop.time() + seconds
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._look)

    def _look_soon(self) -> None:
        """Look at the end of this turn, not at the beginning of the next."""
        if not self._is_looking_soon:
            self._is_looking_soon = True
            self._poller.at_end(self._look_at_end)

    def _look_at_end(self) -> None:
        self._is_looking_soon = False
        if self._timer is not None:
            self._timer.cancel()
        self._look()

    def _look(self) -> None:
        self._timer = None
        now = self._now()
        waits = [wait for wait in (self._wait(FRESH, now), self._wait(RETRY, now)) if wait is not None]
        if not waits or self.is_stopping or self.is_held():
            return  # an answer wakes us, or something new
        if min(waits) > 0:
            self._look_in(min(*waits, LONGEST_SLEEP_SECONDS))
            return
        if self._channel is None and not self._connect():
            self._look_in(UNREACHABLE_SECONDS)
            return
        self._hand_out(now)

    def _wait(self, which: int, now: int) -> float | None:
        """Return in how many seconds something of this class may be handed out; None if nothing waits that there is room for."""
        due = self._store.next_due(which) if self._has_room(which) else None
        if due is None:
            return None
        wait = (due - now) / 1e6
        return wait if which == FRESH else max(wait, self._retries_paced - self._loop.time())

    def _has_room(self, which: int) -> bool:
        if which == RETRY and not self._has_room_for_retries():
            return False
        return len(self._out) < WINDOW_MESSAGES and self._out_bytes < WINDOW_BYTES

    def _has_room_for_retries(self) -> bool:
        if self._channel and self._channel.queued >= UNREAD_BYTES:
            return False  # it wakes us when it has drained
        return self._retries < RETRY_MESSAGES and self._retry_bytes < RETRY_BYTES

    def _connect(self) -> bool:
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            self.on_trouble(f"send cannot be reached: {error.strerror}")
            return False
        code = sock.connect_ex(self._path)
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            return False
        self._channel = Channel(self._loop, sock, self._answer, self._lost)
        self._channel.on_drained = self.wake
        self._channel.send(frames.Hello(frames.VERSION, b"queue"))
        return True

    def _hand_out(self, now: int) -> None:
        begun, share, wait = self._loop.time(), 0, self._wait(RETRY, now)
        if wait is not None and wait <= 0:
            share = RETRY_BESIDE if begun < self._fresh_until else RETRY_SHARE
            self._retries_paced = begun + PACE_SECONDS
        fresh = self._hand_some(FRESH, BATCH - share, now)
        if fresh:
            self._paced, self._fresh_until = begun + PACE_SECONDS, begun + BESIDE_SECONDS
        self._hand_some(RETRY, share, now)
        if self._out and self._idle:
            self._idle.cancel()
            self._idle = None
        if fresh == BATCH - share:
            self._look_in(0.0)
        else:
            self.wake()

    def _hand_some(self, which: int, most: int, now: int) -> int:
        for handed in range(most):
            job = self._store.due(now, which) if self._has_room(which) else None
            if job is None:
                return handed
            self._hand(job, which == RETRY)
        return most

    def _hand(self, job: Job, is_retry: bool) -> None:
        try:
            content, descriptor = self._content(job)
        except (OSError, StoreError) as error:  # no descriptor or memory for it now: it is due again soon
            self.on_trouble(f"{job.number} cannot be handed out: {error}")
            self._loop.call_later(TROUBLE_SECONDS, self._give_back, job.number)
            return
        held = len(job.content or content)
        out = self._out.get(job.number)
        if out is None:
            out = self._out[job.number] = Out(0, 0, is_retry)
            self._retries += is_retry
        out.left += len(job.recipients)  # another lane of it may still be out
        out.held += held
        self._out_bytes += held
        self._retry_bytes += held * out.is_retry
        rides = int(descriptor >= 0)
        birth = self._believed(job.birth)
        assert self._channel is not None
        addresses = [address for _, address in job.recipients]
        if job.kind == "attempt":
            indexes = [index for index, _ in job.recipients]
            self._channel.send(frames.Job(job.number, birth, job.flags, job.origin, job.sender, indexes, addresses,
                                          job.size, content, rides), descriptor)  # fmt: skip
        else:
            notes = _bounded([note for _, _, note in job.notes])
            failed = [address for _, address, _ in job.notes]
            self._channel.send(frames.Finish(job.number, birth, job.flags, job.origin, job.sender, failed, notes,
                                             job.size, content, rides), descriptor)  # fmt: skip

    def _content(self, job: Job) -> tuple[bytes, int]:
        """Return what rides inside the frame and the descriptor beside it: never one of a segment."""
        if job.content is None:
            return self._store.open_large(job.number)
        if len(job.content) > frames.INLINE_BYTES:
            return b"", system.sealed_memfd(job.content)
        return job.content, -1

    # --- what came of it

    def _answer(self, channel: Channel, frame: Any, descriptor: int) -> None:
        if isinstance(frame, frames.Hello):
            if frame.version != frames.VERSION:
                channel.close()
            return
        handler = self._handlers.get(type(frame))
        if handler is None or frame.number not in self._out:
            if handler is None:
                channel.close()
            return  # about a message that an administrator has deleted meanwhile
        self._record(handler, frame)
        self._commits.kick()

    def _record(self, handler: Callable[[Any], None], frame: Any) -> None:
        try:
            handler(frame)
        except StoreError as error:
            if error.reason not in PASSING:
                # Deleted meanwhile, or an index that never was: nothing was recorded, nothing is lost.
                self._settle(frame.number, WINDOW_MESSAGES)
                return
            if not self._unrecorded:
                self._loop.call_later(RECORD_SECONDS, self._record_again)
            self._unrecorded.append(frame)

    def _record_again(self) -> None:
        """Answers that found no memory: their recipients are out until they are recorded, and are tried by nobody else."""
        unrecorded, self._unrecorded = self._unrecorded, []
        for frame in unrecorded:
            if frame.number in self._out:
                self._record(self._handlers[type(frame)], frame)
        self._commits.kick()

    def _settle(self, number: int, recipients: int) -> None:
        out = self._out.get(number)
        if out is None:
            return
        self.wake()  # a lane may have had its limit out
        out.left -= recipients
        if out.left > 0:
            return
        del self._out[number]
        self._out_bytes -= out.held
        self._retries -= out.is_retry
        self._retry_bytes -= out.held * out.is_retry
        if not self._out and self._channel and not self._idle:
            self._idle = self._loop.call_later(IDLE_SECONDS, self._close_if_idle)

    def _done(self, frame: frames.Done) -> None:
        self._store.done(frame.number, frame.indexes)
        self._settle(frame.number, len(frame.indexes))

    def _failed(self, frame: frames.Failed) -> None:
        out = self._out[frame.number]
        note = frame.note if out.noted < NOTED_BYTES else frame.note[:SHORT_NOTE]
        self._store.fail(frame.number, frame.index, note)
        out.noted += len(note)
        self._settle(frame.number, 1)

    def _deferred(self, frame: frames.Deferred) -> None:
        # A lane is a name to wait under: that of a monstrous domain may be cut.
        self._store.defer(frame.number, frame.lane[:LANE_BYTES], frame.due, frame.indexes)
        self._settle(frame.number, len(frame.indexes))

    def _ended(self, frame: frames.Ended) -> None:
        self._store.end(frame.number)
        self._settle(frame.number, WINDOW_MESSAGES)

    def _bounce(self, frame: frames.Bounce) -> None:
        try:
            number = self._store.add(birth=self._now(), flags=frame.flags, origin=b"bounce", sender=frame.sender,
                                     recipients=frame.recipients, content=frame.content, ends=frame.number)  # fmt: skip
        except StoreError:
            # No room for the bounce: the message stays as it is and is finished later.
            self._loop.call_later(NO_ROOM_SECONDS, self._give_back, frame.number)
            self._settle(frame.number, WINDOW_MESSAGES)
            return
        self._commits.wait(lambda is_durable: self._bounced(frame.number, number, is_durable))

    def _bounced(self, number: int, bounce: int, is_durable: bool) -> None:
        if is_durable and self._channel:
            self._channel.send(frames.Bounced(number, bounce))
        if not is_durable:
            self._give_back(number)
        self._settle(number, WINDOW_MESSAGES)

    def _give_back(self, number: int) -> None:
        try:
            self._store.give_back(number)
        except StoreError:
            return  # ended meanwhile
        self.wake()

    def _lost(self, channel: Channel) -> None:
        self._channel = None
        unrecorded, self._unrecorded = self._unrecorded, []
        for frame in unrecorded:
            with contextlib.suppress(StoreError, KeyError):  # then it is tried again, which is better than never
                self._handlers[type(frame)](frame)
        out, self._out = self._out, {}
        self._out_bytes = self._retries = self._retry_bytes = 0
        for number in out:
            self._give_back(number)
        if not self.is_stopping:
            self._look_in(UNREACHABLE_SECONDS if out else LONGEST_SLEEP_SECONDS)

    def _close_if_idle(self) -> None:
        self._idle = None
        if not self._out and self._channel:
            self._channel.close()


def _bounded(notes: list[bytes]) -> list[bytes]:
    """Return notes that fit into a frame with all the rest: when they are too long, equally much of each."""
    if sum(map(len, notes)) <= MAX_NOTES:
        return notes
    return [note[: MAX_NOTES // len(notes)] for note in notes]
