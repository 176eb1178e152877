"""Several processes of one door behind the same handed-in sockets. Knows processes and their pulse only.

The unit's main process then serves only the control socket: it starts the workers, adds up their connections,
replaces one that dies or falls silent, passes on TERM and reload, and leaves when all are idle.
With one worker there is no supervisor: the service is that process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from qmaild.runtime import controls, journal
from qmaild.runtime.service import Service
from qmaild.runtime.service import run as run_service

PROCESSORS_A_WORKER = 4  # the rest is for the queue, the deliverers and the kernel
PULSE_SECONDS = 1.0
SILENT_SECONDS = 20.0  # a worker without a pulse this long hangs
END_SECONDS = 0.1  # from the end of the pulse to the end of the process
RESTART_SECONDS = 0.3  # as the units' RestartSec=
MARK = "QMAILD_WORKER"  # "descriptor of the pulse/number of workers", in the environment of a worker only

Build = Callable[[Service], None]


def share() -> int:
    """Return among how many processes this one serves the sockets."""
    return int(os.environ.get(MARK, "0/1").partition("/")[2])


def run(name: str, build: Build) -> None:
    """Run the service in as many processes as smtpdworkers says."""
    if MARK in os.environ:
        _run_worker(name, build)
        return
    inherited = {key: os.environ[key] for key in ("LISTEN_FDS", "LISTEN_FDNAMES") if key in os.environ}
    count = _wanted()
    if count == 1 or not inherited:
        run_service(name, build)
    else:
        run_service(name, lambda service: Supervisor(service, count, inherited).start())


def _wanted() -> int:
    try:
        wanted = controls.read().smtpdworkers
    except (OSError, ValueError):
        return 1  # the service itself says what is wrong with its files
    return wanted or max(1, len(os.sched_getaffinity(0)) // PROCESSORS_A_WORKER)


def _run_worker(name: str, build: Build) -> None:
    """Serve until the supervisor says TERM or is gone. Idleness is the supervisor's to judge."""
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.environ.pop("NOTIFY_SOCKET", None)  # systemd listens to the main process
    pulse = socket.socket(fileno=int(os.environ[MARK].partition("/")[0]))
    pulse.setblocking(False)

    def build_worker(service: Service) -> None:
        service.listeners.pop("control", None)
        build(service)
        configure = service.on_reload
        beaten = 0.0

        def stay() -> None:
            service.settings = dataclasses.replace(service.settings, idleexit=0)
            configure()

        def beat() -> None:
            nonlocal beaten
            has_worked = service.idle_since > beaten
            beaten = time.monotonic()
            with contextlib.suppress(OSError):  # a supervisor that is gone is noticed by end of file
                pulse.send(b"%d\n" % (service.connections or service.is_busy() or has_worked))
            service.loop.call_later(PULSE_SECONDS, beat)

        def heard() -> None:
            if not pulse.recv(1):
                service.loop.remove_reader(pulse.fileno())
                service.stop()

        service.loop.add_signal_handler(signal.SIGHUP, lambda: service.commands[b"reload"]([]))
        service.loop.add_reader(pulse.fileno(), heard)
        service.on_reload = stay
        stay()
        beat()

    run_service(name, build_worker)


class _Worker:
    """One process: its pulse and what it last said."""

    def __init__(self, process: subprocess.Popen[bytes], pulse: socket.socket) -> None:
        self.process = process
        self.pulse = pulse
        self.heard = time.monotonic()
        self.connections = 1  # it is not idle before it has said so


class Supervisor:
    """Keeps `count` workers alive."""

    def __init__(self, service: Service, count: int, inherited: dict[str, str]) -> None:
        self._service = service
        self._count = count
        self._inherited = inherited
        self._workers: list[_Worker] = []
        service.on_reload = lambda: self._signal(signal.SIGHUP)
        service.on_stop = lambda: self._signal(signal.SIGTERM)
        service.on_exit = self._end
        service.is_unfinished = lambda: bool(self._workers)
        service.stop_seconds = math.inf  # the workers bound their own stop, the unit bounds all
        service.status = lambda: f"{service.connections} sessions in {len(self._workers)} workers"

    def start(self) -> None:
        for _ in range(self._count):
            self._add()
        self._watch()

    def _add(self) -> None:
        if self._service.is_stopping:
            return
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        handed_in = range(3, 3 + int(self._inherited["LISTEN_FDS"]))
        # A fresh program, not a fork of this one: it shares no event loop and no connection with it.
        process = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]], pass_fds=[*handed_in, theirs.fileno()],
            env={**os.environ, **self._inherited, MARK: f"{theirs.fileno()}/{self._count}"})  # fmt: skip
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        self._count_connections()
        self._service.loop.add_reader(ours.fileno(), self._heard, worker)

    def _heard(self, worker: _Worker) -> None:
        try:
            said = worker.pulse.recv(4096)
        except OSError:
            said = b""
        if not said:
            self._lost(worker)
            return
        worker.heard = time.monotonic()
        worker.connections = int(said.split()[-1])
        self._count_connections()

    def _lost(self, worker: _Worker) -> None:
        self._service.loop.remove_reader(worker.pulse.fileno())
        worker.pulse.close()
        self._service.loop.call_later(END_SECONDS, self._bury, worker)

    def _bury(self, worker: _Worker) -> None:
        worker.process.kill()  # without a pulse it is gone already, or of no use
        code = worker.process.wait()
        self._workers.remove(worker)
        self._count_connections()
        if self._service.is_stopping:
            return
        if code:
            journal.note(journal.WARNING, f"worker {worker.process.pid} ended ({code}); starting another")
        self._service.loop.call_later(RESTART_SECONDS, self._add)

    def _count_connections(self) -> None:
        self._service.connections = sum(each.connections for each in self._workers)

    def _watch(self) -> None:
        oldest = time.monotonic() - SILENT_SECONDS
        for worker in self._workers:
            if worker.heard < oldest:
                worker.process.kill()
        self._service.loop.call_later(PULSE_SECONDS, self._watch)

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._workers:
            worker.process.send_signal(number)

    def _end(self) -> None:
        for worker in self._workers:
            worker.process.kill()
            worker.process.wait()
