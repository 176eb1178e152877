"""The shell every service runs in: handed-in sockets, readiness, watchdog, idle exit, SIGTERM, control commands.

Knows nothing of mail. A service module builds its parts in `build(service)` and returns; the loop runs here.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from qmaild.protocol import frames
from qmaild.runtime import controls, journal, strangers
from qmaild.runtime.accepting import Acceptors
from qmaild.runtime.channel import Channel, OnFrame
from systemd import daemon

HELLO_SECONDS = 5.0  # every client of ours says it at once
IDLE_CHECK_SECONDS = 1.0
STOP_SECONDS = 5.0  # a stop that takes longer keeps connecting peers waiting (nobody accepts meanwhile)

UNFIT = 111  # exit status of a service that cannot serve: systemd starts it again

Command = Callable[[list[bytes]], tuple[int, bytes]]
Question = Callable[[list[bytes], Callable[[int, bytes], None]], None]  # a command whose answer takes its time


class Service:
    """One running service: `name` is the unit's name without `qmaild-`; `settings` the control files as last read."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self.loop = loop
        self.settings = controls.read()
        self.listeners: dict[str, list[socket.socket]] = {}
        self.channels: set[Channel] = set()
        self.connections = 0  # what counts as a connection beside channels: SMTP sessions and the like
        self.is_stopping = False
        self.commands: dict[bytes, Command] = {b"reload": self._reload, b"status": self._status}
        self.questions: dict[bytes, Question] = {}
        self.is_busy: Callable[[], bool] = lambda: False  # work without a connection: no idle exit now
        self.is_unfinished: Callable[[], bool] = lambda: self.is_busy()  # work that a stop waits for
        self.status: Callable[[], str] = lambda: f"{len(self.channels) + self.connections} connections"
        self.on_reload: Callable[[], None] = lambda: None
        self.on_stop: Callable[[], None] = lambda: None
        self.on_exit: Callable[[], None] = lambda: None
        self._partings: set[Channel] = set()  # connections whose client is told that we stop, and then closes them
        self._silent: dict[Channel, float] = {}  # connections that have not said Hello, and since when
        self._acceptors = Acceptors(loop, self.touch)
        self.stop_seconds = STOP_SECONDS  # doors let a message under way end; below the unit's TimeoutStopSec=
        self.idle_since = time.monotonic()
        self._stop_by = 0.0
        self._systemd = _notify_socket()
        for number, socket_name in daemon.listen_fds_with_names().items():
            listener = socket.socket(fileno=number)
            listener.setblocking(False)
            self.listeners.setdefault(socket_name, []).append(listener)

    def accept(self, name: str, made: Callable[[socket.socket], None]) -> None:
        """Call made(sock) for each connection to the handed-in sockets called `name` (FileDescriptorName=)."""
        for listener in self.listeners.get(name, []):
            self._acceptors.add(listener, made)

    def serve(self, name: str, on_frame: OnFrame, on_close: Callable[[Channel], None] | None = None,
              on_open: Callable[[Channel], None] | None = None, limit: int = frames.MAX_FRAME,
              on_accept: Callable[[Channel], None] | None = None,
              takes_descriptors: bool = False, says_leaving: bool = False) -> None:  # fmt: skip
        """Serve frames on the handed-in AF_UNIX sockets called `name`. Hello is said and heard here, before anything else:
        said at once, so that who waits for its turn (or for us to be started) knows that it does.

        on_accept sees a connection before anything is read from it, and may pause or close it. Descriptors
        are taken only where frames have some: on any other socket a peer could fill our table with them.
        says_leaving: the clients are Callers. A stop tells them, still answers what they have asked, and waits
        until each has closed: nothing they ask is lost between us and our successor.
        """

        hello = frames.Hello(frames.VERSION, self.name.encode())

        def closed(channel: Channel) -> None:
            self.channels.discard(channel)
            self._silent.pop(channel, None)
            self._partings.discard(channel)
            if on_close:
                on_close(channel)

        def greeted(channel: Channel, frame: Any, descriptor: int) -> None:
            if not isinstance(frame, frames.Hello) or frame.version != frames.VERSION:
                if descriptor >= 0:
                    strangers.close([descriptor])
                channel.close()
                return
            del self._silent[channel]
            channel.rewire(on_frame)
            if on_open:
                on_open(channel)
            if says_leaving:
                self._partings.add(channel)
                if self.is_stopping:
                    self._say_leaving(channel)

        def made(sock: socket.socket) -> None:
            channel = Channel(self.loop, sock, greeted, closed, limit, takes_descriptors, ends_with_peer=True)
            self.channels.add(channel)
            self._silent[channel] = time.monotonic()
            if on_accept:
                on_accept(channel)
            channel.send(hello)  # unless it was closed

        self.accept(name, made)

    def touch(self) -> None:
        """Work was done: the idle clock starts again."""
        self.idle_since = time.monotonic()

    def stop(self) -> None:
        """Begin to stop: accept nothing more, let what is under way end, be gone in stop_seconds at most."""
        if self.is_stopping:
            return
        self.is_stopping = True
        self._stop_by = time.monotonic() + self.stop_seconds
        self._notify("STOPPING=1")
        self._acceptors.close()
        for channel in list(self._partings):
            self._say_leaving(channel)
        self.on_stop()
        self._until_stopped()

    def _say_leaving(self, channel: Channel) -> None:
        channel.send(frames.Leaving(int(self.stop_seconds)))

    def _until_stopped(self) -> None:
        busy = self.is_unfinished() or self.connections > 0 or self._partings
        if not busy or time.monotonic() >= self._stop_by:
            self.loop.stop()
        else:
            self.loop.call_later(0.05, self._until_stopped)

    def _notify(self, text: str) -> None:
        if self._systemd:
            with contextlib.suppress(OSError):  # systemd is busy: the next one comes in a second
                self._systemd.send(text.encode())

    def _tick(self) -> None:
        """Feed the watchdog, show the status, leave when idle. Run by the loop itself, so a stuck loop is noticed."""
        self._notify(f"WATCHDOG=1\nSTATUS={self.status()}")
        self._cut_off_silent()
        if self.connections or self.channels or self.is_busy():
            self.touch()
        elif self._has_rested() and not self.is_stopping and not self._acceptors.take_waiting():
            self.stop()
            return
        self.loop.call_later(IDLE_CHECK_SECONDS, self._tick)

    def _has_rested(self) -> bool:
        limit = self.settings.idleexit
        return bool(limit) and time.monotonic() - self.idle_since >= limit

    def _cut_off_silent(self) -> None:
        """End connections whose Hello does not come: they would keep us from leaving. A paused one waits for us."""
        now = time.monotonic()
        for channel, since in list(self._silent.items()):
            if channel.is_paused:
                self._silent[channel] = now
            elif now - since > HELLO_SECONDS:
                channel.close()

    def _reload(self, words: list[bytes]) -> tuple[int, bytes]:
        try:
            settings = controls.read()
        except controls.ControlError as error:
            return 1, str(error).encode()
        self.settings = settings
        self.on_reload()
        return 0, b""

    def _status(self, words: list[bytes]) -> tuple[int, bytes]:
        return 0, self.status().encode()

    def _control(self, channel: Channel, frame: Any, descriptor: int) -> None:
        if not isinstance(frame, frames.Command):
            channel.close()
            return
        name = frame.words[0] if frame.words else b""
        if name in self.questions:
            tag = frame.tag
            self.questions[name](frame.words[1:], lambda code, text: channel.send(frames.Answer(tag, code, text)))
            return
        command = self.commands.get(name)
        if command is None:
            channel.send(frames.Answer(frame.tag, 100, b"this service has no such command"))
            return
        code, text = command(frame.words[1:])
        channel.send(frames.Answer(frame.tag, code, text))

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what no code of ours has caught. Memory that is missing anywhere leaves gaps in what was read: start again."""
        if not isinstance(context.get("exception"), MemoryError):
            loop.default_exception_handler(context)
            return
        try:
            journal.note(journal.ERROR, "out of memory: starting again")
        finally:
            os._exit(UNFIT)

    def run(self) -> None:
        """Announce readiness and run until stopped or idle."""
        self.serve("control", self._control)
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self.stop)
        self.loop.set_exception_handler(self._failed)
        gc.collect()
        gc.freeze()  # what start-up made stays: no collection walks it again
        self._notify("READY=1")
        self._tick()
        self.loop.run_forever()
        for channel in list(self.channels):
            channel.close()
        self.on_exit()


def _notify_socket() -> socket.socket | None:
    """Return a socket that leads to systemd: sd_notify(3) makes one each time, and fails when no descriptor is free."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.connect("\0" + path[1:] if path.startswith("@") else path)
    return sock


def run(name: str, build: Callable[[Service], None]) -> None:
    """Run one service. It exits 0 when idle or told to stop, 111 when it cannot serve (systemd tries again)."""
    os.umask(0o077)
    journal.open_as(f"qmaild-{name}")
    loop = asyncio.SelectorEventLoop()
    asyncio.set_event_loop(loop)
    try:
        service = Service(name, loop)
        build(service)
    except (OSError, ValueError) as error:
        # Rule 13: stay in the slow restart with a clear status, never a crash without a word.
        text = "cannot serve: " + " ".join(str(error).split())  # a status is one line
        daemon.notify(f"STATUS={text}")
        journal.note(journal.ERROR, text)
        sys.exit(UNFIT)
    service.run()
