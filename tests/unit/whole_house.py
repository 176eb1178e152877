"""A whole mail server as processes below one folder: every service there is between the SMTP door and a Maildir or a peer."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

from qmaild.protocol import frames

from .peers import Client
from .processes import SECONDS, Running
from .smtp_peer import Peer

SOCKETS = {
    "spawn": ["spawn", "control"], "local": ["local", "lookup", "control"], "dial": ["dial", "control"],
    "remote": ["remote", "control"], "send": ["manage", "control"], "queue": ["intake", "control"],
    "smtpd": ["smtp", "control"],
}  # fmt: skip


class WholeHouse:
    """joe has a Maildir, x@far.test is the peer's. QMAILD_STANDALONE, QMAILD_ALIASES and STATE_DIRECTORY must name `top`."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self._stack = contextlib.ExitStack()
        self.services: dict[str, Running] = {}
        self._number = 0

    @staticmethod
    def environment(top: Path) -> dict[str, str]:
        return {"QMAILD_STANDALONE": str(top), "QMAILD_ALIASES": str(top / "aliases"), "STATE_DIRECTORY": str(top / "queue")}

    def __enter__(self) -> WholeHouse:
        (self.top / "home/joe").mkdir(parents=True, mode=0o700)
        (self.top / "users").write_text("joe\n")
        self.peer = self._stack.enter_context(Peer())
        for name in SOCKETS:
            self.start(name)
            self._stack.callback(self.stop, name)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def start(self, name: str) -> None:
        route = f"far.test:[127.0.0.1]:{self.peer.port}"
        self.services[name] = Running(name, SOCKETS[name], self.top, idleexit="0", smtproutes=route)

    def stop(self, name: str) -> None:
        with self.services[name]:
            pass

    def pid(self, name: str) -> int:
        return self.services[name].process.pid

    def submit(self, *recipients: bytes, size: int = 100, seconds: float = SECONDS) -> tuple[int, bytes]:
        """Send a message; return its number and the first reply that was no success, or the last one."""
        self._number += 1
        content = b"Subject: number %d\r\n\r\n" % self._number + b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * (size // 72)
        try:
            with Client(self.services["smtpd"].ports["smtp"]) as client:
                client._sock.settimeout(seconds)
                said = client.reply()
                if said[:1] == b"2":
                    said = client.ask(b"EHLO test")
                return self._number, client.message(content, b"<a@b.test>", *recipients) if said[:1] == b"2" else said
        except OSError as error:
            return self._number, type(error).__name__.encode()

    def ask(self, service: str, *words: str) -> str:
        client = self.services[service].client("control")
        client.send(frames.Command(7, [word.encode() for word in words]))
        answer, _ = client.receive()
        client.close()
        assert isinstance(answer, frames.Answer)
        return answer.text.decode()

    def arrived(self) -> tuple[set[int], set[int]]:
        """The numbers of the messages that joe has, and of those that the peer has."""
        folder = self.top / "home/joe/Maildir/new"
        ours = [path.read_bytes() for path in folder.iterdir()] if folder.exists() else []
        theirs = [seen.content for seen in list(self.peer.messages.queue)]
        return _numbers(ours), _numbers(theirs)

    def until_arrived(self, wanted: set[int]) -> None:
        """Wait until joe and the peer have all of these."""
        deadline = time.monotonic() + SECONDS
        while not all(wanted <= each for each in self.arrived()):
            missing = [wanted - each for each in self.arrived()]
            assert time.monotonic() < deadline, f"missing: {missing}; {self.ask('queue', 'status')}"
            self.ask("queue", "retry", "all")
            time.sleep(0.2)

    def is_alive(self, name: str) -> bool:
        return self.services[name].process.poll() is None

    def descriptors(self, name: str) -> set[int]:
        return {int(number) for number in os.listdir(f"/proc/{self.pid(name)}/fd")}


def _numbers(messages: list[bytes]) -> set[int]:
    return {int(found[1]) for each in messages if (found := re.search(rb"^Subject: number (\d+)", each, re.M))}
