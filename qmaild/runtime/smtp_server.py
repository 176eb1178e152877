"""SMTP sessions on sockets: aiosmtpd's server class underneath, the grammar of protocol/smtp at work.

The only importer of aiosmtpd. Its class gives session, envelope and the rare verbs (VRFY, HELP). Commands
and bodies go through the sans-IO grammar in one synchronous loop a read: no task, no timer and no
coroutine for a session or a message, which is where the stock class spends its time.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import time
from collections.abc import Callable
from typing import Any

from aiosmtpd import smtp as aiosmtpd

from qmaild.control import events
from qmaild.control.cdb import Reader
from qmaild.control.settings import Settings
from qmaild.message import trace
from qmaild.policy import clients
from qmaild.policy import smtp as policy
from qmaild.protocol import frames
from qmaild.protocol.smtp import events as asked
from qmaild.protocol.smtp import replies, session
from qmaild.protocol.smtp.replies import Reply
from qmaild.runtime import doors, journal, paths, poller
from qmaild.runtime.cdb_file import CdbFile
from qmaild.runtime.intake import Draft, Intake
from qmaild.runtime.lookup import Lookup
from qmaild.runtime.stream import Stream

MAX_BUFFERED = 64 << 10  # commands read ahead while an answer is awaited


class Server:
    """What all sessions of one process share: settings, the ways to the queue and to the users, counts.

    share: how many processes serve the same sockets; concurrencyincoming is divided among them,
    clientconcurrency is each one's (a client's sessions do not spread evenly).
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, settings: Settings, intake: Intake, lookup: Lookup,
        on_count: Callable[[int], None], share: int = 1,
    ) -> None:  # fmt: skip
        self.loop = loop
        self.poller = poller.of(loop)
        self.intake = intake
        self.lookup = lookup
        self._share = share
        self._more_hosts = CdbFile(
            f"{paths.CONTROL}/morercpthosts.cdb", Reader, "recipients it may be about are told to come again")
        self.configure(settings)
        self.sessions = doors.Sessions(loop, on_count, lambda: self.settings.timeoutsmtpd)

    def configure(self, settings: Settings) -> None:
        """Take these settings for everything asked from now on."""
        self.settings = settings
        self.profile = session.Profile(settings.me, settings.smtpgreeting, settings.databytes)
        self._may_relay = functools.lru_cache(maxsize=4096)(
            lambda client: clients.is_among(client, settings.relayclients))
        self.lookup.forget()
        prototype = aiosmtpd.SMTP(None, hostname=settings.me.decode("ascii", "replace"), loop=self.loop)
        prototype._smtp_methods = {
            name: method for name, method in prototype._smtp_methods.items() if name.encode() in session.VERBS
        }
        self.prototype = vars(prototype)

    def is_listed(self, key: bytes) -> bool:
        """Return whether morercpthosts.cdb has this key. CdbError: that cannot be told."""
        return self._more_hosts.ask(lambda reader: reader.find(key)) is not None

    def accept(self, sock: socket.socket) -> None:
        """Begin a session on a fresh connection, or refuse it."""
        client = doors.client_of(sock)
        may_relay = self._may_relay(client)
        open_now = len(self.sessions) * self._share
        refusal = policy.session(self.settings, may_relay, open_now, self.sessions.of(client))
        if refusal and not (refusal is policy.TOO_MANY_SESSIONS and self.sessions.make_room(client)):
            doors.dismiss(sock, refusal.encode())
            journal.record(events.REFUSED, peer=client, protocol=b"smtp", command=b"connection",
                           code=refusal.code, enhanced=refusal.enhanced, text=refusal.text)  # fmt: skip
            return
        connection = Connection(self, client, may_relay)
        self.sessions.begin(connection)
        connection.connection_made(Stream(self.poller, sock, connection))


