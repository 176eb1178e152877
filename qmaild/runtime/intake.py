"""How a door hands a message to the queue: whole if it is small, in pieces as it streams in if it is large.

A piece is sealed memory whose descriptor the queue gets: its bytes go through no socket. Memory is bounded thrice:
a message is held here only up to MAX_WHOLE bytes, a piece up to PIECE, and all messages together up to MAX_HELD (or
SMALLEST each, if there are more than 4096 of them). Beyond that those that hold most hand it on, and are streams from then
on: messages that somebody begins and does not end cost a file each, once, while a small message stays whole beside any
number of them. A door reads no more of any message while `is_congested`: the queue has taken too little of what it was given.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from qmaild.protocol import frames
from qmaild.runtime import journal, system
from qmaild.runtime.caller import Caller

MAX_WHOLE = 256 << 10  # a message up to here goes as one frame: the queue keeps those in its segments
MAX_HELD = 64 << 20  # of all messages under way: above it those that hold most hand it on
ROOM = 8 << 20  # that is made so, at a time: half of what the queue may leave untaken
SMALLEST = 16 << 10  # a message that holds less stays as it is: a piece of it is not worth a descriptor, nor it a file
MAX_STREAMS = 1000  # as many as there are sessions, most often: of those, idle ones give way. The queue takes a few more
HIGH_WATER = 16 << 20  # bytes that the queue has not taken: above it nothing more is read from clients
PIECE = 1 << 20
NOTE_SECONDS = 60.0  # between two notes that memory is short

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
        self._holders: set[Draft] = set()  # those with SMALLEST or more
        self._noted = -NOTE_SECONDS
        self.held = 0  # bytes of unfinished messages in memory
        self.handed_on = 0  # bytes of pieces that the queue has not taken yet
        self.put_out = 0  # messages that became streams to make room, so far
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

    def holds(self, draft: Draft) -> None:
        """The draft has so much that it may have to hand it on."""
        self._holders.add(draft)

    def holds_nothing(self, draft: Draft) -> None:
        self._holders.discard(draft)

    def make_room(self) -> None:
        """Have those that hold most hand it on. Who holds least is asked last, however long the others have been still:
        a byte now and then costs an attacker nothing, memory that he wants to keep does.
        """
        before = self.put_out
        for draft in sorted(self._holders, key=attrgetter("size"), reverse=True):
            if self.held <= MAX_HELD - ROOM:
                break
            self.put_out += not draft.is_stream
            draft.give_room()
        if self.put_out > before and time.monotonic() - self._noted > NOTE_SECONDS:
            self._noted = time.monotonic()
            journal.note(journal.WARNING, f"messages under way fill {MAX_HELD >> 20} MiB: "
                                          f"{self.put_out - before} that held most have gone to the disk")  # fmt: skip

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

    __slots__ = ("_answer", "_caller", "_done", "_handed_on", "_intake", "_is_answered", "_memory", "_parts", "_tag", "size")

    def __init__(self, intake: Intake, caller: Caller) -> None:
        self._intake = intake
        self._caller = caller
        self._parts: list[bytes] = []
        self.size = 0  # bytes in _parts, or in _memory
        self._tag = 0  # of the open stream
        self._memory = -1  # its next piece
        self._handed_on = 0  # bytes of pieces that the queue has not taken
        self._done: Answered | None = None
        self._is_answered = False  # early: the rest of a stream is of no use
        self._answer: Answer = None

    def write(self, text: bytes) -> None:
        """Take the next piece of the content."""
        if self._is_answered or not text:
            return
        intake = self._intake
        if self._tag:
            self._stream(text)
        else:
            self._parts.append(text)
            self.size += len(text)
            intake.held += len(text)
            if self.size > MAX_WHOLE:
                self._open()
        if self.size >= SMALLEST:
            intake.holds(self)
        if intake.held > MAX_HELD:
            intake.make_room()

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
            self._hand_on()
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

    @property
    def is_stream(self) -> bool:
        return bool(self._tag)

    def give_room(self) -> None:
        """Hold nothing more of what came so far: the queue gets it."""
        if not self._tag:
            self._open()
        self._hand_on()

    def _hand_on(self) -> None:
        """Give the queue the piece that there is."""
        size, memory = self.size, self._memory
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
        self._intake.held -= self.size
        self._intake.holds_nothing(self)
        self._parts = []
        self.size = 0
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
        self.size += len(text)
        self._intake.held += len(text)
        if self.size >= PIECE:
            self._hand_on()

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
