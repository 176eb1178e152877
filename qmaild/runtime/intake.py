"""How a door hands a message to the queue: whole if it is small, in pieces as it streams in if it is large.

A piece is sealed memory whose descriptor the queue gets: its bytes go through no socket. Memory is bounded thrice:
a message is held here only up to MAX_WHOLE bytes, a piece up to PIECE, and all messages together up to MAX_HELD; beyond
that streams hand on what they have of a piece, and if this is not enough, small messages become streams. A door reads no
more of any message while `is_congested`: the queue has taken too little of what it was given.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from qmaild.protocol import frames
from qmaild.runtime import system
from qmaild.runtime.caller import Caller

MAX_WHOLE = 256 << 10  # a message up to here goes as one frame: the queue keeps those in its segments
MAX_HELD = 64 << 20  # of all messages under way; more are streamed from their next piece on
MAX_STREAMS = 1000  # as many as there are sessions, most often: of those, idle ones give way. The queue takes a few more
HIGH_WATER = 16 << 20  # bytes that the queue has not taken: above it nothing more is read from clients
PIECE = 1 << 20

Answer = frames.Accepted | frames.Refused | None
Answered = Callable[[Answer], None]

_NO_STREAM = frames.Refused(0, frames.TEMPORARY, b"4.3.1", b"too many large messages at this moment")
_NO_MEMORY = frames.Refused(0, frames.TEMPORARY, b"4.3.1", b"no memory for a large message at this moment")


class Intake:
    """The connection of one process to the queue. All its drafts share it."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._waiting: list[Callable[[], None]] = []
        self._streams: dict[int, Draft] = {}  # by tag; an aborted one until the queue has taken its pieces
        self.held = 0  # bytes of unfinished messages in memory
        self.handed_on = 0  # bytes of pieces that the queue has not taken yet
        caller.on_drained = self._drained
        caller.on_taken = self._taken

    @property
    def outstanding(self) -> int:
        """Messages and streams without an answer yet."""
        return self._caller.outstanding

    @property
    def streams(self) -> int:
        """Large messages under way."""
        return len(self._streams)

    @property
    def is_congested(self) -> bool:
        return self._caller.queued + self.handed_on > HIGH_WATER

    def when_drained(self, go_on: Callable[[], None]) -> None:
        """Call go_on once, when the queue has taken what was written or is lost."""
        self._waiting.append(go_on)

    def draft(self) -> Draft:
        """Begin a message."""
        return Draft(self, self._caller)

    def begin(self, tag: int, draft: Draft) -> None:
        """The draft is a stream from now on."""
        self._streams[tag] = draft

    def end(self, tag: int) -> None:
        """The stream is over."""
        del self._streams[tag]

    def make_room(self) -> None:
        """Let no stream hold memory in which a small message could stay whole."""
        if self.held > MAX_HELD:
            for draft in list(self._streams.values()):
                draft.hand_on()

    def let_go(self, size: int) -> None:
        """The queue has taken so many bytes of pieces, or will never take them."""
        self.handed_on -= size
        self._drained()

    def _taken(self, frame: frames.Taken) -> None:
        draft = self._streams.get(frame.tag)
        if draft:
            draft.taken(frame.size)

    def _drained(self) -> None:
        if self._waiting and not self.is_congested:
            waiting, self._waiting = self._waiting, []
            for go_on in waiting:
                go_on()


class Draft:
    """One message on its way to the queue: write() pieces, then finish() or abort(), once."""

    __slots__ = ("_answer", "_caller", "_done", "_handed_on", "_intake", "_is_answered", "_memory", "_parts", "_size", "_tag")

    def __init__(self, intake: Intake, caller: Caller) -> None:
        self._intake = intake
        self._caller = caller
        self._parts: list[bytes] = []
        self._size = 0  # bytes in _parts, or in _memory
        self._tag = 0  # of the open stream
        self._memory = -1  # its next piece
        self._handed_on = 0  # bytes of pieces that the queue has not taken
        self._done: Answered | None = None
        self._is_answered = False  # early: the rest of a stream is of no use
        self._answer: Answer = None

    def write(self, text: bytes) -> None:
        """Take the next piece of the content."""
        if self._is_answered:
            return
        if self._tag:
            self._stream(text)
            return
        self._parts.append(text)
        self._size += len(text)
        self._intake.held += len(text)
        self._intake.make_room()
        if self._size > MAX_WHOLE or self._intake.held > MAX_HELD:
            self._open()

    def finish(
        self, done: Answered, prefix: bytes, flags: int, origin: bytes, sender: bytes,
        recipients: list[bytes], serves: tuple[int, int] = (0, 0),
    ) -> None:  # fmt: skip
        """End the message. done is called once, perhaps at once, with the answer; None if it was lost."""
        if self._is_answered:
            done(self._answer)
            return
        self._done = done
        if self._tag:
            self.hand_on()
            self._caller.send(frames.End(self._tag, flags, origin, sender, recipients, prefix, *serves))
            return
        content = b"".join([prefix, *self._parts])
        self._release()
        fields = (flags, origin, sender, recipients, content, *serves)
        self._caller.ask(self._whole_answered, frames.Message, *fields)

    def abort(self) -> None:
        """Drop the message. Nothing of it is stored."""
        if self._is_answered:
            return
        self._release()
        self._is_answered = True
        self._done = None
        if self._tag:
            self._caller.send(frames.Abort(self._tag))
            self._forget_if_taken()

    def taken(self, size: int) -> None:
        """The queue has taken so much more of it, or says so."""
        size = max(0, min(size, self._handed_on))
        self._handed_on -= size
        self._intake.let_go(size)
        if self._is_answered and self._tag:
            self._forget_if_taken()

    def hand_on(self) -> None:
        """Give the queue the piece that there is."""
        size, memory = self._size, self._memory
        if not size:
            return
        self._memory = -1
        self._release()
        system.seal(memory)
        self._handed_on += size
        self._intake.handed_on += size
        self._caller.send(frames.Piece(self._tag, size, 1), memory)

    def _forget_if_taken(self) -> None:
        """Pieces of a stream that was aborted fill memory until the queue has come past them, and count until then."""
        if not self._handed_on:
            tag, self._tag = self._tag, 0
            self._caller.forget(tag)
            self._intake.end(tag)

    def _release(self) -> None:
        self._intake.held -= self._size
        self._parts = []
        self._size = 0
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1

    def _open(self) -> None:
        parts = self._parts
        self._release()
        if self._intake.streams >= MAX_STREAMS:
            self._is_answered = True
            self._answer = _NO_STREAM
            return
        self._tag = self._caller.ask(self._stream_answered, frames.Open)
        self._intake.begin(self._tag, self)
        for part in parts:
            if not self._is_answered:
                self._stream(part)

    def _stream(self, text: bytes) -> None:
        try:
            if self._memory < 0:
                self._memory = system.memfd()
            system.write_all(self._memory, text)
        except OSError:
            self.abort()
            self._answer = _NO_MEMORY
            return
        self._size += len(text)
        self._intake.held += len(text)
        if self._size >= PIECE:
            self.hand_on()
        self._intake.make_room()

    def _whole_answered(self, answer: Any, descriptor: int) -> None:
        if self._done:
            self._done(answer)

    def _stream_answered(self, answer: Any, descriptor: int) -> None:
        self._intake.end(self._tag)
        self._tag = 0
        self._release()
        self._is_answered = True
        self._answer = answer
        handed_on, self._handed_on = self._handed_on, 0
        self._intake.let_go(handed_on)
        if self._done:
            self._done(answer)
