"""Sessions of inject's clients, one coroutine each: sendmail, qmail-inject, qmail-queue, mailq, newaliases.

Knows who the client is (SO_PEERCRED), what it may hold and is told; messages are posting.py's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from qmaild.control import events
from qmaild.control.settings import Settings
from qmaild.message import inject, invocation
from qmaild.message.addresslist import Hosts
from qmaild.message.invocation import EXIT_CODES, Failures, Invocation, Kind
from qmaild.protocol import frames
from qmaild.runtime import journal, people
from qmaild.runtime.caller import Caller
from qmaild.runtime.channel import Channel, Peer
from qmaild.runtime.intake import Intake
from qmaild.runtime.turns import Turns

MAX_INVOKE = 2 << 20  # the largest frame of a client; its own bound is half of it
MAX_ACTIVE = 20  # sessions of one uid that are worked on; the next ones wait their turn
MAX_CONNECTIONS = 500  # of one uid, with those that wait; a further one is closed, and its client says "try again"
MAX_HELD = 4  # frames read ahead of a session
MAX_OUTPUT = 1 << 20  # bytes that a client has not taken
OUTPUT_SECONDS = 0.02  # between two looks at a client that takes its output slowly
PIECE = 32 << 10  # of one Output frame
LIST_LIMIT = 500  # messages the queue looks at for one question
LINGER_SECONDS = 600.0  # for a client that does not take its answer
INPUT_SECONDS = 3600.0  # for a client whose input does not go on; it reads most of it before it connects
PID_LIMIT = 4194304  # Linux's highest: numbers above it are ours

Work = Callable[["Session", Invocation], Awaitable[None]]


class ClientLost(Exception):
    """The client is gone, or out of step."""


class Door:
    """What all sessions share. works: what is done for a client that brings input, by kind."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, caller: Caller, settings: Callable[[], Settings],
        works: Mapping[Kind, Work],
    ) -> None:  # fmt: skip
        self.loop = loop
        self.caller = caller
        self.intake = Intake(caller)
        self.settings = settings
        self.works = works
        self.people = people.People()
        self.turns = Turns(MAX_ACTIVE)
        self.long_works = asyncio.Semaphore(1)  # a section of a megabyte takes seconds and 200 MB: one at a time
        self.lists = asyncio.Semaphore(1)  # one question at a time, of all users: the queue has mail to take between two
        self._connections: dict[int, int] = {}
        self._unique = PID_LIMIT
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_busy(self) -> bool:
        return bool(self._connections or self._tasks) or self.caller.outstanding > 0

    def accepted(self, channel: Channel) -> None:
        """A connection is there: it waits for its turn before anything is read, so waiting costs next to nothing."""
        uid = channel.peer.uid
        self._connections[uid] = self._connections.get(uid, 0) + 1
        if self._connections[uid] > MAX_CONNECTIONS:
            channel.close()
            return
        channel.pause()
        channel.state = Session(self, channel)
        self.turns.take(uid, channel.state.begin)

    def opened(self, channel: Channel) -> None:
        """The client has said Hello."""
        channel.state.is_running = True
        task = self.loop.create_task(channel.state.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def frame(self, channel: Channel, frame: Any, descriptor: int) -> None:
        channel.state.take(frame)

    def closed(self, channel: Channel) -> None:
        uid = channel.peer.uid
        self._connections[uid] -= 1
        if not self._connections[uid]:
            del self._connections[uid]
        if channel.state:
            channel.state.lose()

    def number(self, pid: int) -> int:
        """Return a number no other message of this second has: the client's process, if we can see it."""
        if pid > 0:
            return pid
        self._unique += 1
        return self._unique

    def place(self, request: Invocation) -> inject.Where:
        """Return the settings that qmail-inject's rules read."""
        settings = self.settings()
        complete = frozenset((b"localhost", settings.me.lower())) | settings.locals
        hosts = Hosts(settings.defaulthost, settings.defaultdomain, settings.plusdomain, complete)
        return inject.where(request, hosts, settings.idhost, settings.maxhops)


class Session:
    """One client: its turn, an Invoke, its input, one Exit."""

    def __init__(self, door: Door, channel: Channel) -> None:
        self.door = door
        self.program = "sendmail"
        self._channel = channel
        self._frames: deque[Any] = deque()
        self._arrived: asyncio.Future[None] | None = None
        self._is_lost = False
        self.is_running = False  # run() gives the turn back
        self._has_turn = self._has_ended = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def peer(self) -> Peer:
        return self._channel.peer

    @property
    def failures(self) -> Failures:
        """The exit codes of the program that this client is."""
        return EXIT_CODES.get(self.program, EXIT_CODES["sendmail"])

    def begin(self) -> None:
        """It is this session's turn."""
        self._has_turn = True
        self._wait(INPUT_SECONDS)
        self._channel.resume()

    def _wait(self, seconds: float) -> None:
        """Give the client up when it says nothing for so long."""
        if self._timer:
            self._timer.cancel()
        self._timer = self.door.loop.call_later(seconds, self._channel.close)

    def _end_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self.door.turns.give(self.peer.uid)

    def take(self, frame: Any) -> None:
        """The channel has a frame."""
        if self._has_ended:
            return  # whatever the client still sends is of no use
        self._frames.append(frame)
        if len(self._frames) >= MAX_HELD:
            self._channel.pause()
        self._wake()

    def lose(self) -> None:
        """The channel is closed."""
        self._is_lost = True
        if self._timer:
            self._timer.cancel()
        if self.is_running:
            self._wake()
        elif self._has_turn:
            self._end_turn()
        else:
            self.door.turns.withdraw(self.peer.uid, self.begin)

    def _wake(self) -> None:
        if self._arrived and not self._arrived.done():
            self._arrived.set_result(None)

    async def next(self, *kinds: type) -> Any:
        """Return the next frame. ClientLost if there is none, or it is of another kind."""
        while not self._frames:
            if self._is_lost:
                raise ClientLost
            self._arrived = self.door.loop.create_future()
            self._wait(INPUT_SECONDS)
            await self._arrived
        frame = self._frames.popleft()
        if len(self._frames) < MAX_HELD:
            self._channel.resume()
        if not isinstance(frame, kinds):
            raise ClientLost
        return frame

    async def run(self) -> None:
        try:
            await self._invoked(await self.next(frames.Invoke))
        except ClientLost:
            self._channel.close()
        except Exception as error:  # unknown means temporary, and costs this session only
            journal.note(journal.ERROR, f"a session of uid {self.peer.uid} failed: {error!r}")
            self.exit(self.failures.temporary, "something went wrong in the mail service; try again later")
        finally:
            self._end_turn()  # not before: what a client left behind still counts as its own

    async def _invoked(self, invoke: frames.Invoke) -> None:
        self.program = invoke.program.decode("ascii", "replace")
        try:
            request = invocation.parse(invoke.program, invoke.arguments, invoke.environment)
        except invocation.UsageError as error:
            self.exit(self.failures.usage, str(error))
            return
        if request.kind in self.door.works:
            await self.door.works[request.kind](self, request)
        elif request.kind is Kind.LIST:
            await self._list()
        elif request.kind is Kind.ALIASES:
            problems = await people.check_aliases()
            self.exit(self.failures.unacceptable if problems else 0, "; ".join(problems))
        else:
            self.exit(0)

    def exit(self, code: int, text: str = "") -> None:
        """End the session: the client prints the text and ends with the code."""
        if text and self.program != "qmail-queue":  # its callers read codes
            line = f"{self.program}: {text}\n".encode("utf-8", "replace")
            self._channel.send(frames.Output(1, 2, line[:PIECE]))
        self._channel.send(frames.Exit(1, code))
        self._has_ended = True
        self._end_turn()
        if self._channel.is_open:  # the client closes; one that does not read what it asked for is given up
            self._wait(LINGER_SECONDS)
            self._channel.resume()

    def refuse(self, code: int, text: str, enhanced: bytes = b"") -> None:
        """End the session with this failure, and keep a record of it."""
        self.exit(code, text)
        journal.record(
            events.REFUSED, peer=b"uid %d" % self.peer.uid, protocol="local", command=self.program,
            enhanced=enhanced, text=text,
        )  # fmt: skip

    async def print(self, content: bytes) -> None:
        """Send this to the client's standard output, at the speed at which it takes it."""
        for place in range(0, len(content), PIECE):
            while self._channel.queued > MAX_OUTPUT and not self._is_lost:
                await asyncio.sleep(OUTPUT_SECONDS)
            self._channel.send(frames.Output(1, 1, content[place : place + PIECE]))

    async def _list(self) -> None:
        """mailq: the caller's own messages; everything for root and the group of administrators."""
        _, is_administrator = await self.door.people.of(self.peer.uid, self.peer.gid)
        origin = b"" if is_administrator else b"uid %d" % self.peer.uid
        after, is_empty = 0, True
        while not self._is_lost:
            async with self.door.lists:
                answer = await self._ask(frames.List, origin, after, LIST_LIMIT)
            if not isinstance(answer, frames.Listed):
                self.exit(self.failures.temporary, "the queue cannot be reached; try again later")
                return
            is_empty = is_empty and not answer.text
            await self.print(answer.text)
            after = answer.last
            if not after:
                break
        if is_empty:
            await self.print(b"The queue holds no messages%b.\n" % (b"" if is_administrator else b" of yours"))
        self.exit(0)

    async def _ask(self, *question: Any) -> Any:
        asked: asyncio.Future[Any] = self.door.loop.create_future()
        self.door.caller.ask(lambda answer, descriptor: asked.set_result(answer), *question)
        return await asked
