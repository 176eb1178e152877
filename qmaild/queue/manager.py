"""Manage: what is due goes to send, what came of it comes back. Knows the connection and when to look; not where mail goes.

The queue connects when something is due and closes when nothing has been outstanding for a while, so that
send may leave. A lost connection makes everything that was out due again.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

from qmaild.protocol import frames
from qmaild.queue.answers import Answers
from qmaild.queue.commits import Commits
from qmaild.queue.handing import frame_of
from qmaild.queue.pacing import BATCH, Pace
from qmaild.queue.store import FRESH, RETRY, Store
from qmaild.queue.values import Job, StoreError
from qmaild.queue.window import Window
from qmaild.runtime import poller
from qmaild.runtime.channel import Channel

LANE_MESSAGES = 300  # deferred ones of one lane: a destination that has died keeps no others out
UNREAD_BYTES = 64 << 10  # that send has not taken yet: above it nothing deferred follows, for new mail would stand behind it
UNREAD_FRESH_BYTES = 8 << 20  # the same for new mail: addresses of mailings, which are no content, are bounded by it
UNREACHABLE_SECONDS = 1.0  # between tries to reach send
LONGEST_SLEEP_SECONDS = 60.0  # a clock that jumps is noticed within this
IDLE_SECONDS = 5.0  # rule 11
TROUBLE_SECONDS = 5.0  # until a message that could not be handed out is tried again


class Manager:
    """The queue's end of manage. wake() whenever something may have become due."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, store: Store, commits: Commits, now: Callable[[], int], path: str,
        believed: Callable[[int], int],
    ) -> None:  # fmt: skip
        self._loop = loop
        self._store = store
        self._now = now
        self._believed = believed  # a birth, by the clock as it is now
        self._path = path
        self._channel: Channel | None = None
        self._window = Window()
        self._pace = Pace()
        self._answers = Answers(loop, store, commits, now, self._window, self._woken, self._tell)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._poller = poller.of(loop)
        self._is_looking_soon = False
        self._idle: asyncio.TimerHandle | None = None
        self.is_stopping = False
        self.on_trouble: Callable[[str], None] = lambda text: None
        self.is_held: Callable[[], bool] = lambda: False  # an administrator wants nothing delivered now
        store.limit(LANE_MESSAGES)

    @property
    def outstanding(self) -> int:
        """Messages that send has and has not settled."""
        return len(self._window)

    def wake(self) -> None:
        """New messages are durable, or something was made due, or there is room again: look, at our pace."""
        left = self._pace.wait(self._loop.time())
        if left > 0:
            self._look_in(left)
        else:
            self._look_soon()

    def close(self, seconds: int) -> None:
        """Let go of send, which has so many seconds to answer what is in flight; what else is out is due again."""
        self.is_stopping = True
        if self._channel and self._window:
            self._channel.send(frames.Leaving(seconds))
        elif self._channel:
            self._channel.close()

    @property
    def is_parting(self) -> bool:
        """Whether send has still to answer something before a stop."""
        return self.is_stopping and self._channel is not None

    # --- when to look

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
        return wait if which == FRESH else max(wait, self._pace.retry_wait(self._loop.time()))

    def _has_room(self, which: int) -> bool:
        unread = self._channel.queued if self._channel else 0
        if which == FRESH:
            return unread < UNREAD_FRESH_BYTES and self._window.has_room
        return unread < UNREAD_BYTES and self._window.has_room_for_retries  # it wakes us when it has drained

    # --- handing out

    def _hand_out(self, now: int) -> None:
        begun, wait = self._loop.time(), self._wait(RETRY, now)
        share = self._pace.retries(begun) if wait is not None and wait <= 0 else 0
        fresh = self._hand_some(FRESH, BATCH - share, now)
        if fresh:
            self._pace.fresh_went(begun)
        self._hand_some(RETRY, share, now)
        if self._window and self._idle:
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
        assert self._channel is not None
        try:
            frame, descriptor = frame_of(self._store, job, self._believed)
        except (OSError, StoreError) as error:  # no descriptor or memory for it now: it is due again soon
            self.on_trouble(f"{job.number} cannot be handed out: {error}")
            self._answers.give_back_later(job.number, TROUBLE_SECONDS)
            return
        self._window.add(job.number, len(job.recipients), len(job.content or frame.content), is_retry)
        self._channel.send(frame, descriptor)

    # --- the connection

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

    def _answer(self, channel: Channel, frame: Any, descriptor: int) -> None:
        if isinstance(frame, frames.Hello):
            if frame.version != frames.VERSION:
                channel.close()
        elif not self._answers.take(frame):
            channel.close()

    def _woken(self) -> None:
        """Something was answered, or given back."""
        self.wake()
        if not self._window and self._channel and not self._idle:
            self._idle = self._loop.call_later(IDLE_SECONDS, self._close_if_idle)

    def _tell(self, frame: frames.Bounced) -> None:
        if self._channel:
            self._channel.send(frame)

    def _lost(self, channel: Channel) -> None:
        self._channel = None
        had_out = bool(self._window)
        self._answers.lost()
        if not self.is_stopping:
            self._look_in(UNREACHABLE_SECONDS if had_out else LONGEST_SLEEP_SECONDS)

    def _close_if_idle(self) -> None:
        self._idle = None
        if not self._window and self._channel:
            self._channel.close()
