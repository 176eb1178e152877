"""An owner for the grammar in tests: a fixed policy, and everything it was told, in order."""

from __future__ import annotations

from qmaild.protocol.smtp import events, replies, session
from qmaild.protocol.smtp.replies import Reply

PROFILE = session.Profile(b"mx.test", b"mx.test", 1000)
UNKNOWN = Reply(550, b"5.1.1", b"no such user")
STORED = Reply(250, b"2.0.0", b"stored")
NOT_STORED = Reply(550, b"5.5.2", b"not stored")


class Owner:
    """Accepts all but recipients that begin with `nobody`, senders that begin with `bad`, and problems."""

    def __init__(self) -> None:
        self.grammar = session.Session(PROFILE)
        self.events: list[events.Event] = []
        self.messages: list[bytes] = []
        self.said = b""
        self._text = b""

    def greeting(self) -> bytes:
        self.grammar.greet()
        return self.grammar.take_replies()

    def feed(self, data: bytes) -> bytes:
        """Return what the server says to these bytes."""
        self.grammar.feed(data)
        while (event := self.grammar.next_event()) is not None:
            self.events.append(event)
            self._decide(event)
        return self.grammar.take_replies()

    def _decide(self, event: events.Event) -> None:
        match event:
            case events.Sender():
                is_bad = event.address.startswith(b"bad")
                self.grammar.answer(Reply(550, b"5.7.1", b"go away") if is_bad else replies.SENDER_OK)
            case events.Recipient():
                is_unknown = event.address.startswith(b"nobody")
                self.grammar.answer(UNKNOWN if is_unknown else replies.RECIPIENT_OK)
            case events.Data():
                self._text = b""
                self.grammar.answer(replies.GO_AHEAD)
            case events.Content():
                self._text += event.text
            case events.EndOfData():
                if event.problem:
                    self.grammar.answer(NOT_STORED)
                else:
                    self.messages.append(self._text + event.text)
                    self.grammar.answer(STORED)
            case events.Rare():
                self.grammar.answer_lines(b"252 2.0.0 %b %b\r\n" % (event.verb, event.argument))


def converse(data: bytes, step: int = 0) -> Owner:
    """Return the owner after a whole session's bytes, fed at once or step bytes at a time; `said` is kept in it."""
    owner = Owner()
    said = owner.greeting()
    for place in range(0, len(data), step or max(len(data), 1)):
        said += owner.feed(data[place : place + step] if step else data)
    owner.said = said
    return owner
