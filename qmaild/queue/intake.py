"""Intake: doors' messages into the store, answered when durable. Knows frames and commits; not what a door is.

Every number from a peer is bounded here, whatever the door has checked: a door is a peer like any other.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from qmaild.message.address import MAX_ADDRESS
from qmaild.protocol import frames
from qmaild.protocol.frames import PERMANENT, TEMPORARY
from qmaild.queue.commits import Commits
from qmaild.queue.store import Staged, Store
from qmaild.queue.values import StoreError
from qmaild.runtime import strangers, system
from qmaild.runtime.channel import Channel

MAX_RECIPIENTS = 100_000  # of one message: what one record holds (Q_RECIPIENTS_MAX)
MAX_ENVELOPE = 8 << 20  # bytes of its addresses: a job with more would be no frame, and hold up all mail behind it
MAX_ORIGIN = 256
MAX_PREFIX = 64 << 10  # trace fields and what policy may add
MAX_TRACE = 1 << 20  # above databytes: what was small enough once is not refused for the trace fields of its forwards
MAX_STREAMS = 1024  # large messages under way on one connection
MAX_PIECE = 16 << 20  # bytes that one frame may hold the loop with
BLOCK = 256  # recipients looked up at once: a mailing whose 100,000 recipients all forward is not read once for each
BLOCKS = 16  # of these that are remembered: a message's recipients never change
MAX_PENDING_BYTES = 64 << 20  # appended and not yet durable: above it nobody is read until the disk has caught up

_buffer = memoryview(bytearray(64 << 10))  # what is read of a piece before it is written; more at a time is slower

NO_ROOM = (TEMPORARY, b"4.3.1", b"insufficient system storage")
DISK_TROUBLE = (TEMPORARY, b"4.3.0", b"the message could not be stored")


class Intake:
    """All intake connections of the queue service. now() gives microseconds.

    forwarder: the uid that may say `serves`, about recipients that is_its says are its to deliver.
    """

    def __init__(
        self, store: Store, commits: Commits, now: Callable[[], int], forwarder: int, is_its: Callable[[bytes], bool],
        max_bytes: Callable[[], int], on_trouble: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._store = store
        self._commits = commits
        self._now = now
        self._forwarder = forwarder
        self._is_its = is_its
        self._block = functools.lru_cache(maxsize=BLOCKS)(
            lambda number, block: store.recipients(number, block * BLOCK, BLOCK))
        self._max_bytes = max_bytes
        self._on_trouble = on_trouble
        self._pending_bytes = 0
        self._paused: list[Channel] = []
        self._handlers: dict[type, Callable[[Channel, Any], None]] = {
            frames.Message: self._message, frames.Open: self._open,
            frames.End: self._end, frames.Abort: self._abort,
        }  # fmt: skip

    def opened(self, channel: Channel) -> None:
        channel.state = {}

    def frame(self, channel: Channel, frame: Any, descriptor: int) -> None:
        if isinstance(frame, frames.Piece):
            if not _is_piece(frame, descriptor):
                if descriptor >= 0:
                    strangers.close([descriptor])
                channel.close()
                return
            try:
                self._piece(channel, frame, descriptor)
            finally:
                os.close(descriptor)
            return
        handler = self._handlers.get(type(frame))
        if handler is None:
            channel.close()
            return
        handler(channel, frame)

    def closed(self, channel: Channel) -> None:
        for stream in (channel.state or {}).values():
            self._abandon(stream)
        if channel in self._paused:
            self._paused.remove(channel)

    def _refuse(self, channel: Channel, tag: int, answer: tuple[bytes, bytes, bytes]) -> None:
        channel.send(frames.Refused(tag, *answer))

    def _message(self, channel: Channel, message: frames.Message) -> None:
        self._add(channel, message, message.content, None)

    def _add(self, channel: Channel, message: frames.Message | frames.End, content: bytes, staged: Staged | None) -> None:
        wrong = self._what_is_wrong(channel, message)
        serves = (message.serves_number, message.serves_index) if message.serves_number else None
        if wrong:
            self._drop(staged)
            self._refuse(channel, message.tag, wrong)
            return
        try:
            number = self._store.add(
                birth=self._now(), flags=message.flags, origin=message.origin, sender=message.sender,
                recipients=message.recipients, content=content, staged=staged, serves=serves)  # fmt: skip
        except StoreError as error:
            self._drop(staged)
            self._on_trouble(str(error))
            self._refuse(channel, message.tag, NO_ROOM if error.reason == "space" else DISK_TROUBLE)
            return
        size = len(content)
        self._hold(channel, size)
        self._commits.wait(lambda is_durable: self._decided(channel, message.tag, number, size, is_durable))

    def _drop(self, staged: Staged | None) -> None:
        if staged:
            staged.abort()

    def _what_is_wrong(self, channel: Channel, message: frames.Message | frames.End) -> tuple[bytes, bytes, bytes] | None:
        if len(message.recipients) > MAX_RECIPIENTS:
            return PERMANENT, b"5.5.3", b"too many recipients"
        if len(message.origin) > MAX_ORIGIN:
            return PERMANENT, b"5.3.0", b"the origin is too long"
        if sum(map(len, message.recipients)) > MAX_ENVELOPE:
            return PERMANENT, b"5.5.3", b"the envelope is too long"
        for address in (message.sender, *message.recipients):
            # One more than the documented limit each way, as qmail-queue takes.
            if len(address) > MAX_ADDRESS + 2 or b"\0" in address:
                return PERMANENT, b"5.1.3", b"an envelope address is too long"
        if message.serves_number and not self._may_serve(channel, message.serves_number, message.serves_index):
            return TEMPORARY, b"4.3.0", b"that delivery is not under way"
        return None

    def _may_serve(self, channel: Channel, number: int, index: int) -> bool:
        """A forward may finish a delivery only if local says so, that delivery is out, and it is local that has it.

        Where a new recipient goes is no fact of the queue: the same settings tell that tell send. If they have changed
        since send looked, the delivery is made again.
        """
        if channel.peer.uid != self._forwarder or not self._store.is_out(number, index):
            return False
        try:
            return self._is_its(self._block(number, index // BLOCK)[index % BLOCK])
        except StoreError:
            return False

    def _decided(self, channel: Channel, tag: int, number: int, size: int, is_durable: bool) -> None:
        self._pending_bytes -= size
        if is_durable:
            channel.send(frames.Accepted(tag, number))
        else:
            self._refuse(channel, tag, DISK_TROUBLE)
        if self._paused and self._pending_bytes < MAX_PENDING_BYTES // 2:
            paused, self._paused = self._paused, []
            for each in paused:
                each.resume()

    def _hold(self, channel: Channel, size: int) -> None:
        self._pending_bytes += size
        if self._pending_bytes > MAX_PENDING_BYTES and channel not in self._paused:
            channel.pause()
            self._paused.append(channel)

    # --- large messages: a file of their own, written as they come

    def _open(self, channel: Channel, frame: frames.Open) -> None:
        if len(channel.state) >= MAX_STREAMS or frame.tag in channel.state:
            channel.close()
            return
        try:
            channel.state[frame.tag] = _Stream(self._store.stage())
        except StoreError as error:
            self._on_trouble(str(error))
            self._refuse(channel, frame.tag, NO_ROOM if error.reason == "space" else DISK_TROUBLE)

    def _piece(self, channel: Channel, frame: frames.Piece, descriptor: int) -> None:
        stream = channel.state.get(frame.tag)
        if stream is None or stream.ending:
            return  # refused before: the door has not heard yet
        stream.size += frame.size
        limit = self._max_bytes()
        try:
            if limit and stream.size > limit + MAX_TRACE:
                self._give_up(channel, frame.tag, (PERMANENT, b"5.3.4", b"the message is too large"))
                return
            for place in range(0, frame.size, len(_buffer)):
                stream.staged.write(_buffer[: os.preadv(descriptor, [_buffer], place)])
        except (StoreError, OSError) as error:
            self._on_trouble(str(error))
            is_full = isinstance(error, StoreError) and error.reason == "space"
            self._give_up(channel, frame.tag, NO_ROOM if is_full else DISK_TROUBLE)
            return
        channel.send(frames.Taken(frame.tag, frame.size))

    def _end(self, channel: Channel, frame: frames.End) -> None:
        stream = channel.state.get(frame.tag)
        if stream is None or stream.ending:
            return
        if stream.staged.size != stream.size:  # a fault of ours cut a piece short
            self._give_up(channel, frame.tag, DISK_TROUBLE)
            return
        if len(frame.prefix) > MAX_PREFIX:
            self._give_up(channel, frame.tag, (PERMANENT, b"5.3.4", b"the trace fields are too long"))
            return
        stream.ending = True
        self._commits.staged[stream.staged.number] = lambda is_durable: self._synced(channel, frame, is_durable)
        stream.staged.sync()

    def _synced(self, channel: Channel, frame: frames.End, is_durable: bool) -> None:
        stream = (channel.state or {}).pop(frame.tag, None)
        if stream is None or not channel.is_open:
            return
        if not is_durable:
            stream.staged.abort()
            self._refuse(channel, frame.tag, DISK_TROUBLE)
            return
        self._add(channel, frame, frame.prefix, stream.staged)

    def _abort(self, channel: Channel, frame: frames.Abort) -> None:
        stream = channel.state.pop(frame.tag, None)
        if stream:
            self._abandon(stream)

    def _abandon(self, stream: _Stream) -> None:
        """Nobody wants it any more. Of a file that is being synced the core tells nothing then."""
        self._commits.staged.pop(stream.staged.number, None)
        stream.staged.abort()

    def _give_up(self, channel: Channel, tag: int, answer: tuple[bytes, bytes, bytes]) -> None:
        channel.state.pop(tag).staged.abort()
        self._refuse(channel, tag, answer)


def _is_piece(frame: frames.Piece, descriptor: int) -> bool:
    """Return whether this is memory of the size that was said, which nobody can change any more."""
    is_possible = descriptor >= 0 and 0 < frame.size <= MAX_PIECE
    return is_possible and system.is_sealed(descriptor) and os.fstat(descriptor).st_size == frame.size


class _Stream:
    """A large message on its way in."""

    __slots__ = ("ending", "size", "staged")

    def __init__(self, staged: Staged) -> None:
        self.staged = staged
        self.size = 0
        self.ending = False
