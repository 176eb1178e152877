"""Sessions of inject's clients: sendmail, qmail-inject, qmail-queue, mailq, newaliases. One coroutine each.

Knows who the client is (SO_PEERCRED) and what it may hold; what a message must look like is message/inject.py's.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from qmaild.control import events
from qmaild.control.settings import Settings
from qmaild.message import envelope, fields, inject, invocation
from qmaild.message.addresslist import Hosts
from qmaild.message.dates import field_date
from qmaild.message.invocation import EXIT_CODES, Invocation, Kind
from qmaild.protocol import frames
from qmaild.runtime import journal
from qmaild.runtime.caller import Caller
from qmaild.runtime.channel import Channel
from qmaild.runtime.intake import Draft, Intake

MAX_INVOKE = 2 << 20  # the largest frame of a client; its own bound is half of it
MAX_ACTIVE = 20  # sessions of one uid that are worked on; the next ones wait their turn
MAX_WAITING = 2000  # sessions of one uid beyond those: more are told to try again
MAX_HELD = 4  # frames read ahead of a session
MAX_OUTPUT = 1 << 20  # bytes that a client has not taken
PIECE = 32 << 10  # of one Output frame
LONG_SECTION = 32 << 10  # bytes: a longer header section is worked on beside the loop
LIST_LIMIT = 500  # messages the queue looks at for one question
LINGER_SECONDS = 600.0  # for a client that does not take its answer
PID_LIMIT = 4194304  # Linux's highest: numbers above it are ours

People = Callable[[int, int], Awaitable[tuple[bytes, bool]]]


class ClientLost(Exception):
    """The client is gone, or out of step."""


class Turns:
    """At most `limit` sessions of one uid at a time; the others wait in the order they came."""

    def __init__(self, limit: int, waiting: int) -> None:
        self._limit = limit
        self._most_waiting = waiting
        self._active: dict[int, int] = {}
        self._waiting: dict[int, deque[asyncio.Future[None]]] = {}

    @property
    def active(self) -> int:
        return sum(self._active.values())

    async def take(self, uid: int) -> bool:
        """Wait for a turn. False: too many wait already."""
        active = self._active.get(uid, 0)
        if active < self._limit:
            self._active[uid] = active + 1
            return True
        queue = self._waiting.setdefault(uid, deque())
        if len(queue) >= self._most_waiting:
            return False
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        await turn  # the turn is handed over: the count stays
        return True

    def give(self, uid: int) -> None:
        queue = self._waiting.get(uid)
        if queue:
            queue.popleft().set_result(None)
            if not queue:
                del self._waiting[uid]
            return
        self._active[uid] -= 1
        if not self._active[uid]:
            del self._active[uid]


class Door:
    """What all sessions share."""

    def __init__(self, loop: asyncio.AbstractEventLoop, caller: Caller, settings: Callable[[], Settings],
                 people: People, check_aliases: Callable[[], Awaitable[list[str]]]) -> None:  # fmt: skip
        self.loop = loop
        self.caller = caller
        self.intake = Intake(caller)
        self.settings = settings
        self.people = people
        self.check_aliases = check_aliases
        self.turns = Turns(MAX_ACTIVE, MAX_WAITING)
        self._unique = PID_LIMIT
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_busy(self) -> bool:
        return bool(self._tasks) or self.caller.outstanding > 0

    def opened(self, channel: Channel) -> None:
        session = Session(self, channel)
        channel.state = session
        task = self.loop.create_task(session.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def frame(self, channel: Channel, frame: Any, descriptor: int) -> None:
        channel.state.take(frame)

    def closed(self, channel: Channel) -> None:
        if channel.state:
            channel.state.lose()

    def number(self, pid: int) -> int:
        """Return a number that no other message of this second has: the client's process, if it is one of our namespace."""
        if pid > 0:
            return pid
        self._unique += 1
        return self._unique

    def place(self, request: Invocation) -> inject.Where:
        settings = self.settings()
        complete = frozenset((b"localhost", settings.me.lower())) | settings.locals
        hosts = Hosts(settings.defaulthost, settings.defaultdomain, settings.plusdomain, complete)
        return inject.where(request, hosts, settings.idhost, settings.maxhops)


