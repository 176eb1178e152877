"""Whether a local recipient exists: aliases and accounts know, or the child of the account whose extension it is."""

from __future__ import annotations

from typing import Any

from qmaild.message import address
from qmaild.policy import dotqmail
from qmaild.protocol import frames
from qmaild.protocol.frames import PERMANENT, SUCCESS, TEMPORARY
from qmaild.runtime.channel import Channel
from qmaild.runtime.children import Children
from qmaild.runtime.resolver import Mailbox, Resolver, Target, Unsure

MAX_OF_A_USER = 20  # questions to one user's child at a time: strangers must not keep it from its deliveries
MAX_QUESTIONS = 1000  # at a time, of all doors

NO_RECIPIENT = b"there is no mailbox of this name here"
BUSY = b"too many questions about recipients at this moment"
MAX_TEXT = 500


class Lookups:
    """Answers the doors' questions."""

    def __init__(self, resolver: Resolver, mailboxes: Children) -> None:
        self._resolver = resolver
        self._mailboxes = mailboxes
        self._of_user: dict[int, int] = {}
        self.outstanding = 0

    def who(self, channel: Channel, question: frames.Who) -> None:
        """Answer on channel."""
        if self.outstanding >= MAX_QUESTIONS:
            channel.send(frames.Is(question.tag, TEMPORARY, BUSY))
            return
        self.outstanding += 1

        def answer(outcome: bytes, text: bytes) -> None:
            self.outstanding -= 1
            channel.send(frames.Is(question.tag, outcome, text))

        def resolved(target: Target) -> None:
            if isinstance(target, Unsure):
                answer(TEMPORARY, target.text)
            elif not isinstance(target, Mailbox) or not target.dash:
                answer(SUCCESS, b"")
            elif not dotqmail.is_possible(target.extension):
                answer(PERMANENT, NO_RECIPIENT)
            elif self._of_user.get(target.account.uid, 0) >= MAX_OF_A_USER:
                answer(TEMPORARY, BUSY)
            else:
                self._ask(target, answer)

        local = address.split(question.address)[0]
        if local:
            self._resolver.resolve(local, resolved)
        else:
            answer(PERMANENT, NO_RECIPIENT)  # a delivery to nobody is a success; who can be told now is told

    def _ask(self, mailbox: Mailbox, answer: Any) -> None:
        uid = mailbox.account.uid
        self._of_user[uid] = self._of_user.get(uid, 0) + 1

        def answered(frame: Any) -> None:
            self._of_user[uid] -= 1
            if not self._of_user[uid]:
                del self._of_user[uid]
            if not isinstance(frame, frames.Is) or frame.outcome not in (SUCCESS, TEMPORARY, PERMANENT):
                answer(TEMPORARY, b"it cannot be told now whether this mailbox exists")
            else:
                answer(frame.outcome, frame.text[:MAX_TEXT])

        self._mailboxes.ask(uid, answered, frames.Exists, mailbox.account.home, mailbox.dash, mailbox.extension)
