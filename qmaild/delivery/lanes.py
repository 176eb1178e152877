"""Orders to remote hosts: which connection takes which, how recipients are split, what is reported.

Knows orders, connections and dial's answers; no reply codes but "too many recipients". Idle connections
wait a few seconds for the next order of their lane. Whatever goes wrong here is temporary.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

from qmaild.control.settings import Settings
from qmaild.delivery.orders import Report, Work
from qmaild.delivery.places import Idle, Place
from qmaild.delivery.smtp import Connection, Content, Where
from qmaild.protocol import frames
from qmaild.protocol.smtp_transaction import Result, Transaction

TRANSACTIONS = 100  # of one connection: then a new one, so that a site's balancing works
IDLE_SECONDS = 5.0  # rule 11: connections follow the work
IDLE_CONNECTIONS = 100  # kept in all
HOSTS_TRIED = 5  # addresses whose greeting refused us, for one order
SWEEP_SECONDS = 1.0

Ask = Callable[..., int]


def question_of(lane: bytes) -> tuple[bytes, bytes]:
    """Return purpose and name of the Connect that a lane needs."""
    name = lane.partition(b":")[2]
    return (b"route", name[1:]) if name.startswith(b"@") else (b"mx", name)


class Lanes:
    """Orders and connections of one service. ask is dial's Caller.ask; settings gives the present ones."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ask: Ask, settings: Callable[[], Settings]) -> None:
        self._loop = loop
        self._ask = ask
        self._settings = settings
        self._places: dict[Connection, Place] = {}
        self._idle = Idle()
        self._works: dict[Any, set[Work]] = {}
        self._dialing = 0
        self._sweeping = False
        self._is_stopping = False

    @property
    def connections(self) -> int:
        """Sessions and attempts to connect, idle sessions included."""
        return len(self._places) + self._dialing

    @property
    def idle(self) -> int:
        """Sessions that wait for an order."""
        return len(self._idle)

    @property
    def orders(self) -> int:
        return sum(len(works) for works in self._works.values())

    def deliver(self, asker: Any, order: frames.Order, descriptor: int, report: Report) -> None:
        """Carry out one order; report is called once, unless forget(asker) comes first."""
        try:
            content = Content(order.content, descriptor)
        except OSError as error:
            os.close(descriptor)
            work = Work(asker, order, Content(b""), report)
            self._refuse(work, b"4.3.0", f"The message cannot be read: {error.strerror}.".encode())
            return
        work = Work(asker, order, content, report)
        self._works.setdefault(asker, set()).add(work)
        self._find_connection(work)

    def forget(self, asker: Any) -> None:
        """The asker is gone, its orders will come again. What the peer may have taken already is let end."""
        for work in list(self._works.pop(asker, ())):
            work.report = None
            connection = work.place.connection if work.place else None
            if connection and not connection.session.is_past_dot:
                connection.drop()

    def stop(self) -> None:
        """Say goodbye on every connection, now or when its order has ended."""
        self._is_stopping = True
        for place in self._idle.all():
            self._quit(place)

    def _find_connection(self, work: Work) -> None:
        lane = work.order.lane.lower()
        place = self._idle.take(lane)
        if place:
            place.work = work
            work.place = place
            self._next(place)
            return
        if self.connections >= max(1, self._settings().concurrencyremote) * 2:
            if not self._idle:
                self._refuse(work, b"4.3.2", b"Too many connections are open.")
                return
            self._quit(self._idle.first())
        self._dial(work, lane)

    def _dial(self, work: Work, lane: bytes) -> None:
        self._dialing += 1
        purpose, name = question_of(lane)
        self._ask(lambda frame, descriptor: self._dialed(work, lane, frame, descriptor), frames.Connect,
                  purpose, name, work.skip, work.order.is_probe)  # fmt: skip

    def _dialed(self, work: Work, lane: bytes, frame: Any, descriptor: int) -> None:
        self._dialing -= 1
        if isinstance(frame, frames.Connected) and descriptor >= 0:
            if work.report is None:
                os.close(descriptor)
                self._finish(work)
                return
            where = Where(frame.protocol, frame.host, frame.address, frame.port, bool(frame.more))
            place = Place(lane, work)
            settings = self._settings()
            try:
                sock = socket.socket(fileno=descriptor)
            except OSError:
                os.close(descriptor)
                self._refuse(work, b"4.3.0", b"dial gave something that is no socket.")
                return
            connection = Connection(self._loop, sock, where, settings.helohost, settings.timeoutremote, self)
            place.connection = connection
            work.place = place
            self._places[connection] = place
            self._start_sweeping()
            return
        if descriptor >= 0:
            os.close(descriptor)
        if isinstance(frame, frames.NotConnected):
            work.give_up(*(work.refusal or (Result(frame.outcome, 0, frame.enhanced, frame.text), b"")))
            self._finish(work)
        else:
            self._refuse(work, b"4.3.0", b"I could not ask for a connection.")

    def ready(self, connection: Connection) -> None:
        place = self._places[connection]
        if place.work and place.work.report:
            self._next(place)
        else:
            connection.drop()

    def _next(self, place: Place) -> None:
        """Begin a transaction for the order's next recipients."""
        work, connection = place.work, place.connection
        if not work or not connection:
            return
        connection.begin(work.next_transaction(), work.content)

    def ended(self, connection: Connection, transaction: Transaction) -> None:
        place = self._places[connection]
        work, session = place.work, connection.session
        if not work:
            return
        if session.is_closed and not session.is_answered and session.transactions > 1:
            # A kept connection that the server had left meanwhile: nobody has seen this batch. A fresh
            # connection follows, and on that the first transaction counts whatever comes: this ends.
            place.is_stale = True
            work.take_back()
            return
        work.note(transaction, connection.where.text)
        if session.is_closed:
            return
        if work.report is None:
            work.pending.clear()  # nobody asks for the rest any more
        if work.pending and session.transactions < TRANSACTIONS:
            self._loop.call_soon(self._next, place)  # not at once: a batch may end before it is begun
        elif work.pending:
            place.work = work.place = None
            self._quit(place)
            self._find_connection(work)
        else:
            place.work = None
            self._finish(work)
            self._keep(place)

    def closed(self, connection: Connection) -> None:
        place = self._places.pop(connection)
        self._idle.leave(place)
        work, session = place.work, connection.session
        if not work:
            return
        place.work = work.place = None
        where = connection.where
        failure = session.failure or Result(frames.TEMPORARY, 0, b"4.4.2", b"The connection was closed.")
        if work.report and place.is_stale:
            self._dial(work, place.lane)
        elif work.report and not session.is_ready and where.more and len(work.skip) < HOSTS_TRIED:
            work.skip.append(where.address)
            work.refusal = (failure, where.text)
            self._dial(work, place.lane)
        else:
            work.give_up(failure, where.text)
            self._finish(work)

    def _refuse(self, work: Work, enhanced: bytes, text: bytes) -> None:
        work.give_up(Result(frames.TEMPORARY, 0, enhanced, text))
        self._finish(work)

    def _finish(self, work: Work) -> None:
        work.content.close()
        works = self._works.get(work.asker, set())
        works.discard(work)
        if not works:
            self._works.pop(work.asker, None)
        if work.report is None:
            return
        work.report(work.answer())

    def _keep(self, place: Place) -> None:
        """Let the connection wait for the next order of its lane."""
        connection = place.connection
        if not connection or not connection.is_open:
            return
        if (
            self._is_stopping
            or connection.session.transactions >= TRANSACTIONS
            or len(self._idle) >= IDLE_CONNECTIONS
        ):
            connection.quit()
            return
        connection.deadline = self._loop.time() + IDLE_SECONDS
        self._idle.keep(place)

    def _quit(self, place: Place) -> None:
        if place.connection:
            place.connection.quit()

    def _start_sweeping(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """End what has waited too long: the one timer of all sessions."""
        now = self._loop.time()
        for connection, place in list(self._places.items()):
            if now < connection.deadline:
                continue
            if place.work:
                connection.expire()
            else:
                connection.quit()
        self._sweeping = bool(self._places)
        if self._sweeping:
            self._loop.call_later(SWEEP_SECONDS, self._sweep)
