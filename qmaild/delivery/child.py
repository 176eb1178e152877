"""The child's side of its socket: orders in by batches, answers out, until the other end is closed.

It runs as the recipient, has no event loop and writes no log. In the program unit each delivery that may run
programs gets a process of its own, so that a program that hangs holds up nobody but itself.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import signal
import socket
from collections import deque
from typing import Any

from qmaild.delivery import questions
from qmaild.delivery.local import Deliverer
from qmaild.delivery.outcome import Outcome, of_error, temporary
from qmaild.protocol import frames, netstring

READ_BYTES = 64 << 10
BATCH = 100  # orders answered together
MAX_WORKERS = 8  # programs of one user at a time
_ANCILLARY = socket.CMSG_SPACE(16 * 4)

Order = tuple[Any, int]


class _End:
    """SIGTERM ends the child between deliveries: at once while it rests, else when what it began is answered."""

    def __init__(self) -> None:
        self.is_resting = False
        self.is_asked = False
        signal.signal(signal.SIGTERM, self._asked)

    def _asked(self, number: int, frame: object) -> None:
        self.is_asked = True
        if self.is_resting:
            os._exit(0)


class Inbox:
    """Orders as they come. Anything but an order or a question is a stream out of step: the end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = netstring.Reader(frames.MAX_FRAME)
        self._descriptors: deque[int] = deque()
        self._is_over = False
        self._poll = select.poll()
        self._poll.register(sock.fileno(), 0)  # POLLHUP is told unasked

    def take(self) -> list[Order]:
        """Wait for orders and return all that are there; none at the end of the stream, or once local is gone."""
        orders: list[Order] = []
        while len(orders) < BATCH and not self._is_over:
            try:
                wait = socket.MSG_DONTWAIT if orders else 0
                data, ancillary, flags, _ = self._sock.recvmsg(READ_BYTES, _ANCILLARY, socket.MSG_CMSG_CLOEXEC | wait)
            except BlockingIOError:
                break
            except OSError:
                return []
            if not data or flags & socket.MSG_CTRUNC:
                # No descriptor was free for one of an order: that order is lost, and only our end tells of it.
                self._is_over = True
                break
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    received = array.array("i")
                    received.frombytes(content[: len(content) - len(content) % received.itemsize])
                    self._descriptors.extend(received)
            orders += [self._order(frames.decode(payload)) for payload in self._reader.feed(data)]
        return self.wanted(orders)

    def wanted(self, orders: list[Order]) -> list[Order]:
        """Return these, or none if local is gone: they will be ordered again, so nothing of them is to be begun."""
        if not orders or not self._poll.poll(0):
            return orders
        for _, descriptor in orders:
            if descriptor >= 0:
                os.close(descriptor)
        return []

    def _order(self, frame: Any) -> Order:
        if not isinstance(frame, frames.Deliver | questions.Question):
            raise frames.FrameError("not an order")
        if isinstance(frame, frames.Deliver) and frame.descriptor:
            if not self._descriptors:
                raise frames.FrameError("a frame announced a descriptor that did not come")
            return frame, self._descriptors.popleft()
        return frame, -1


def serve(sock: socket.socket, host: bytes, has_programs: bool) -> None:
    """Answer orders until the end of the stream. A stream out of step raises ValueError."""
    sock.setblocking(True)
    deliverer = Deliverer(host, has_programs)
    end = _End()
    if has_programs:
        _Workers(sock, deliverer, end).run()
        return
    inbox = Inbox(sock)
    while not end.is_asked:
        end.is_resting = True
        orders = inbox.take()
        end.is_resting = False
        if not orders:
            return
        for answers in deliverer.answer(orders):
            sock.sendall(b"".join([frames.encode(answer) for answer in answers]))


class _Workers:
    """One forked process per order, a bounded number at a time; each leaves its answer in a pipe."""

    def __init__(self, sock: socket.socket, deliverer: Deliverer, end: _End) -> None:
        self._sock = sock
        self._deliverer = deliverer
        self._end = end
        self._inbox = Inbox(sock)
        self._waiting: deque[Order] = deque()
        # Held open by this process alone: when it is killed, its workers end their programs and themselves.
        self._lifeline, self._alive = os.pipe2(os.O_CLOEXEC)
        self._running: dict[int, tuple[int, int, bytearray]] = {}  # pipe to (process, tag, answer so far)

    def run(self) -> None:
        is_open = True
        while (is_open and not self._end.is_asked) or self._waiting or self._running:
            poll = select.poll()
            for pipe in self._running:
                poll.register(pipe, select.POLLIN)
            # No more is read than can be begun: what waits, waits in the socket, where local sees it.
            if is_open and not self._waiting:
                poll.register(self._sock.fileno(), select.POLLIN)
            self._end.is_resting = not self._waiting and not self._running
            events = poll.poll(0 if self._may_start() else None)
            self._end.is_resting = False
            for ready, _ in events:
                if ready != self._sock.fileno():
                    self._collect(ready)
                else:
                    orders = self._inbox.take()
                    self._waiting.extend(orders)
                    is_open = bool(orders)
            self._waiting = deque(self._inbox.wanted(list(self._waiting)))
            while self._may_start():
                self._start(self._waiting.popleft())

    def _may_start(self) -> bool:
        return bool(self._waiting) and len(self._running) < MAX_WORKERS

    def _start(self, order: Order) -> None:
        if not isinstance(order[0], frames.Deliver):
            self._say(self._answer(order))
            return
        try:
            reading, writing, process = _fork()
        except OSError as error:
            self._say(_unanswered(order[0].tag, of_error(b"start a program", error)))
            if order[1] >= 0:
                os.close(order[1])
            return
        if process == 0:
            try:
                self._sock.close()  # or local would not notice our end
                os.close(self._alive)
                self._deliverer.lifeline = self._lifeline
                # A worker stays to tell the outcome: a stop of the unit ends its program, not it.
                signal.signal(signal.SIGTERM, lambda number, frame: None)
                with os.fdopen(writing, "wb") as out:
                    out.write(self._answer(order))
            finally:
                os._exit(0)
        os.close(writing)
        if order[1] >= 0:
            os.close(order[1])
        self._running[reading] = (process, order[0].tag, bytearray())

    def _answer(self, order: Order) -> bytes:
        return b"".join([frames.encode(answer) for answers in self._deliverer.answer([order]) for answer in answers])

    def _collect(self, pipe: int) -> None:
        process, tag, answer = self._running[pipe]
        data = os.read(pipe, READ_BYTES)
        if data:
            answer += data
            return
        os.close(pipe)
        del self._running[pipe]
        os.waitpid(process, 0)
        # Killed, by the user perhaps: what it did is unknown, and unknown is temporary.
        self._say(answer or _unanswered(tag, _DIED))

    def _say(self, answer: bytes) -> None:
        with contextlib.suppress(OSError):  # local is gone: no reason to end the programs that run
            self._sock.sendall(answer)


def _fork() -> tuple[int, int, int]:
    """Return both ends of a pipe and what fork said. OSError: there is neither pipe nor process."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        return reading, writing, os.fork()
    except OSError:
        os.close(reading)
        os.close(writing)
        raise


def _unanswered(tag: int, outcome: Outcome) -> bytes:
    """The answer to an order that no worker has answered."""
    return frames.encode(frames.Delivered(tag, outcome.outcome, outcome.enhanced, outcome.text, b"", []))


_DIED = temporary(b"4.3.0", b"the deliverer was ended before it was done")
