"""What send says of what is out: recorded in the store, and settled in the window. Knows both; no connection.

An answer that the store cannot take in now is kept until it can: its recipients stay out, and nobody else tries them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from qmaild.protocol import frames
from qmaild.queue.commits import Commits
from qmaild.queue.store import LANE_BYTES, Store
from qmaild.queue.values import StoreError
from qmaild.queue.window import Window

EVERYBODY = 1 << 32  # more recipients than a message can have
NO_ROOM_SECONDS = 60.0  # a bounce that found the disk full is made again after this
RECORD_SECONDS = 1.0  # what could not be recorded is recorded after this
PASSING = ("memory", "io", "space")  # why the store may refuse now and not later


class Answers:
    """wake: there is more room, or something is due again. tell: send is to hear this."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, store: Store, commits: Commits, now: Callable[[], int], window: Window,
        wake: Callable[[], None], tell: Callable[[frames.Bounced], None],
    ) -> None:  # fmt: skip
        self._loop = loop
        self._store = store
        self._commits = commits
        self._now = now
        self._window = window
        self._wake = wake
        self._tell = tell
        self._unrecorded: list[Any] = []  # what the store could not take in yet
        self._handlers: dict[type, Callable[[Any], None]] = {
            frames.Done: self._done, frames.Failed: self._failed, frames.Deferred: self._deferred,
            frames.Ended: self._ended, frames.Bounce: self._bounce,
        }  # fmt: skip

    def take(self, frame: Any) -> bool:
        """Record one answer. False: that is none."""
        handler = self._handlers.get(type(frame))
        if handler is None:
            return False
        if frame.number in self._window:  # else it is about a message that an administrator has deleted meanwhile
            self._record(handler, frame)
            self._commits.kick()
        return True

    def lost(self) -> None:
        """No more answers come: all that is out is due again."""
        unrecorded, self._unrecorded = self._unrecorded, []
        for frame in unrecorded:
            with contextlib.suppress(StoreError, KeyError):  # then it is tried again, which is better than never
                self._handlers[type(frame)](frame)
        for number in self._window.clear():
            self.give_back(number)

    def give_back(self, number: int) -> None:
        """What is out of this message is due again now."""
        try:
            self._store.give_back(number)
        except StoreError:
            return  # ended meanwhile
        self._wake()

    def give_back_later(self, number: int, seconds: float) -> None:
        """The same, but not before send has answered all that it has of the message: that is not to come twice."""
        self._loop.call_later(seconds, self._give_back_alone, number, seconds)

    def _give_back_alone(self, number: int, seconds: float) -> None:
        if number in self._window:
            self.give_back_later(number, seconds)
        else:
            self.give_back(number)

    def _record(self, handler: Callable[[Any], None], frame: Any) -> None:
        try:
            handler(frame)
        except StoreError as error:
            if error.reason not in PASSING:
                # Deleted meanwhile, or an index that never was: nothing was recorded, nothing is lost.
                self._settle(frame.number, EVERYBODY)
                return
            if not self._unrecorded:
                self._loop.call_later(RECORD_SECONDS, self._record_again)
            self._unrecorded.append(frame)

    def _record_again(self) -> None:
        unrecorded, self._unrecorded = self._unrecorded, []
        for frame in unrecorded:
            if frame.number in self._window:
                self._record(self._handlers[type(frame)], frame)
        self._commits.kick()

    def _settle(self, number: int, recipients: int) -> None:
        if number in self._window:
            self._window.settle(number, recipients)
            self._wake()  # there may be room, or a lane had its limit out

    def _done(self, frame: frames.Done) -> None:
        self._store.done(frame.number, frame.indexes)
        self._settle(frame.number, len(frame.indexes))

    def _failed(self, frame: frames.Failed) -> None:
        out = self._window[frame.number]
        note = out.bounded(frame.note)
        self._store.fail(frame.number, frame.index, note)
        out.noted += len(note)
        self._settle(frame.number, 1)

    def _deferred(self, frame: frames.Deferred) -> None:
        # A lane is a name to wait under: that of a monstrous domain may be cut.
        self._store.defer(frame.number, frame.lane[:LANE_BYTES], frame.due, frame.indexes)
        self._settle(frame.number, len(frame.indexes))

    def _ended(self, frame: frames.Ended) -> None:
        self._store.end(frame.number)
        self._settle(frame.number, EVERYBODY)

    def _bounce(self, frame: frames.Bounce) -> None:
        try:
            number = self._store.add(birth=self._now(), flags=frame.flags, origin=b"bounce", sender=frame.sender,
                                     recipients=frame.recipients, content=frame.content, ends=frame.number)  # fmt: skip
        except StoreError:
            # No room for the bounce: the message stays as it is and is finished later.
            self.give_back_later(frame.number, NO_ROOM_SECONDS)
            self._settle(frame.number, EVERYBODY)
            return
        self._commits.wait(lambda is_durable: self._bounced(frame.number, number, is_durable))

    def _bounced(self, number: int, bounce: int, is_durable: bool) -> None:
        if is_durable:
            self._tell(frames.Bounced(number, bounce))
        else:
            self.give_back(number)
        self._settle(number, EVERYBODY)
