"""Processes by demand, as systemd starts them: services behind open sockets, restarts. Knows no sandbox.

A service that does not run is started when one of its sockets has a connection waiting. One that exits with 0
rests until the next; one that fails starts again after its RestartSec=.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from qmaild.runtime.listening import Listener
from qmaild.runtime.units import Program

FIRST_DESCRIPTOR = 3  # sd_listen_fds(3)
# Runs a module of `tree` with nothing of the environment or the working directory on the path.
_RUN = (
    "import os, runpy, sys; sys.path.insert(0, sys.argv[1]); del sys.argv[:2]; "
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)
# A service also learns its process id, which sd_listen_fds(3) wants, and ends with the supervisor, however
# that ends: prctl(PR_SET_PDEATHSIG, SIGTERM).
_SERVE = (
    "import ctypes, os; ctypes.CDLL(None).prctl(1, 15); os.environ['LISTEN_PID'] = str(os.getpid()); " + _RUN
)


def python(tree: Path, module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of `tree`, isolated as `python3 -I -m` is."""
    return [sys.executable, "-I", "-c", _RUN, str(tree), module, *arguments]


class _Service:
    """One program: the process it has now, or when it may be started next."""

    def __init__(self, program: Program, listeners: list[Listener]) -> None:
        self.program = program
        self.listeners = listeners
        self.pid = 0
        self.is_due = program.is_wanted
        self.not_before = 0.0


class Supervisor:
    """Runs services until stop(), SIGINT or SIGTERM. `say` gets a line when something goes wrong."""

    def __init__(
        self, tree: Path, programs: list[Program], listeners: Mapping[str, list[Listener]],
        environment: Mapping[str, str], state: Path, say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._tree = tree
        self._environment = dict(environment)
        self._state = state
        self._say = say
        self._services = [_Service(program, listeners.get(program.name, [])) for program in programs]
        self._selector = selectors.DefaultSelector()
        self._guest = 0
        self._guest_ended: Callable[[int], None] = lambda code: None
        self._stop_by = 0.0
        self._wake, self._woken = socket.socketpair()
        for end in (self._wake, self._woken):
            end.setblocking(False)

    @property
    def is_stopping(self) -> bool:
        return self._stop_by > 0

    def run(self, ready: Callable[[], None]) -> None:
        """Serve. ready() is called when a signal ends it cleanly. Returns when every process has ended."""
        _raise_file_limit(max(service.program.files for service in self._services))
        previous = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        wanted = {
            signal.SIGINT: self._on_signal, signal.SIGTERM: self._on_signal,
            signal.SIGCHLD: lambda number, frame: None,  # its number wakes the loop
        }  # fmt: skip
        handlers = [(number, signal.signal(number, handler)) for number, handler in wanted.items()]
        self._selector.register(self._woken, selectors.EVENT_READ)
        for service in self._services:
            self._rest(service)
        try:
            ready()
            while not (self.is_stopping and self._is_alone()):
                self._turn()
        finally:
            signal.set_wakeup_fd(previous)
            for number, handler in handlers:
                signal.signal(number, handler)

    def add_guest(self, argv: list[str], ended: Callable[[int], None]) -> None:
        """Run one program of another kind beside the services; ended(exit code) is called when it is over."""
        self._guest_ended = ended
        self._guest = os.posix_spawn(argv[0], argv, {**os.environ, **self._environment}, setpgroup=0)

    def stop(self) -> None:
        """End every process: SIGTERM now, SIGKILL when its TimeoutStopSec= is over (or at a second call)."""
        number = signal.SIGKILL if self.is_stopping else signal.SIGTERM
        self._stop_by = time.monotonic() + max(service.program.stop_seconds for service in self._services)
        for pid in (self._guest, *(service.pid for service in self._services)):
            _signal_group(pid, number)

    def _on_signal(self, number: int, frame: object) -> None:
        self.stop()

    def _is_alone(self) -> bool:
        return not self._guest and not any(service.pid for service in self._services)

    def _turn(self) -> None:
        """Wait for one thing to happen and see to everything that has."""
        for key, _ in self._selector.select(self._patience()):
            if key.fileobj is self._woken:
                self._drain()
            else:
                key.data.is_due = True
        self._reap()
        now = time.monotonic()
        if self.is_stopping:
            if now >= self._stop_by:
                self.stop()
            return
        for service in self._services:
            if service.is_due and not service.pid and now >= service.not_before:
                self._start(service)

    def _patience(self) -> float | None:
        if self.is_stopping:
            return max(0.0, self._stop_by - time.monotonic())
        times = [service.not_before for service in self._services if service.is_due and not service.pid]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass

    def _start(self, service: _Service) -> None:
        self._stop_watching(service)
        program = service.program
        environment = {
            **self._environment, "LISTEN_FDS": str(len(service.listeners)),
            "LISTEN_FDNAMES": ":".join(listener.name for listener in service.listeners),
        }  # fmt: skip
        if program.has_state:
            environment["STATE_DIRECTORY"] = str(self._state)
        actions: list[tuple[int, ...]] = [
            (os.POSIX_SPAWN_DUP2, listener.sock.fileno(), FIRST_DESCRIPTOR + place)
            for place, listener in enumerate(service.listeners)
        ]
        argv = [sys.executable, "-I", "-c", _SERVE, str(self._tree), program.module]
        service.is_due = False
        service.pid = os.posix_spawn(argv[0], argv, environment, setpgroup=0, file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0), *actions])  # fmt: skip

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._ended(pid, os.waitstatus_to_exitcode(status))

    def _ended(self, pid: int, code: int) -> None:
        _signal_group(pid, signal.SIGKILL)  # what it left behind ends with it, as in a unit
        if pid == self._guest:
            self._guest = 0
            self._guest_ended(code)
        for service in self._services:
            if service.pid == pid:
                service.pid = 0
                self._after(service, code)

    def _after(self, service: _Service, code: int) -> None:
        if code and not self.is_stopping:
            how = f"exit {code}" if code > 0 else signal.Signals(-code).name
            self._say(f"{service.program.name} ended ({how}); it starts again")
            service.is_due = True
            service.not_before = time.monotonic() + service.program.restart_seconds
        else:
            self._rest(service)

    def _rest(self, service: _Service) -> None:
        for listener in service.listeners:
            self._selector.register(listener.sock, selectors.EVENT_READ, service)

    def _stop_watching(self, service: _Service) -> None:
        for listener in service.listeners:
            if listener.sock in self._selector.get_map():
                self._selector.unregister(listener.sock)


def _signal_group(leader: int, number: int) -> None:
    if leader:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader, number)


def _raise_file_limit(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