class Session:
    """One client: an Invoke, its input, one Exit."""

    def __init__(self, door: Door, channel: Channel) -> None:
        self._door = door
        self._channel = channel
        self._frames: deque[Any] = deque()
        self._arrived: asyncio.Future[None] | None = None
        self._is_lost = False
        self._program = "sendmail"
        self._draft: Draft | None = None
        self._size = 0
        self._flags = 0
        self._started = time.monotonic()

    # --- the channel's side

    def take(self, frame: Any) -> None:
        self._frames.append(frame)
        if len(self._frames) >= MAX_HELD:
            self._channel.pause()
        self._wake()

    def lose(self) -> None:
        self._is_lost = True
        self._wake()

    def _wake(self) -> None:
        if self._arrived and not self._arrived.done():
            self._arrived.set_result(None)

    async def _next(self, *kinds: type) -> Any:
        """Return the next frame. ClientLost if there is none, or it is of another kind."""
        while not self._frames:
            if self._is_lost:
                raise ClientLost
            self._arrived = self._door.loop.create_future()
            await self._arrived
        frame = self._frames.popleft()
        if len(self._frames) < MAX_HELD:
            self._channel.resume()
        if not isinstance(frame, kinds):
            raise ClientLost
        return frame

    # --- the session's life

    async def run(self) -> None:
        uid = self._channel.peer.uid
        if not await self._door.turns.take(uid):
            self._exit(EXIT_CODES["sendmail"].temporary, f"too many messages of uid {uid} wait already")
            return
        try:
            await self._invoked(await self._next(frames.Invoke))
        except ClientLost:
            self._channel.close()
        finally:
            if self._draft:
                self._draft.abort()
            self._door.turns.give(uid)

    async def _invoked(self, invoke: frames.Invoke) -> None:
        self._program = invoke.program.decode("ascii", "replace")
        try:
            request = invocation.parse(invoke.program, invoke.arguments, invoke.environment)
        except invocation.UsageError as error:
            self._exit(EXIT_CODES.get(self._program, EXIT_CODES["sendmail"]).usage, str(error))
            return
        if request.kind is Kind.MESSAGE:
            await self._compose(request)
        elif request.kind is Kind.RAW:
            await self._raw()
        elif request.kind is Kind.LIST:
            await self._list()
        elif request.kind is Kind.ALIASES:
            await self._aliases()
        elif request.kind is Kind.DIALOGUE:
            self._exit(EXIT_CODES[self._program].usage, "-bs is not served; use -t, or SMTP to port 25 of this host")
        else:
            self._exit(0)

    def _exit(self, code: int, text: str = "") -> None:
        if text and self._program != "qmail-queue":  # its callers read codes
            line = f"{self._program}: {text}\n".encode("utf-8", "replace")
            self._channel.send(frames.Output(1, 2, line[:PIECE]))
        self._channel.send(frames.Exit(1, code))
        channel = self._channel
        timer = self._door.loop.call_later(LINGER_SECONDS, channel.close)
        channel.state = _Ended(timer)

    def _refuse(self, code: int, text: str, enhanced: bytes = b"") -> None:
        """End the session with this failure, and keep a record of it."""
        self._exit(code, text)
        journal.record(events.REFUSED, peer=b"uid %d" % self._channel.peer.uid, protocol="local",
                       command=self._program, enhanced=enhanced, text=text)  # fmt: skip

    async def _print(self, content: bytes) -> None:
        """Send this to the client's standard output, at the speed at which it takes it."""
        for place in range(0, len(content), PIECE):
            while self._channel.queued > MAX_OUTPUT and not self._is_lost:
                await asyncio.sleep(0.02)
            self._channel.send(frames.Output(1, 1, content[place : place + PIECE]))

    # --- messages

    async def _write(self, content: bytes) -> bool:
        """Add to the message. False: it is too large, and the client has been told."""
        limit = self._door.settings().databytes
        self._size += len(content)
        if limit and self._size > limit:
            self._refuse(EXIT_CODES[self._program].unacceptable, f"the message is larger than {limit} bytes", b"5.3.4")
            return False
        if not content.isascii():
            self._flags |= frames.FLAG_8BIT
        if self._draft is None:
            self._draft = self._door.intake.draft()
        self._draft.write(content)
        if self._draft.is_streaming and self._door.intake.is_congested:
            drained: asyncio.Future[None] = self._door.loop.create_future()
            self._door.intake.when_drained(functools.partial(drained.set_result, None))
            await drained
        return True

    async def _compose(self, request: Invocation) -> None:
        """qmail-inject: header section, envelope from it, body."""
        ends, section = fields.LineEnds(), fields.SectionReader()
        body: bytes | None = None
        try:
            while body is None:
                frame = await self._next(frames.Data, frames.EndOfInput)
                if isinstance(frame, frames.EndOfInput):
                    body = (section.feed(ends.finish()) or b"") + section.finish()
                    break
                body = section.feed(ends.feed(frame.content))
            composed = await self._composed(request, section)
            if not composed.recipients and request.program == "sendmail":
                # Differs: qmail's sendmail takes a message to nobody and drops it.
                raise inject.Unacceptable("the message names no recipients")
        except (inject.Unacceptable, fields.SectionTooLong) as error:
            self._refuse(EXIT_CODES[self._program].unacceptable, str(error), b"5.6.0")
            return
        last = frame if isinstance(frame, frames.EndOfInput) else None
        if request.shows:
            await self._print(b"Return-Path: <" + composed.sender + b">\n")
            put: Callable[[bytes], Awaitable[Any]] = self._print
        else:
            put = self._write
        if await put(composed.section) is False or await self._body(ends, body, last, put) is False:
            return
        if request.shows or not composed.recipients:
            self._exit(0)
        else:
            await self._hand_over(composed.sender, list(composed.recipients))

    async def _composed(self, request: Invocation, section: fields.SectionReader) -> inject.Composed:
        peer = self._channel.peer
        account, _ = await self._door.people(peer.uid, peer.gid)
        when = inject.When(int(time.time()), self._door.number(peer.pid), account)
        place = self._door.place(request)
        if sum(map(len, section.fields)) < LONG_SECTION:
            return inject.compose(section.fields, request, place, when)
        return await asyncio.to_thread(inject.compose, section.fields, request, place, when)

    async def _body(self, ends: fields.LineEnds, content: bytes, last: frames.EndOfInput | None,
                    put: Callable[[bytes], Awaitable[Any]]) -> bool:  # fmt: skip
        """Copy the body. A last line without an end gets one."""
        final = b"\n"
        while True:
            if content:
                final = content[-1:]
                if await put(content) is False:
                    return False
            if last:
                break
            frame = await self._next(frames.Data, frames.EndOfInput)
            last = frame if isinstance(frame, frames.EndOfInput) else None
            content = ends.finish() if last else ends.feed(frame.content)
        return final == b"\n" or await put(b"\n") is not False

    async def _raw(self) -> None:
        """qmail-queue: the message as it is, then the envelope."""
        section: fields.SectionReader | None = fields.SectionReader()
        hops = 0
        while isinstance(frame := await self._next(frames.Data, frames.EndOfInput), frames.Data):
            if section:
                try:
                    body = section.feed(frame.content)
                except fields.SectionTooLong:
                    body = b""
                hops = fields.hops(section.fields)
                section = section if body is None else None
            if not await self._write(frame.content):
                return
        if hops > self._door.settings().maxhops:
            self._refuse(envelope.REFUSED, "the message is in a loop", b"5.4.6")
            return
        parts: list[bytes] = []
        size = 0
        while isinstance(frame := await self._next(frames.Data, frames.EndOfInput), frames.Data):
            size += len(frame.content)
            if size > envelope.MAX_BYTES:
                self._refuse(envelope.REFUSED, "the envelope is too long", b"5.5.3")
                return
            parts.append(frame.content)
        try:
            sender, recipients = envelope.parse(b"".join(parts))
            inject.check_envelope(sender, recipients)
        except envelope.EnvelopeError as error:
            self._exit(error.code)
            return
        except inject.Unacceptable as error:
            self._refuse(envelope.REFUSED, str(error), b"5.5.3")
            return
        if recipients:
            await self._hand_over(sender, recipients)
        else:
            self._exit(0)  # a message to nobody ends as soon as it is queued

    async def _hand_over(self, sender: bytes, recipients: list[bytes]) -> None:
        """Give the message to the queue and tell the client what became of it."""
        peer = self._channel.peer
        now = int(time.time())
        trace = b"Received: (qmaild %d invoked by uid %d); %b\n" % (peer.pid, peer.uid, field_date(now))
        flags = self._flags
        if not all(path.isascii() for path in (sender, *recipients)):
            flags |= frames.FLAG_UTF8
        draft = self._draft or self._door.intake.draft()
        self._draft = None
        decided: asyncio.Future[Any] = self._door.loop.create_future()
        draft.finish(decided.set_result, trace, flags, b"uid %d" % peer.uid, sender, recipients)
        answer = await decided
        if isinstance(answer, frames.Accepted):
            self._exit(0)
            journal.record(events.ACCEPTED, message=answer.number, sender=sender, recipients=len(recipients),
                           bytes=self._size + len(trace), peer=b"uid %d" % peer.uid, protocol="local",
                           took=time.monotonic() - self._started)  # fmt: skip
            return
        failures = EXIT_CODES[self._program]
        if not isinstance(answer, frames.Refused):
            self._refuse(failures.temporary, "the queue cannot be reached; try again later", b"4.3.0")
            return
        code = failures.permanent if answer.outcome == frames.PERMANENT else failures.temporary
        if self._program == "qmail-queue" and answer.enhanced == b"4.3.1":
            code = 53  # disk full, in qmail-queue's table
        self._refuse(code, answer.text.decode("utf-8", "replace"), answer.enhanced)

    # --- questions

    async def _list(self) -> None:
        """mailq: the caller's own messages; everything for root and the group of administrators."""
        peer = self._channel.peer
        _, is_administrator = await self._door.people(peer.uid, peer.gid)
        origin = b"" if is_administrator else b"uid %d" % peer.uid
        after, is_empty = 0, True
        while not self._is_lost:
            answer = await self._ask(frames.List, origin, after, LIST_LIMIT)
            if not isinstance(answer, frames.Listed):
                self._exit(EXIT_CODES[self._program].temporary, "the queue cannot be reached; try again later")
                return
            is_empty = is_empty and not answer.text
            await self._print(answer.text)
            after = answer.last
            if not after:
                break
        if is_empty:
            await self._print(b"The queue holds no messages%b.\n" % (b"" if is_administrator else b" of yours"))
        self._exit(0)

    async def _ask(self, *question: Any) -> Any:
        asked: asyncio.Future[Any] = self._door.loop.create_future()
        self._door.caller.ask(lambda answer, descriptor: asked.set_result(answer), *question)
        return await asked

    async def _aliases(self) -> None:
        """newaliases: nothing is compiled here; say what is wrong in the file."""
        problems = await self._door.check_aliases()
        self._exit(EXIT_CODES[self._program].unacceptable if problems else 0, "; ".join(problems))


class _Ended:
    """A session that has said Exit: whatever the client still sends is of no use."""

    __slots__ = ("_timer",)

    def __init__(self, timer: asyncio.TimerHandle) -> None:
        self._timer = timer

    def take(self, frame: Any) -> None:
        pass

    def lose(self) -> None:
        self._timer.cancel()
