"""SMTP sessions on sockets: aiosmtpd's server class underneath, the grammar of protocol/smtp at work.

The only importer of aiosmtpd. Its class gives session, envelope and the rare verbs (VRFY, HELP); what goes over the
connection, and when, is smtp_flow.py's, without the tasks and timers with which the stock class spends its time.
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
from qmaild.runtime.intake import Intake
from qmaild.runtime.lookup import Lookup
from qmaild.runtime.smtp_flow import Flow
from qmaild.runtime.stream import Stream


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


class Connection(Flow, aiosmtpd.SMTP):
    """One session: what the grammar asks, and who knows the answer."""

    _door: Server
    session: Any
    envelope: Any

    def __init__(self, server: Server, client: bytes, may_relay: bool) -> None:
        # aiosmtpd's __init__ looks through all its members, at each connection: it ran once, for all.
        self.__dict__.update(server.prototype)
        Flow.__init__(self, server, server.profile, client, may_relay)
        self._hops = trace.Hops()
        self._size = 0
        self._flags = 0
        self._tried = 0
        self._refused = 0
        self._begun = 0.0
        self._said: list[bytes] = []

    def _sender(self, event: asked.Sender) -> None:
        reply = policy.sender(self._door.settings, event.size)
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
        self._grammar.answer(reply)

    def _recipient(self, event: asked.Recipient) -> None:
        settings = self._door.settings
        address = event.address
        if address.endswith(b"]"):
            address = policy.own_literal(settings, address, self._own_address())
        verdict = policy.recipient(
            settings, self._may_relay, self.envelope.mail_from, address, self._tried, self._door.is_listed)
        self._tried += 1
        if isinstance(verdict, Reply):
            self._grammar.answer(self._recipient_reply(address, verdict))
            return
        known = self._door.lookup.known(verdict.address)
        if known is not None:
            self._grammar.answer(self._recipient_reply(address, policy.looked_up(known)))
        else:
            self._door.lookup.ask(verdict.address, functools.partial(self._looked_up, address))

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
        self._draft = self._door.intake.draft()
        self._hops = trace.Hops()
        self._grammar.answer(replies.GO_AHEAD)

    def _content(self, event: asked.Content) -> None:
        if self._draft and event.text:
            self._hops.feed(event.text)
            self._draft.write(event.text)

    def _end_of_data(self, event: asked.EndOfData) -> None:
        draft, envelope = self._draft, self.envelope
        assert draft is not None  # the grammar gives no end without DATA
        self._hops.feed(event.text)
        refusal = policy.message(self._door.settings, event.problem, self._hops.count)
        if refusal:
            draft.abort()
            self._draft = None
            self._note_refusal(b"DATA", refusal, sender=envelope.mail_from)
            self._grammar.answer(refusal)
            return
        draft.write(event.text)
        self._size = event.size
        protocol = b"UTF8SMTP" if envelope.smtp_utf8 else self._protocol().upper()
        prefix = trace.received(self._grammar.helo, self.client, self._door.settings.me, protocol,
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
        if code == 250:
            code = 214  # RFC 5321 4.3.2: the one success with 250 that comes from there is HELP's
        self._said.append(Reply(code, b"%d.0.0" % (code // 100), replies.safe_text(text[4:])).encode())

    def _getaddr(self, arg: str) -> tuple[str, str]:
        """VRFY reveals nothing, so there is nothing to parse (and no header parser to feed by strangers)."""
        return arg, ""

    def _own_address(self) -> bytes:
        """Return the address the client has connected to."""
        name = self.transport.get_extra_info("sockname") if self.transport else None
        return doors.normal(name[0]) if name else b""

    def _note_refusal(self, command: bytes, reply: Reply, **fields: bytes) -> None:
        self._refused += 1
        if self._refused > policy.MAX_REFUSALS:
            self._grammar.close_soon(policy.TOO_MANY_REFUSALS)
        journal.record(
            events.REFUSED, peer=self.client, helo=self._grammar.helo, protocol=self._protocol(),
            command=command, code=reply.code, enhanced=reply.enhanced, text=reply.text, **fields)  # fmt: skip


Connection.handlers = {
    asked.Sender: Connection._sender,
    asked.Recipient: Connection._recipient,
    asked.Data: Connection._data,
    asked.Content: Connection._content,
    asked.EndOfData: Connection._end_of_data,
    asked.Rare: Connection._rare,
}
