"""A whole mail server as processes below one folder: every service there is between a door and a Maildir, program or peer."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from qmaild.protocol import frames, netstring

from .peers import Client
from .processes import ROOT, SECONDS, Running
from .smtp_peer import Peer

SOCKETS = {
    "spawn": ["spawn", "control"], "program": ["program", "control"], "local": ["local", "lookup", "control"],
    "dial": ["dial", "control"], "remote": ["remote", "control"], "send": ["manage", "control"],
    "queue": ["intake", "control"], "smtpd": ["smtp", "control"], "qmqpd": ["qmqp", "control"],
    "inject": ["inject", "control"],
}  # fmt: skip
RECIPIENTS = (b"joe@host.test", b"ann@host.test", b"x@far.test")
KEEP = "|mkdir -p copies; cat >.new-$$ && mv .new-$$ copies/$$-$(date +%s%N)\n"
OUTCOMES = {b"2": frames.SUCCESS, b"4": frames.TEMPORARY, b"": b""}  # of an SMTP reply


class Said(NamedTuple):
    """What a door said to a message, by the three outcomes of ours; none if it closed without a word, or was silent."""

    number: int
    outcome: bytes
    text: bytes


class WholeHouse:
    """joe has a Maildir, ann a program, x@far.test is the peer's.

    QMAILD_STANDALONE, QMAILD_ALIASES and STATE_DIRECTORY must name `top`.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self._stack = contextlib.ExitStack()
        self.services: dict[str, Running] = {}
        self._numbers = itertools.count(1)

    @staticmethod
    def environment(top: Path) -> dict[str, str]:
        return {"QMAILD_STANDALONE": str(top), "QMAILD_ALIASES": str(top / "aliases"), "STATE_DIRECTORY": str(top / "queue")}

    def __enter__(self) -> WholeHouse:
        for user in ("joe", "ann"):
            (self.top / "home" / user).mkdir(parents=True, mode=0o700)
        (self.top / "home/ann/.qmail").write_text(KEEP)
        (self.top / "users").write_text("joe\nann\n")
        self.peer = self._stack.enter_context(Peer())
        for name in SOCKETS:
            self.start(name)
            self._stack.callback(self.stop, name)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def start(self, name: str) -> None:
        route = f"far.test:[127.0.0.1]:{self.peer.port}"
        self.services[name] = Running(
            name, SOCKETS[name], self.top, idleexit="0", smtproutes=route, qmqpclients="127.0.0.1", relayclients="127.0.0.1")

    def stop(self, name: str) -> None:
        with self.services[name]:
            pass

    def pid(self, name: str) -> int:
        return self.services[name].process.pid

    def submit(self, size: int = 100, door: str = "smtpd", seconds: float = SECONDS) -> Said:
        """Send a message to everybody, through the door of this service."""
        number = next(self._numbers)
        content = b"Subject: number %d\n\n" % number + b"x" * 70 + b"\n" + (b"y" * 70 + b"\n") * (size // 71)
        by = {"smtpd": self._by_smtp, "qmqpd": self._by_qmqp, "inject": self._by_sendmail}[door]
        try:
            return Said(number, *by(content, seconds))
        except (OSError, subprocess.TimeoutExpired) as error:
            return Said(number, b"", type(error).__name__.encode())

    def _by_smtp(self, content: bytes, seconds: float) -> tuple[bytes, bytes]:
        with Client(self.services["smtpd"].ports["smtp"]) as client:
            client._sock.settimeout(seconds)
            said = client.reply()
            if said[:1] == b"2":
                said = client.ask(b"EHLO test")
            if said[:1] == b"2":
                recipients = [b"<%b>" % each for each in RECIPIENTS]
                said = client.message(content.replace(b"\n", b"\r\n"), b"<a@b.test>", *recipients)
        return OUTCOMES.get(said[:1], frames.PERMANENT), said

    def _by_qmqp(self, content: bytes, seconds: float) -> tuple[bytes, bytes]:
        parts = [content, b"a@b.test", *RECIPIENTS]
        with socket.create_connection(("127.0.0.1", self.services["qmqpd"].ports["qmqp"]), seconds) as sock:
            sock.settimeout(seconds)
            sock.sendall(netstring.encode(netstring.encode_all(parts)))
            answer = b""
            while data := sock.recv(4096):
                answer += data
        said = answer.partition(b":")[2]
        return said[:1], said

    def _by_sendmail(self, content: bytes, seconds: float) -> tuple[bytes, bytes]:
        words = [ROOT / "build/sendmail", "-f", "a@b.test", *map(os.fsdecode, RECIPIENTS)]
        done = subprocess.run(words, input=content, capture_output=True, timeout=seconds,
                              env={**os.environ, "QMAILD_RUN": str(self.top / "run")})  # fmt: skip
        outcome = {0: frames.SUCCESS, os.EX_TEMPFAIL: frames.TEMPORARY}.get(done.returncode, frames.PERMANENT)
        return outcome, done.stderr

    def ask(self, service: str, *words: str) -> str:
        client = self.services[service].client("control")
        client.send(frames.Command(7, [word.encode() for word in words]))
        answer, _ = client.receive()
        client.close()
        assert isinstance(answer, frames.Answer)
        return answer.text.decode()

    def arrived(self) -> dict[str, set[int]]:
        """The numbers of the messages that each has: joe, ann and the peer."""
        home = self.top / "home"
        theirs = [seen.content for seen in list(self.peer.messages.queue)]
        return {"joe": _numbers(_contents(home / "joe/Maildir/new")), "ann": _numbers(_contents(home / "ann/copies")),
                "peer": _numbers(theirs)}  # fmt: skip

    def until_arrived(self, wanted: set[int], but: Sequence[str] = ()) -> None:
        """Wait until joe, ann and the peer have all of these, but for some of them."""
        deadline = time.monotonic() + SECONDS
        while missing := {who: wanted - got for who, got in self.arrived().items() if who not in but and wanted - got}:
            assert time.monotonic() < deadline, f"missing: {missing}; {self.ask('queue', 'status')}"
            self.ask("queue", "retry", "all")
            time.sleep(0.2)

    def until_waiting(self, recipients: int) -> None:
        """Wait until so many recipients wait for another attempt, and no attempt is under way."""
        deadline = time.monotonic() + SECONDS
        while f" 0 new, {recipients} waiting and 0 out" not in (said := self.ask("queue", "status")):
            assert time.monotonic() < deadline, said
            time.sleep(0.05)

    def children(self, name: str) -> list[int]:
        """The processes that a service has made."""
        pid = self.pid(name)
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def is_alive(self, name: str) -> bool:
        return self.services[name].process.poll() is None

    def descriptors(self, name: str) -> set[int]:
        return {int(number) for number in os.listdir(f"/proc/{self.pid(name)}/fd")}


def _contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.iterdir()] if folder.exists() else []


def _numbers(messages: list[bytes]) -> set[int]:
    return {int(found[1]) for each in messages if (found := re.search(rb"^Subject: number (\d+)", each, re.M))}


@contextlib.contextmanager
def whole_house(top: Path) -> Iterator[WholeHouse]:
    """The house below `top`, with what this process needs of its environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in WholeHouse.environment(top).items():
            patch.setenv(name, value)
        with WholeHouse(top) as house:
            yield house
