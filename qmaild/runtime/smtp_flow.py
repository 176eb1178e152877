"""What goes over the connection of one SMTP session, and when: commands in, replies out, and who waits for whom.

Commands and bodies go through the grammar of protocol/smtp in one synchronous loop a read: no task, no timer and no
coroutine for a session or a message. Knows the grammar's events by their handlers only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from qmaild.control import events
from qmaild.policy import smtp as policy
from qmaild.protocol.smtp import session
from qmaild.protocol.smtp.replies import Reply
from qmaild.runtime import doors, journal
from qmaild.runtime.intake import Draft, Intake
from qmaild.runtime.stream import Stream

MAX_BUFFERED = 64 << 10  # commands read ahead while an answer is awaited


class Door(Protocol):
    """What a session needs of what all share."""

    loop: asyncio.AbstractEventLoop
    intake: Intake
    sessions: doors.Sessions


class Flow:
    """One session. It holds a little over MAX_BUFFERED bytes of commands at most, and its draft's share.

    handlers: by the class of what the grammar asks, who answers it: now, or later with _resume().
    """

    handlers: ClassVar[Mapping[type, Callable[[Any, Any], None]]] = {}
    transport: Any  # a Stream, None once it is lost

    def __init__(self, door: Door, profile: session.Profile, client: bytes, may_relay: bool) -> None:
        self.client = client
        self.last_heard = time.monotonic()
        self._door = door
        self._may_relay = may_relay
        self._grammar = session.Session(profile)
        self._draft: Draft | None = None
        self._is_running = False
        self._is_reading = True
        self._is_choked = False
        self._is_eof = False
        self._is_congested = False  # we hear when the queue has taken enough

    @property
    def is_in_data(self) -> bool:
        return self._grammar.is_in_data

    @property
    def may_go(self) -> bool:
        return not (self._may_relay or self._is_waiting_for_us)

    @property
    def _is_waiting_for_us(self) -> bool:
        if self.transport is None:
            return True
        if self._is_choked or self.transport.is_closing():  # it is to take what we have said
            return False
        return self._grammar.is_waiting or not self._is_reading

    # --- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, Stream)
        self.transport = transport
        self._grammar.greet()
        self._advance()

    def data_received(self, data: bytes) -> None:
        if self._grammar.is_in_data:
            self.last_heard = doors.progress(self.last_heard, time.monotonic(), len(data))
        self._grammar.feed(data)
        self._advance()

    def eof_received(self) -> bool:
        """Keep the socket for the answers that are still to come to what was sent before."""
        self._is_eof = True
        return self._grammar.is_waiting

    def connection_lost(self, error: Exception | None) -> None:
        if self._draft and not self._grammar.is_waiting:
            self._draft.abort()
        self.transport = None
        self._door.sessions.end(self)

    def pause_writing(self) -> None:
        """The client does not read our replies: read none of its commands."""
        self._is_choked = True
        self._read_if_possible()

    def resume_writing(self) -> None:
        self._is_choked = False
        self._read_if_possible()

    def stop(self) -> None:
        self._grammar.close_soon(policy.SHUTTING_DOWN)
        if self.transport is not None:
            self._advance()

    def time_out(self) -> None:
        """The client got nowhere for too long; one that waits for us is not to blame."""
        if self._is_waiting_for_us:
            return
        if self.transport.is_closing() or self._is_choked:
            self.transport.abort()
            return
        self.transport.write(policy.TIMED_OUT.encode())
        self.transport.close()

    def give_way(self) -> None:
        journal.record(events.REFUSED, peer=self.client, helo=self._grammar.helo, protocol=self._protocol(),
                       command=b"session", code=policy.GIVE_WAY.code, enhanced=policy.GIVE_WAY.enhanced,
                       text=policy.GIVE_WAY.text)  # fmt: skip
        self.transport.write(policy.GIVE_WAY.encode())
        self.transport.abort()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    # --- the loop

    def _advance(self) -> None:
        """Do everything that can be done now, then write once."""
        if self._is_running:
            return
        self._is_running = True
        grammar, handlers = self._grammar, self.handlers
        try:
            event: Any = grammar.next_event()
            while event is not None:
                handlers[type(event)](self, event)
                event = grammar.next_event()
        except Exception as error:  # a fault of ours costs this session, not those whose answers come behind it
            self._door.loop.call_exception_handler({"message": "an SMTP session was given up", "exception": error})
            self.abort()
        finally:
            self._is_running = False
        if self.transport is None:
            return
        # While an answer is awaited the replies before it wait too: they leave together.
        if not grammar.is_waiting:
            out = grammar.take_replies()
            if out:  # a command was complete: parts of one gain no time
                self.last_heard = time.monotonic()
                self.transport.write(out)
            if grammar.is_over or self._is_eof:
                self.transport.close()
                return
        if self._draft or not self._is_reading or grammar.buffered > MAX_BUFFERED:
            self._read_if_possible()

    def _resume(self, reply: Reply) -> None:
        """Answer what was waiting, and go on with what came meanwhile."""
        self._grammar.answer(reply)
        self.last_heard = time.monotonic()
        self._advance()

    def _read_if_possible(self) -> None:
        """Read on unless commands pile up, replies pile up, or the queue does not keep up."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        intake = self._door.intake
        is_congested = self._draft is not None and intake.is_congested
        wanted = not (is_congested or self._is_choked or self._grammar.buffered > MAX_BUFFERED)
        if is_congested and not self._is_congested:
            self._is_congested = True
            intake.when_drained(self._drained)
        if wanted != self._is_reading:
            self._is_reading = wanted
            if wanted:
                self.last_heard = time.monotonic()  # it was we who did not read
                transport.resume_reading()
            else:
                transport.pause_reading()

    def _drained(self) -> None:
        self._is_congested = False
        self._read_if_possible()

    def _protocol(self) -> bytes:
        return b"esmtp" if self._grammar.is_extended else b"smtp"
