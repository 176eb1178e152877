"""From an order to its report: who each recipient is, whose child delivers, what is forwarded last.

Knows no dot-qmail rule: the recipient's child does. What a child says is checked here, for it may be anybody's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from qmaild.control.settings import Settings
from qmaild.delivery.contents import Contents
from qmaild.delivery.forward import Forward, inject, is_sound
from qmaild.delivery.outcome import DELIVERED, Outcome, of_error, permanent, temporary
from qmaild.message import address
from qmaild.policy import aliases, dotqmail
from qmaild.policy.dotqmail import Envelope
from qmaild.protocol import frames
from qmaild.protocol.frames import PERMANENT, SUCCESS, TEMPORARY
from qmaild.runtime.channel import Channel
from qmaild.runtime.children import Children
from qmaild.runtime.intake import Intake
from qmaild.runtime.resolver import Mailbox, Resolver, Target, Unsure

CODES = {SUCCESS: 250, TEMPORARY: 450, PERMANENT: 550}  # of the report; a delivery has no code of its own
MAX_TEXT = 4096  # of one outcome
_ENHANCED = re.compile(rb"[245]\.\d{1,3}\.\d{1,3}")

CHILD_LOST = temporary(b"4.3.0", b"the deliverer of this user ended or did not answer")
CHILD_LIES = temporary(b"4.3.0", b"the deliverer of this user gave no sensible answer")
NOBODY = Outcome(SUCCESS, b"2.0.0", b"did 0+0+0")
UNWANTED = temporary(b"4.3.0", b"nobody waits for this delivery any more")
LOOPING = permanent(b"5.4.6", b"this message is looping: it already has my Delivered-To line")

Done = Callable[[Outcome, bytes], None]


class Dispatcher:
    """All orders of one process."""

    def __init__(
        self, resolver: Resolver, mailboxes: Children, programs: Children, intake: Intake, settings: Callable[[], Settings],
    ) -> None:  # fmt: skip
        self.resolver = resolver
        self.mailboxes = mailboxes
        self.programs = programs
        self.intake = intake
        self.settings = settings
        self.outstanding = 0  # orders without a report yet

    def order(self, channel: Channel, order: frames.Order, descriptor: int) -> None:
        """Begin an order; its report goes to channel when every recipient has its outcome."""
        self.outstanding += 1
        _Order(self, channel, order, descriptor).start()

    def forget(self, channel: Channel) -> None:
        """Who gave these orders is gone, and they will come again: what has not begun of them is dropped."""
        self.mailboxes.drop_unwanted()
        self.programs.drop_unwanted()


class _Order:
    __slots__ = ("_channel", "_contents", "_house", "_left", "_order", "_outcomes", "_peers")

    def __init__(self, house: Dispatcher, channel: Channel, order: frames.Order, descriptor: int) -> None:
        self._house = house
        self._channel = channel
        self._order = order
        self._contents = Contents(order.content, descriptor)
        self._left = len(order.recipients)
        self._outcomes: list[Outcome] = [DELIVERED] * self._left
        self._peers: list[bytes] = [b""] * self._left

    def start(self) -> None:
        if not self._left:
            self._report()
        for place in range(len(self._outcomes)):
            _Attempt(self._house, self._order, place, self._contents, self._is_wanted, self._done_with(place)).start()

    def _is_wanted(self) -> bool:
        return self._channel.is_open

    def _done_with(self, place: int) -> Done:
        def done(outcome: Outcome, peer: bytes) -> None:
            self._outcomes[place] = outcome
            self._peers[place] = peer
            self._left -= 1
            if not self._left:
                self._report()

        return done

    def _report(self) -> None:
        self._house.outstanding -= 1
        if self._contents.descriptor >= 0:
            os.close(self._contents.descriptor)
        self._channel.send(frames.Report(
            self._order.tag, b"".join([each.outcome for each in self._outcomes]),
            [CODES[each.outcome] for each in self._outcomes], [each.enhanced for each in self._outcomes],
            [each.text for each in self._outcomes], self._peers,
        ))  # fmt: skip


class _Attempt:
    """One recipient of one order: deliveries one after the other, then the forwards, the last of which finishes it."""

    __slots__ = (
        "_alias_sender", "_contents", "_domain", "_done", "_envelope", "_fixed", "_forwards", "_house", "_instructions",
        "_is_wanted", "_lines", "_local", "_names", "_order", "_peer", "_place", "_texts", "_uid",
    )  # fmt: skip

    def __init__(
        self, house: Dispatcher, order: frames.Order, place: int, contents: Contents, is_wanted: Callable[[], bool], done: Done,
    ) -> None:  # fmt: skip
        self._house = house
        self._is_wanted = is_wanted
        self._order = order
        self._place = place
        self._contents = contents
        self._done = done
        self._local, self._domain = address.split(order.recipients[place])
        self._names: list[bytes] = []  # accounts that an alias names for direct delivery
        self._lines: bytes = b""  # an alias's own instructions
        self._alias_sender = order.sender
        self._forwards: list[Forward] = []
        self._texts: list[bytes] = []
        self._peer = b""

    def start(self) -> None:
        if not self._local:
            self._done(NOBODY, self._peer)  # as qmail-lspawn: there is no account and no file to look for
            return
        self._house.resolver.resolve(self._local, self._resolved)

    def _resolved(self, target: Target) -> None:
        if isinstance(target, Mailbox):
            self._deliver(target, self._local, self._house.settings().defaultdelivery, 0)
        elif isinstance(target, Unsure):
            self._done(temporary(b"4.3.0", target.text), b"")
        else:
            self._expand(target)

    def _expand(self, expansion: aliases.Expansion) -> None:
        self._peer = b"alias"
        try:
            if self._contents.has_line(dotqmail.delivered_to(self._local, self._domain)):
                self._done(LOOPING, self._peer)
                return
        except OSError as error:
            self._done(of_error(b"read the message", error), self._peer)
            return
        self._alias_sender = aliases.new_sender(self._order.sender, self._local, self._domain, expansion.has_owner)
        self._names = list(expansion.names)
        self._lines = b"\n".join(expansion.instructions)
        if expansion.forwards:
            self._forward(self._alias_sender, list(expansion.forwards), self._local)
            self._texts.append(b"did 0+%d+0" % len(expansion.forwards))
        self._next()

    def _next(self) -> None:
        """Take the next step; after the last one the recipient is served."""
        if not self._is_wanted():
            self._done(UNWANTED, self._peer)
        elif self._names:
            name = self._names.pop(0)
            self._house.resolver.mailbox(name, lambda target: self._step(target, name, b"", 0))
        elif self._lines:
            lines, self._lines = self._lines, b""
            self._house.resolver.alias_user(b"-", self._local, lambda target: self._step(target, self._local, lines, 1))
        elif self._forwards:
            forward = self._forwards.pop(0)
            if not self._forwards:
                # Only the last: with its commit the recipient is done, and no crash can repeat or lose it.
                forward = forward._replace(serves=(self._order.number, self._order.indexes[self._place]))
            inject(self._house.intake, forward, self._contents, self._forwarded)
        else:
            self._done(Outcome(SUCCESS, b"2.0.0", b"\n".join(self._texts)), self._peer)

    def _step(self, target: Target, local: bytes, lines: bytes, fixed: int) -> None:
        if isinstance(target, Mailbox):
            self._deliver(target, local, lines or self._house.settings().defaultdelivery, fixed)
        else:
            self._done(temporary(b"4.3.0", b"the alias cannot be followed now"), self._peer)

    def _deliver(self, mailbox: Mailbox, local: bytes, instructions: bytes, fixed: int) -> None:
        """Ask the account's child; if there are programs to run, the one in the program unit."""
        account = mailbox.account
        self._peer = account.name
        self._uid = account.uid
        self._envelope = Envelope(
            account.name, account.home, local, mailbox.dash, mailbox.extension, self._domain, self._order.sender)
        self._instructions, self._fixed = instructions, fixed
        self._ask(self._house.mailboxes, self._answered)

    def _ask(self, children: Children, answered: Callable[[Any], None]) -> None:
        if not self._is_wanted():
            self._done(UNWANTED, self._peer)
            return
        try:
            body = os.dup(self._contents.descriptor) if self._contents.descriptor >= 0 else -1
        except OSError as error:
            self._done(of_error(b"pass the message on", error), self._peer)
            return
        children.ask(
            self._uid, answered, frames.Deliver, *self._envelope, self._instructions, self._fixed, self._order.size,
            self._contents.content, int(body >= 0), descriptor=body, is_wanted=self._is_wanted,
        )  # fmt: skip

    def _answered(self, frame: Any) -> None:
        if isinstance(frame, frames.NeedsProgram):
            self._ask(self._house.programs, self._delivered)
        else:
            self._delivered(frame)

    def _delivered(self, frame: Any) -> None:
        outcome = _checked(frame)
        if outcome.outcome != SUCCESS:
            self._done(outcome, self._peer)
            return
        self._texts.append(outcome.text)
        if frame.forwards:
            self._forward(self._alias_sender if self._fixed else frame.new_sender, frame.forwards, self._envelope.local)
        self._next()

    def _forward(self, sender: bytes, recipients: list[bytes], local: bytes) -> None:
        lines = dotqmail.delivered_to(local, self._domain)
        self._forwards.append(Forward(self._order.number, self._order.flags, sender, recipients, lines, (0, 0)))

    def _forwarded(self, outcome: Outcome) -> None:
        if outcome.outcome != SUCCESS:
            self._done(outcome, self._peer)
            return
        self._texts.append(outcome.text)
        self._next()


def _checked(frame: Any) -> Outcome:
    """Return what a child says came of a delivery; a child that makes no sense means temporary."""
    if frame is None:
        return CHILD_LOST
    if (
        not isinstance(frame, frames.Delivered)
        or frame.outcome not in CODES
        or not _ENHANCED.fullmatch(frame.enhanced)
        or not is_sound(frame.new_sender, frame.forwards)
    ):
        return CHILD_LIES
    return Outcome(frame.outcome, frame.enhanced, frame.text[:MAX_TEXT])