class Connection(aiosmtpd.SMTP):
    """One session. It holds a little over MAX_BUFFERED bytes of commands at most, and its draft's share."""

    transport: Any  # a Stream, None once it is lost
    session: Any
    envelope: Any

    def __init__(self, server: Server, client: bytes, may_relay: bool) -> None:
        # aiosmtpd's __init__ looks through all its members, at each connection: it ran once, for all.
        self.__dict__.update(server.prototype)
        self.client = client
        self._may_relay = may_relay
        self.last_heard = time.monotonic()
        self._server = server
        self._grammar = session.Session(server.profile)
        self._draft: Draft | None = None
        self._hops = trace.Hops()
        self._size = 0
        self._flags = 0
        self._tried = 0
        self._refused = 0
        self._begun = 0.0
        self._is_running = False
        self._is_reading = True
        self._is_choked = False
        self._is_eof = False
        self._said: list[bytes] = []

    @property
    def is_in_data(self) -> bool:
        return self._grammar.is_in_data

    @property
    def may_go(self) -> bool:
        return not (self._may_relay or self._is_waiting_for_us)

    @property
    def _is_waiting_for_us(self) -> bool:
        is_ours = self._grammar.is_waiting or not self._is_reading
        return self.transport is None or (is_ours and not self._is_choked)

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
        self._server.sessions.end(self)

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
        grammar = self._grammar
        try:
            event: Any = grammar.next_event()
            while event is not None:
                _HANDLERS[type(event)](self, event)
                event = grammar.next_event()
        except Exception as error:  # a fault of ours costs this session, not those whose answers come behind it
            self._server.loop.call_exception_handler({"message": "an SMTP session was given up", "exception": error})
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

    def _answer(self, reply: Reply) -> None:
        self._grammar.answer(reply)

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
        intake = self._server.intake
        is_congested = self._draft is not None and intake.is_congested
        wanted = not (is_congested or self._is_choked or self._grammar.buffered > MAX_BUFFERED)
        if is_congested and self._is_reading:
            intake.when_drained(self._read_if_possible)
        if wanted != self._is_reading:
            self._is_reading = wanted
            if wanted:
                self.last_heard = time.monotonic()  # it was we who did not read
                transport.resume_reading()
            else:
                transport.pause_reading()

    # --- what the grammar asks

    def _sender(self, event: asked.Sender) -> None:
        reply = policy.sender(self._server.settings, event.size)
        if reply.is_success:
            envelope: Any = self._create_envelope()
            envelope.mail_from = event.address
            envelope.smtp_utf8 = event.is_utf8
            self.envelope = envelope
            self._flags = frames.FLAG_8BIT * event.is_8bit | frames.FLAG_UTF8 * event.is_utf8
            self._tried = 0
            self._begun = time.monotonic()
        else:
            self._note_refusal(b"MAIL", reply, sender=event.address)
        self._answer(reply)

    def _recipient(self, event: asked.Recipient) -> None:
        settings = self._server.settings
        address = event.address
        if address.endswith(b"]"):
            address = policy.own_literal(settings, address, self._own_address())
        verdict = policy.recipient(
            settings, self._may_relay, self.envelope.mail_from, address, self._tried, self._server.is_listed)
        self._tried += 1
        if isinstance(verdict, Reply):
            self._answer(self._recipient_reply(address, verdict))
            return
        known = self._server.lookup.known(verdict.address)
        if known is not None:
            self._answer(self._recipient_reply(address, policy.looked_up(known)))
        else:
            self._server.lookup.ask(verdict.address, functools.partial(self._looked_up, address))

    def _looked_up(self, address: bytes, answer: frames.Is | None) -> None:
        if self.transport is not None:
            self._resume(self._recipient_reply(address, policy.looked_up(answer)))

    def _recipient_reply(self, address: bytes, reply: Reply) -> Reply:
        if reply.is_success:
            self.envelope.rcpt_tos.append(address)
        else:
            self._note_refusal(b"RCPT", reply, sender=self.envelope.mail_from, recipient=address)
        return reply

    def _data(self, event: asked.Data) -> None:
        self._draft = self._server.intake.draft()
        self._hops = trace.Hops()
        self._answer(replies.GO_AHEAD)

    def _content(self, event: asked.Content) -> None:
        if self._draft and event.text:
            self._hops.feed(event.text)
            self._draft.write(event.text)

    def _end_of_data(self, event: asked.EndOfData) -> None:
        draft, envelope = self._draft, self.envelope
        assert draft is not None  # the grammar gives no end without DATA
        self._hops.feed(event.text)
        refusal = policy.message(self._server.settings, event.problem, self._hops.count)
        if refusal:
            draft.abort()
            self._draft = None
            self._note_refusal(b"DATA", refusal, sender=envelope.mail_from)
            self._answer(refusal)
            return
        draft.write(event.text)
        self._size = event.size
        protocol = b"UTF8SMTP" if envelope.smtp_utf8 else self._protocol().upper()
        prefix = trace.received(self._grammar.helo, self.client, self._server.settings.me, protocol,
                                int(time.time()))  # fmt: skip
        origin = b"%b %b" % (self._protocol(), self.client)
        draft.finish(self._stored, prefix, self._flags, origin, envelope.mail_from, envelope.rcpt_tos)

    def _stored(self, answer: frames.Accepted | frames.Refused | None) -> None:
        self._draft = None
        reply = policy.stored(answer, int(time.time()))
        envelope = self.envelope
        if isinstance(answer, frames.Accepted):
            self._refused = 0
            journal.record(
                events.ACCEPTED, message=answer.number, sender=envelope.mail_from,
                recipients=len(envelope.rcpt_tos), bytes=self._size, peer=self.client,
                helo=self._grammar.helo, protocol=self._protocol(),
                took=time.monotonic() - self._begun)  # fmt: skip
        else:
            self._note_refusal(b"DATA", reply, sender=envelope.mail_from)
        if self.transport is not None:
            self._resume(reply)

    def _rare(self, event: asked.Rare) -> None:
        """Let aiosmtpd answer. Its coroutine awaits nothing but push(), which is ours and does not wait."""
        known: Any = self._create_session()
        known.host_name = self._grammar.helo.decode("ascii", "replace")
        known.extended_smtp = self._grammar.is_extended
        self.session = known
        method = getattr(self, f"smtp_{event.verb.decode()}")
        coroutine = method(event.argument.decode("ascii", "replace") or None)
        try:
            coroutine.send(None)
        except StopIteration:
            pass
        else:
            coroutine.close()
        said, self._said = self._said, []
        self._grammar.answer_lines(b"".join(said) or replies.NOT_IMPLEMENTED.encode())

    async def push(self, status: str | bytes) -> None:
        """Take a reply from aiosmtpd, which gives no enhanced status codes (RFC 2034 wants one in each)."""
        text = status if isinstance(status, bytes) else status.encode("ascii", "replace")
        code = int(text[:3])
        self._said.append(Reply(code, b"%d.0.0" % (code // 100), replies.safe_text(text[4:])).encode())

    def _getaddr(self, arg: str) -> tuple[str, str]:
        """VRFY reveals nothing, so there is nothing to parse (and no header parser to feed by strangers)."""
        return arg, ""

    def _own_address(self) -> bytes:
        """Return the address the client has connected to."""
        name = self.transport.get_extra_info("sockname") if self.transport else None
        return doors.normal(name[0]) if name else b""

    def _protocol(self) -> bytes:
        return b"esmtp" if self._grammar.is_extended else b"smtp"

    def _note_refusal(self, command: bytes, reply: Reply, **fields: bytes) -> None:
        self._refused += 1
        if self._refused > policy.MAX_REFUSALS:
            self._grammar.close_soon(policy.TOO_MANY_REFUSALS)
        journal.record(
            events.REFUSED, peer=self.client, helo=self._grammar.helo, protocol=self._protocol(),
            command=command, code=reply.code, enhanced=reply.enhanced, text=reply.text, **fields)  # fmt: skip


_HANDLERS: dict[type, Callable[[Connection, Any], None]] = {
    asked.Sender: Connection._sender,
    asked.Recipient: Connection._recipient,
    asked.Data: Connection._data,
    asked.Content: Connection._content,
    asked.EndOfData: Connection._end_of_data,
    asked.Rare: Connection._rare,
}
