"""`sendmail -bs`: SMTP on standard input and output, with the SMTP server's grammar. The client may send anywhere.

Differs: lines may end with LF alone (what comes from a local program is no second server's message), and
recipients are not looked up: a wrong one bounces, as with every other way to send from here.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from qmaild.message import fields, trace
from qmaild.message.invocation import Invocation
from qmaild.policy import smtp as policy
from qmaild.protocol import frames
from qmaild.protocol.smtp import events, replies, session
from qmaild.protocol.smtp.states import State
from qmaild.runtime.injection import Session
from qmaild.runtime.posting import Posting

RARE = {
    b"VRFY": b"252 2.5.2 send it, and it will be tried\r\n",
    b"HELP": b"214 2.0.0 see sendmail(8)\r\n",
}


async def talk(client: Session, request: Invocation) -> None:
    """Serve one SMTP session and end the client's."""
    dialogue = Dialogue(client)
    try:
        await dialogue.run()
    finally:
        dialogue.drop()


class Dialogue:
    """The SMTP session of one client."""

    def __init__(self, client: Session) -> None:
        self._client = client
        self._settings = client.door.settings()
        settings = self._settings
        self._grammar = session.Session(
            session.Profile(settings.me, settings.smtpgreeting, settings.databytes)
        )
        self._ends = fields.LineEnds()
        self._hops = trace.Hops()
        self._posting: Posting | None = None
        self._sender = b""
        self._recipients: list[bytes] = []

    def drop(self) -> None:
        """Forget a message that is under way."""
        if self._posting:
            self._posting.draft.abort()
            self._posting = None

    async def run(self) -> None:
        grammar = self._grammar
        grammar.greet()
        while True:
            event = grammar.next_event()
            if event is not None:
                await _HANDLERS[type(event)](self, event)
                continue
            await self._client.print(grammar.take_replies())
            if grammar.state is State.CLOSED:
                self._client.exit(0)
                return
            frame = await self._client.next(frames.Data, frames.EndOfInput)
            if isinstance(frame, frames.EndOfInput):
                self._client.exit(self._client.failures.temporary if grammar.is_in_data else 0)
                return
            grammar.feed(self._ends.feed(frame.content).replace(b"\n", b"\r\n"))

    async def _mail(self, event: events.Sender) -> None:
        self._sender, self._recipients = event.address, []
        self._grammar.answer(policy.sender(self._settings, event.size))

    async def _rcpt(self, event: events.Recipient) -> None:
        if len(self._recipients) >= self._settings.maxrecipients:
            self._grammar.answer(policy.TOO_MANY_RECIPIENTS)
            return
        self._recipients.append(event.address)
        self._grammar.answer(replies.RECIPIENT_OK)

    async def _data(self, event: events.Data) -> None:
        self._posting = Posting(self._client)
        self._hops = trace.Hops()
        self._grammar.answer(replies.GO_AHEAD)

    async def _content(self, event: events.Content) -> None:
        if self._posting and event.text:
            self._hops.feed(event.text)
            await self._posting.write(event.text)

    async def _end(self, event: events.EndOfData) -> None:
        posting = self._posting
        assert posting is not None  # the grammar gives no end without DATA
        self._hops.feed(event.text)
        refusal = policy.message(self._settings, event.problem, self._hops.count)
        if refusal:
            self.drop()
            self._grammar.answer(refusal)
            return
        await posting.write(event.text)
        self._posting = None
        answer = await posting.stored(self._sender, self._recipients)
        self._grammar.answer(policy.stored(answer, int(time.time())))

    async def _rare(self, event: events.Rare) -> None:
        self._grammar.answer_lines(RARE[event.verb])


_HANDLERS: dict[type, Callable[[Dialogue, Any], Awaitable[None]]] = {
    events.Sender: Dialogue._mail, events.Recipient: Dialogue._rcpt, events.Data: Dialogue._data,
    events.Content: Dialogue._content, events.EndOfData: Dialogue._end, events.Rare: Dialogue._rare,
}  # fmt: skip
