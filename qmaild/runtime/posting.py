"""One message of a local program on its way to the queue: by qmail-inject's rules, or as qmail-queue takes it."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any

from qmaild.control import events
from qmaild.message import envelope, fields, inject
from qmaild.message.dates import field_date
from qmaild.message.invocation import Invocation
from qmaild.protocol import frames
from qmaild.runtime import journal
from qmaild.runtime.injection import Session

LONG_SECTION = 32 << 10  # bytes: a longer header section is worked on beside the loop

Put = Callable[[bytes], Awaitable[None]]


class Refusal(Exception):
    """The message is not taken: exit code, enhanced status code, text."""

    def __init__(self, code: int, enhanced: bytes, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.enhanced = enhanced
        self.text = text


async def compose(session: Session, request: Invocation) -> None:
    """qmail-inject: take the session's message, hand it over and end the session."""
    posting = Posting(session)
    await _refusing(session, posting, posting.composed(request))


async def raw(session: Session, request: Invocation) -> None:
    """qmail-queue, likewise."""
    posting = Posting(session)
    await _refusing(session, posting, posting.raw())


async def _refusing(session: Session, posting: Posting, work: Awaitable[None]) -> None:
    try:
        await work
    except Refusal as refusal:
        session.refuse(refusal.code, refusal.text, refusal.enhanced)
    finally:
        posting.draft.abort()


