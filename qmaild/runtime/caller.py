"""The asking end of a service: one connection made when there is something to ask, closed when there is not.

Only clients close (after 5 s with nothing outstanding), so idle services unwind from the doors inwards and
no question meets a closing server. A server that stops says so: what it was asked it still answers, while new
questions go over a new connection, to its successor. A question whose server is lost is answered None: temporary.

systemd holds the socket, so that a connection is made whether or not anybody serves. Nothing is asked before the server
has said Hello, and what has waited for that too long is answered None, without ever having been sent: no successor acts
on what its asker was told to be undone. A server that hangs later is ended by the watchdog, and its connections with it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from qmaild.protocol import frames
from qmaild.runtime import journal
from qmaild.runtime.channel import Channel

IDLE_SECONDS = 5.0  # rule 11: shorter than any server's idle exit
CONNECT_RETRY_SECONDS = 0.05  # a full backlog (EAGAIN) clears in about this time
PATIENCE_SECONDS = 30.0  # for the Hello: a start on demand with a million messages takes a third of it; clients wait longer

Answered = Callable[[Any, int], None]


class Caller:
    """Questions to the service at `path`. Every frame class asked with has `tag` as its first field.

    ask() returns the tag; done(frame, descriptor) is called exactly once, with (None, -1) if the server was
    lost or cannot be reached. send() adds frames to an open question (Piece, End, Abort); Taken answers none, and goes
    to on_taken. takes_descriptors: whether answers have any; otherwise a server that sends one is cut off.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, path: str, role: bytes, takes_descriptors: bool = False) -> None:
        self._loop = loop
        self._path = path
        self._hello = frames.Hello(frames.VERSION, role)
        self._takes_descriptors = takes_descriptors
        self._channel: Channel | None = None
        self._is_greeted = False  # its server has said Hello
        self._waiting: dict[int, Answered] = {}
        self._leaving: dict[Channel, set[int]] = {}  # connections to servers that stop: what they have still to answer
        self._tag = 0
        self._idle: asyncio.TimerHandle | None = None
        self._rested = 0.0  # since when nothing has been outstanding
        self._backlog: list[tuple[bytes, int]] = []  # what waits for the Hello
        self._backlog_bytes = 0
        self._patience: asyncio.TimerHandle | None = None  # runs while there is a backlog
        self.is_away = False  # somebody has waited for the server in vain, and it has said nothing since
        self.on_drained: Callable[[], None] | None = None  # the server has taken everything, or is lost
        self.on_taken: Callable[[frames.Taken], None] | None = None  # None: no server of ours has any to say

    @property
    def outstanding(self) -> int:
        """Questions without an answer yet."""
        return len(self._waiting)

    @property
    def queued(self) -> int:
        """Bytes that wait to be written to the server: whoever asks much waits while they are many."""
        here = self._channel.queued if self._channel else 0
        return here + self._backlog_bytes + sum([channel.queued for channel in self._leaving])

    def ask(self, done: Answered, kind: Callable[..., Any], *fields: Any, descriptor: int = -1) -> int:
        """Send kind(tag, *fields) and call done with its answer. Returns the tag."""
        self._tag += 1
        tag = self._tag
        self._waiting[tag] = done
        self._put(kind(tag, *fields), descriptor)
        return tag

    def send(self, frame: frames.Frame, descriptor: int = -1) -> None:
        """Send one more frame of a question that is open; one whose server was lost is dropped. The descriptor is taken."""
        tag = frame[0]
        if tag not in self._waiting:
            if descriptor >= 0:
                os.close(descriptor)
            return
        for channel, tags in self._leaving.items():
            if tag in tags:
                channel.send(frame, descriptor)
                return
        self._put(frame, descriptor)

    def forget(self, tag: int) -> None:
        """The asker wants no answer any more; a late one is dropped."""
        self._waiting.pop(tag, None)
        for channel in list(self._leaving):
            self._settled(channel, tag)
        self._rest_if_idle()

    def close(self) -> None:
        """Close the connection; open questions are answered None."""
        for channel in list(self._leaving):
            channel.close()
        self._give_up()

    def _give_up(self) -> None:
        """Wait no longer for the server."""
        self._end_patience()
        if self._channel:
            self._channel.close()
        else:
            self._fail()

    def _end_patience(self) -> None:
        if self._patience:
            self._patience.cancel()
            self._patience = None

    def _put(self, frame: frames.Frame, descriptor: int) -> None:
        if self._channel and self._is_greeted:
            self._channel.send(frame, descriptor)
            return
        data = frames.encode(frame)
        self._backlog.append((data, descriptor))
        self._backlog_bytes += len(data)
        if not self._patience:
            self._patience = self._loop.call_later(PATIENCE_SECONDS, self._out_of_patience)
            self._loop.call_soon(self._connect)

    def _out_of_patience(self) -> None:
        journal.note(journal.WARNING, f"nobody serves {self._path}: given up after {PATIENCE_SECONDS:.0f} seconds")
        self.is_away = True
        self._give_up()

    def _connect(self) -> None:
        if self._channel or not self._backlog:
            return
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:  # no descriptor is free: as good as no server
            journal.note(journal.WARNING, f"cannot connect to {self._path}: {error.strerror}")
            self._fail()
            return
        code = sock.connect_ex(self._path)
        if code:
            sock.close()
            if code == errno.EAGAIN:
                self._loop.call_later(CONNECT_RETRY_SECONDS, self._connect)
            else:
                self._fail()
            return
        self._is_greeted = False
        self._channel = Channel(self._loop, sock, self._answer, self._lost, takes_descriptors=self._takes_descriptors)
        self._channel.on_drained = self.on_drained
        self._channel.send(self._hello)

    def _greeted(self, channel: Channel, version: int) -> None:
        """Somebody serves: ask what has waited. A server of another version is asked nothing, and that is temporary."""
        self._end_patience()
        if version != frames.VERSION:
            channel.close()
            return
        self._is_greeted = True
        self.is_away = False
        backlog, self._backlog, self._backlog_bytes = self._backlog, [], 0
        for data, descriptor in backlog:
            channel.send_encoded(data, descriptor)
        self._rest_if_idle()

    def _answer(self, channel: Channel, frame: Any, descriptor: int) -> None:
        is_first = channel is self._channel and not self._is_greeted
        if is_first != isinstance(frame, frames.Hello):
            channel.close()  # it is out of step
            return
        if is_first:
            self._greeted(channel, frame.version)
            return
        if isinstance(frame, frames.Leaving):
            self._part_from(channel)
            return
        if isinstance(frame, frames.Taken):
            if self.on_taken:
                self.on_taken(frame)
            else:
                channel.close()
            return
        done = self._waiting.pop(frame[0], None)
        if done is None:
            if descriptor >= 0:
                os.close(descriptor)
        else:
            done(frame, descriptor)
        if channel in self._leaving:
            self._settled(channel, frame[0])
        self._rest_if_idle()

    def _part_from(self, channel: Channel) -> None:
        """Its server stops: keep the connection for what was asked over it, and no longer."""
        if channel is not self._channel:
            return
        self._channel = None
        if self._idle:
            self._idle.cancel()
            self._idle = None
        elsewhere = {tag for tags in self._leaving.values() for tag in tags}
        self._leaving[channel] = self._waiting.keys() - elsewhere
        self._settled(channel, 0)

    def _settled(self, channel: Channel, tag: int) -> None:
        self._leaving[channel].discard(tag)
        if not self._leaving[channel]:
            channel.close()

    def _rest_if_idle(self) -> None:
        if self._waiting or not self._channel or not self._is_greeted:
            return
        self._rested = self._loop.time()
        if not self._idle:  # one timer that looks again, not one for every pause between two questions
            self._idle = self._loop.call_later(IDLE_SECONDS, self._close_if_idle)

    def _close_if_idle(self) -> None:
        self._idle = None
        if self._waiting or not self._channel:
            return
        left = self._rested + IDLE_SECONDS - self._loop.time()
        if left > 0:
            self._idle = self._loop.call_later(left, self._close_if_idle)
        else:
            self._channel.close()

    def _lost(self, channel: Channel) -> None:
        left = self._leaving.pop(channel, None)
        if left is None:
            self._channel = None
            if self._patience:  # it went before it was asked anything: perhaps there is another
                self._loop.call_later(CONNECT_RETRY_SECONDS, self._connect)
            else:
                self._fail()
        else:
            self._answer_none(left)
            self._drained()
            self._rest_if_idle()

    def _fail(self) -> None:
        self._end_patience()
        backlog, self._backlog, self._backlog_bytes = self._backlog, [], 0
        for _, descriptor in backlog:
            if descriptor >= 0:
                os.close(descriptor)
        elsewhere = {tag for tags in self._leaving.values() for tag in tags}
        self._answer_none(self._waiting.keys() - elsewhere)
        self._drained()

    def _answer_none(self, tags: set[int]) -> None:
        for done in [self._waiting.pop(tag) for tag in sorted(tags) if tag in self._waiting]:
            done(None, -1)

    def _drained(self) -> None:
        if self.on_drained:
            self.on_drained()
