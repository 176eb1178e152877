"""The door before a queue that is away while its socket is there, as systemd holds it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qmaild.protocol import frames
from qmaild.runtime.caller import PATIENCE_SECONDS
from qmaild.runtime.service import UNFIT

from .peers import Client, Peer, knowing
from .processes import SECONDS, Running

LATER = b"451 4.3.0"


class House:
    """smtpd, the socket of a queue, and the queue's process when there is one."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        directory.mkdir()
        self._directory = directory
        self._monkeypatch = monkeypatch
        self._lookup = Peer(directory, "lookup", knowing)
        self.smtpd = self._run("smtpd", ["smtp", "control"], None)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / "run/intake.sock"))
        self._listener.listen(100)
        self.queue: Running | None = None

    def _run(self, name: str, sockets: list[str], held: dict[str, socket.socket] | None) -> Running:
        self._monkeypatch.setenv("QMAILD_STANDALONE", str(self._directory))
        self._monkeypatch.setenv("STATE_DIRECTORY", str(self._directory / "queue"))
        return Running(name, sockets, self._directory, held, queueonly="1")

    def start(self) -> Running:
        self.queue = self._run("queue", ["intake", "control"], {"intake": self._listener})
        return self.queue

    def submit(self) -> bytes:
        """The reply to the end of a message."""
        with Client(self.smtpd.ports["smtp"]) as client:
            client._sock.settimeout(PATIENCE_SECONDS + SECONDS)
            assert client.reply()[:3] == b"220"
            assert client.ask(b"HELO test")[:3] == b"250"
            return client.message(b"Subject: x\r\n\r\nbody\r\n")

    def messages(self) -> int:
        """How many the queue holds: nothing is delivered here."""
        assert self.queue
        client = self.queue.client("control")
        client.send(frames.Command(1, [b"status"]))
        answer, _ = client.receive()
        client.close()
        assert isinstance(answer, frames.Answer)
        return int(answer.text.split()[0])

    def close(self) -> None:
        if self.queue:
            self.queue.process.kill()
            self.queue.process.wait()
        with self.smtpd, self._lookup:
            pass
        self._listener.close()


@contextlib.contextmanager
def houses(directory: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> Iterator[list[House]]:
    with contextlib.ExitStack() as stack:
        made = [House(directory / name, monkeypatch) for name in names]
        for each in made:
            stack.callback(each.close)
        yield made


def crash(house: House, is_over: threading.Event) -> int:
    """Start the queue again whenever it has ended, until it is over. Returns how often it was unfit."""
    ends = 0
    while not is_over.is_set():
        assert house.start().process.wait(SECONDS) == UNFIT
        ends += 1
        is_over.wait(0.5)
    return ends


def test_mail_for_a_queue_that_cannot_serve_is_refused_for_now_and_stored_only_when_it_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One queue is stopped, one starts and starts again over a folder of a foreign format, one was never started."""
    with houses(tmp_path, monkeypatch, "hung", "unfit", "away") as (hung, unfit, away), ThreadPoolExecutor(4) as pool:
        stopped = hung.start().process.pid
        assert hung.messages() == 0  # it is up
        os.kill(stopped, signal.SIGSTOP)
        with unfit.start():
            assert unfit.messages() == 0
        form = tmp_path / "unfit/queue/format"
        ours = form.read_bytes()
        form.write_bytes(b"a queue of the year 2100\n")
        is_over = threading.Event()
        crashes = pool.submit(crash, unfit, is_over)
        begun = time.monotonic()
        try:
            said = list(pool.map(House.submit, (hung, unfit, away)))
        finally:
            is_over.set()
        took = time.monotonic() - begun
        assert [each[: len(LATER)] for each in said] == [LATER] * 3
        assert PATIENCE_SECONDS - 1 <= took < PATIENCE_SECONDS + SECONDS / 2
        assert crashes.result() > 1
        form.write_bytes(ours)
        os.kill(stopped, signal.SIGCONT)
        unfit.start()
        away.start()
        for house in (hung, unfit, away):
            assert house.submit()[:3] == b"250"
            assert house.messages() == 1  # and nothing of what was refused


def test_a_queue_that_is_slow_to_start_loses_its_clients_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with houses(tmp_path, monkeypatch, "slow") as (house,), ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(house.submit) for _ in range(5)]
        os.kill(house.start().process.pid, signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            waiting[0].result(3)
        assert house.queue
        os.kill(house.queue.process.pid, signal.SIGCONT)
        assert {each.result()[:3] for each in waiting} == {b"250"}
        assert house.messages() == 5


def test_a_queue_that_hangs_and_is_ended_for_it_has_promised_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the watchdog ends it: what it had been asked over a connection that it knew is refused, and is in no file."""
    with houses(tmp_path, monkeypatch, "hung") as (house,), ThreadPoolExecutor(1) as pool:
        queue = house.start()
        assert house.submit()[:3] == b"250"
        os.kill(queue.process.pid, signal.SIGSTOP)
        waiting = pool.submit(house.submit)
        with pytest.raises(TimeoutError):
            waiting.result(1)
        queue.process.kill()
        queue.process.wait()
        assert waiting.result()[: len(LATER)] == LATER
        house.start()
        assert house.submit()[:3] == b"250"
        assert house.messages() == 2
