"""qmaild-send: the scheduler between the queue and the channels. Wires the brain; keeps the descriptors."""

from __future__ import annotations

import functools
import os
import random
import time
from collections.abc import Callable
from typing import Any

from qmaild.message import bounce, header
from qmaild.protocol import frames
from qmaild.runtime import journal, paths, poller
from qmaild.runtime.caller import Caller
from qmaild.runtime.channel import Channel
from qmaild.runtime.service import Service, run
from qmaild.scheduler.brain import Brain
from qmaild.scheduler.moves import (
    NO_TOKEN,
    Arrived,
    Changed,
    Committed,
    Continued,
    Event,
    Finished,
    Lost,
    More,
    Parting,
    Place,
    Record,
    Release,
    Reported,
    Stopping,
)

SHOWN = 100  # destinations in one answer
MAX_HEADER = 64 << 10  # of a large message's header section in a bounce


class Send:
    """The queue is the one client of manage; a new connection of it replaces the one before."""

    def __init__(self, shell: Service) -> None:
        self._service = shell
        self._queue: Channel | None = None
        self._is_parting = False  # it has said that it stops
        self._brain = Brain(shell.settings, random.random)
        self._local = Caller(shell.loop, paths.socket_of("local"), b"send")
        self._remote = Caller(shell.loop, paths.socket_of("remote"), b"send")
        self._done: dict[int, list[int]] = {}
        self._events: dict[type, Callable[[Any, int], None]] = {
            frames.Job: self._job,
            frames.Finish: self._finish,
            frames.Bounced: self._bounced,
            frames.Leaving: self._leaving,
        }
        self._commands: dict[type, Any] = {
            Place: self._place,
            Release: self._release,
            Record: self._record,
            More: self._more,
            frames.Done: self._collect,
            frames.Failed: self._answer,
            frames.Deferred: self._answer,
            frames.Ended: self._answer,
            frames.Bounce: self._answer,
        }
        shell.commands |= {b"destinations": self._destinations, b"revive": self._revive}
        shell.serve("manage", self._frame, self._closed, self._opened, takes_descriptors=True)
        shell.is_busy = lambda: self._brain.jobs + self._brain.in_flight > 0
        shell.is_unfinished = self._is_unfinished
        shell.status = self._status
        shell.on_reload = lambda: self._handle(Changed(shell.settings))
        shell.on_stop = lambda: self._handle(Stopping())

    def _is_unfinished(self) -> bool:
        return self._brain.in_flight > 0 or bool(self._done) or bool(self._queue and self._queue.queued)

    def _status(self) -> str:
        brain = self._brain
        return f"{brain.jobs} messages, {brain.in_flight} orders in flight, {brain.waiting} recipients waiting"

    def _destinations(self, words: list[bytes]) -> tuple[int, bytes]:
        """The destinations that take least, and why."""
        return 0, "\n".join(self._brain.paces.lines(time.time_ns() // 1000, SHOWN)).encode()

    def _revive(self, words: list[bytes]) -> tuple[int, bytes]:
        """An administrator wants mail to be tried now, whatever was learnt."""
        return 0, b"%d destinations are tried again" % self._brain.paces.revive()

    def _handle(self, event: Event) -> None:
        for command in self._brain.handle(event, time.time_ns() // 1000):
            self._commands[type(command)](command)

    # --- the queue

    def _opened(self, channel: Channel) -> None:
        before, self._queue = self._queue, channel
        self._is_parting = False
        if before:
            self._forget()
            before.close()

    def _closed(self, channel: Channel) -> None:
        if channel is self._queue:
            self._queue = None
            self._forget()

    def _forget(self) -> None:
        """Let what is out come again from the next queue, and take back from local and remote what they have not begun."""
        self._done.clear()
        self._handle(Lost())
        for caller in (self._local, self._remote):
            if caller.outstanding:
                caller.close()

    def _frame(self, channel: Channel, frame: Any, descriptor: int) -> None:
        handler = self._events.get(type(frame))
        if handler is None or channel is not self._queue or not _is_sound(frame):
            if descriptor >= 0:
                os.close(descriptor)
            channel.close()
            return
        handler(frame, descriptor)

    def _job(self, frame: frames.Job, descriptor: int) -> None:
        self._handle(Arrived(frame, descriptor if descriptor >= 0 else NO_TOKEN))

    def _finish(self, frame: frames.Finish, descriptor: int) -> None:
        limit = min(self._service.settings.bouncemaxbytes or bounce.MAX_COPY, bounce.MAX_COPY)
        is_whole = frame.size <= limit
        content = frame.content
        if descriptor >= 0:
            try:
                content += os.pread(descriptor, limit if is_whole else MAX_HEADER, 0)
            except OSError as error:
                journal.note(journal.ERROR, f"{frame.number}: cannot read the message for its bounce: {error.strerror}")
                is_whole = False
            finally:
                os.close(descriptor)
        if not is_whole:
            content = header.bounded(header.split(content)[0], MAX_HEADER)
        self._handle(Finished(frame, content, is_whole))

    def _bounced(self, frame: frames.Bounced, descriptor: int) -> None:
        self._handle(Committed(frame))

    def _leaving(self, frame: frames.Leaving, descriptor: int) -> None:
        """The queue stops: it gets the reports of what is in flight, and may go."""
        self._is_parting = True
        self._handle(Parting())
        self._service.loop.call_soon(self._part)

    def _part(self) -> None:
        """End the connection when the queue has been told everything: what it does not hear of is delivered again."""
        if not self._is_parting or not self._queue or self._brain.in_flight:
            return
        if self._done or self._queue.queued:
            self._queue.on_drained = self._part
        else:
            self._queue.close()

    # --- what the brain wants done

    def _place(self, command: Place) -> None:
        order = command.order
        caller = self._local if order.lane == b"local" else self._remote
        reported = functools.partial(self._reported, order.tag)
        descriptor = -1
        if command.token != NO_TOKEN:
            try:
                descriptor = os.dup(command.token)
            except OSError as error:  # no descriptor is free: as good as a lost service
                journal.note(journal.WARNING, f"{order.number}: cannot hand on its descriptor: {error.strerror}")
                self._service.loop.call_soon(reported, None, -1)
                return
        caller.ask(reported, frames.Order, *order[1:], descriptor=descriptor)

    def _reported(self, order: int, report: Any, descriptor: int) -> None:
        # Whoever answers with another frame has parsed strangers' bytes once too often: as good as lost.
        self._handle(Reported(order, report if isinstance(report, frames.Report) else None))
        if self._is_parting:
            self._service.loop.call_soon(self._part)  # behind the answers

    def _release(self, command: Release) -> None:
        os.close(command.token)

    def _record(self, command: Record) -> None:
        journal.record(command.event, **command.values)

    def _more(self, command: More) -> None:
        self._service.loop.call_soon(self._handle, Continued())

    def _collect(self, command: frames.Done) -> None:
        """Recipients of one message that are served within a tick leave in one frame."""
        if not self._done:
            poller.of(self._service.loop).at_end(self._flush)
        self._done.setdefault(command.number, []).extend(command.indexes)

    def _flush(self) -> None:
        done, self._done = self._done, {}
        if self._queue:
            for number, indexes in done.items():
                self._queue.send(frames.Done(number, indexes))

    def _answer(self, command: frames.Frame) -> None:
        if self._queue:
            self._queue.send(command)


def _is_sound(frame: frames.Frame) -> bool:
    """Return whether the parallel lists of a frame from the queue are equally long."""
    if isinstance(frame, frames.Job):
        return len(frame.indexes) == len(frame.recipients)
    return not isinstance(frame, frames.Finish) or len(frame.notes) == len(frame.recipients)


def build(shell: Service) -> None:
    """Make the brain and its wiring."""
    Send(shell)


if __name__ == "__main__":
    run("send", build)