class Posting:
    """The message of one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._door = session.door
        self.draft = session.door.intake.draft()
        self._size = 0
        self._flags = 0
        self._started = time.monotonic()

    async def _input(self) -> bytes | None:
        """Return the next piece of input; None at its end."""
        frame = await self._session.next(frames.Data, frames.EndOfInput)
        return frame.content if isinstance(frame, frames.Data) else None

    async def write(self, content: bytes) -> None:
        """Add to the message, at the speed at which the queue takes it."""
        limit = self._door.settings().databytes
        self._size += len(content)
        if limit and self._size > limit:
            failures = self._session.failures
            raise Refusal(failures.unacceptable, b"5.3.4", f"the message is larger than {limit} bytes")
        if not content.isascii():
            self._flags |= frames.FLAG_8BIT
        self.draft.write(content)
        if self._door.intake.is_congested:
            drained: asyncio.Future[None] = self._door.loop.create_future()
            self._door.intake.when_drained(functools.partial(drained.set_result, None))
            await drained

    async def composed(self, request: Invocation) -> None:
        """qmail-inject: complete the header section, take the envelope from it, copy the body."""
        ends, section = fields.LineEnds(), fields.SectionReader()
        try:
            body, is_ended = await self._section(ends, section)
            message = await self._compose(section.fields, request)
            if not message.recipients and request.program == "sendmail":
                # Differs: qmail's sendmail takes a message to nobody and drops it.
                raise inject.Unacceptable("the message names no recipients")
        except (inject.Unacceptable, fields.SectionTooLong) as error:
            raise Refusal(self._session.failures.unacceptable, b"5.6.0", str(error)) from None
        if request.shows:
            await self._session.print(b"Return-Path: <" + message.sender + b">\n")
        put: Put = self._session.print if request.shows else self.write
        await put(message.section)
        await self._body(ends, body, is_ended, put)
        if request.shows or not message.recipients:
            self._session.exit(0)
        else:
            await self._hand_over(message.sender, list(message.recipients))

    async def _section(self, ends: fields.LineEnds, section: fields.SectionReader) -> tuple[bytes, bool]:
        """Read the header section. Returns the beginning of the body and whether that is all of it."""
        while (content := await self._input()) is not None:
            body = section.feed(ends.feed(content))
            if body is not None:
                return body, False
        body = section.feed(ends.finish())
        return (section.finish() if body is None else body), True

    async def _compose(self, lines: list[bytes], request: Invocation) -> inject.Composed:
        peer = self._session.peer
        account, _ = await self._door.people.of(peer.uid, peer.gid)
        when = inject.When(int(time.time()), self._door.number(peer.pid), account)
        place = self._door.place(request)
        if sum(map(len, lines)) < LONG_SECTION:
            return inject.compose(lines, request, place, when)
        async with self._door.long_works:
            return await asyncio.to_thread(inject.compose, lines, request, place, when)

    async def _body(self, ends: fields.LineEnds, content: bytes, is_ended: bool, put: Put) -> None:
        """Copy the body. A last line without an end gets one."""
        final = b"\n"
        while True:
            if content:
                final = content[-1:]
                await put(content)
            if is_ended:
                break
            piece = await self._input()
            is_ended = piece is None
            content = ends.finish() if piece is None else ends.feed(piece)
        if final != b"\n":
            await put(b"\n")

    async def raw(self) -> None:
        """qmail-queue: the message as it is, then the envelope."""
        section = fields.SectionReader()
        is_header = True
        while (content := await self._input()) is not None:
            try:
                is_header = is_header and section.feed(content) is None
            except fields.SectionTooLong:
                is_header = False
            await self.write(content)
        if fields.hops(section.fields) > self._door.settings().maxhops:
            raise Refusal(envelope.REFUSED, b"5.4.6", "the message is in a loop")
        try:
            sender, recipients = envelope.parse(await self._envelope())
            inject.check_envelope(sender, recipients)
        except envelope.EnvelopeError as error:
            raise Refusal(error.code, b"5.5.2", str(error)) from None
        except inject.Unacceptable as error:
            raise Refusal(envelope.REFUSED, b"5.5.3", str(error)) from None
        if recipients:
            await self._hand_over(sender, recipients)
        else:
            self._session.exit(0)  # a message to nobody ends as soon as it is queued

    async def _envelope(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while (content := await self._input()) is not None:
            size += len(content)
            if size > envelope.MAX_BYTES:
                raise Refusal(envelope.REFUSED, b"5.5.3", "the envelope is too long")
            parts.append(content)
        return b"".join(parts)

    async def _hand_over(self, sender: bytes, recipients: list[bytes]) -> None:
        """Give the message to the queue and tell the client what became of it."""
        answer = await self.stored(sender, recipients)
        if not isinstance(answer, frames.Accepted):
            raise self._refusal(answer)
        self._session.exit(0)

    async def stored(self, sender: bytes, recipients: list[bytes]) -> frames.Accepted | frames.Refused | None:
        """Give the message to the queue and return its answer; None: it was lost."""
        peer = self._session.peer
        origin = b"uid %d" % peer.uid
        trace = b"Received: (qmaild %d invoked by %b); %b\n" % (peer.pid, origin, field_date(int(time.time())))
        flags = self._flags
        if not all(path.isascii() for path in (sender, *recipients)):
            flags |= frames.FLAG_UTF8
        decided: asyncio.Future[Any] = self._door.loop.create_future()
        self.draft.finish(decided.set_result, trace, flags, origin, sender, recipients)
        answer: frames.Accepted | frames.Refused | None = await decided
        if isinstance(answer, frames.Accepted):
            journal.record(
                events.ACCEPTED, message=answer.number, sender=sender, recipients=len(recipients), peer=origin,
                bytes=self._size + len(trace), protocol="local", took=time.monotonic() - self._started,
            )  # fmt: skip
        return answer

    def _refusal(self, answer: frames.Refused | None) -> Refusal:
        failures = self._session.failures
        if answer is None:
            return Refusal(failures.temporary, b"4.3.0", "the queue cannot be reached; try again later")
        code = failures.permanent if answer.outcome == frames.PERMANENT else failures.temporary
        if self._session.program == "qmail-queue" and answer.enhanced == b"4.3.1":
            code = envelope.DISK_FULL
        return Refusal(code, answer.enhanced, answer.text.decode("utf-8", "replace"))
