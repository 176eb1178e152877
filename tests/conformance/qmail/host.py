"""A whole host for the facts: accounts joe, games and the alias user, whose .qmail files tell what a delivery is told.

keeper has a Maildir, for facts about what becomes of a message itself.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from qmaild.protocol import frames
from tests.unit.peers import Client
from tests.unit.processes import ROOT, SECONDS, Running
from tests.unit.smtp_peer import Peer, Seen
from tests.unit.whole_house import SOCKETS, WholeHouse

USERS = ("joe", "games")
SERVICES = ("spawn", "program", "local", "dial", "remote", "send", "queue", "smtpd", "inject")
TELL = '|f={seen}/$$; printf "%s\\n" "$USER" "$EXT" "$RECIPIENT" >$f.new && mv $f.new $f\n'
SENDER = b"sender@far.test"
PATIENCE = 60.0  # for one delivery: a mailbox that is locked is waited for half of that
KEEPER = b"keeper@test.example"
_KEPT = re.compile(rb"Return-Path: <(.*)>\nDelivered-To: (.*)\n(Received: .*\n(?:[ \t].*\n)*)((?s:.*))")


class Whose(NamedTuple):
    """Who got a message: a user, with the extension and the whole address; or no user, and the address at another host."""

    user: str
    extension: str
    address: str


class Delivery(NamedTuple):
    """What came of one delivery: K, Z or D, the enhanced status code, what the deliverer said."""

    outcome: bytes
    enhanced: bytes
    text: bytes


class Kept(NamedTuple):
    """A message in keeper's Maildir: reverse-path, Delivered-To, the Received field of our door, and what came in through it."""

    sender: bytes
    recipient: bytes
    received: bytes
    content: bytes


class Host:
    """test.example. Whatever is not its own goes to a peer that takes everything. QMAILD_STANDALONE must name `top`."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.users = top / "assigned"
        self.seen = top / "seen"
        self.settings: dict[str, str] = {}
        self._stack = contextlib.ExitStack()
        self._services: dict[str, Running] = {}
        self._numbers = itertools.count(1)
        for folder in (self.users, self.seen):
            folder.mkdir()
        for home in (top / "alias", *(top / "home" / user for user in USERS)):
            home.mkdir(parents=True, mode=0o700)
            for name in (".qmail", ".qmail-default"):
                (home / name).write_text(TELL.format(seen=self.seen))
        for folder in ("cur", "new", "tmp"):
            (top / "home/keeper/Maildir" / folder).mkdir(parents=True, mode=0o700)
        (top / "home/keeper").chmod(0o700)
        (top / "home/keeper/.qmail").write_text("./Maildir/\n")
        (top / "users").write_text("".join(f"{user}\n" for user in (*USERS, "keeper")))

    def __enter__(self) -> Host:
        self.peer = self._stack.enter_context(Peer())
        self.settings = {
            "me": "test.example", "locals": "test.example", "idleexit": "0", "relayclients": "",
            "smtproutes": f":[127.0.0.1]:{self.peer.port}",
        }  # fmt: skip
        for name in SERVICES:
            self._services[name] = self._stack.enter_context(Running(name, SOCKETS[name], self.top, **self.settings))
        (self.top / "control").symlink_to(self._services["smtpd"].control)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def control(self) -> Path:
        """The control directory of the door, where programs look too."""
        return self._services["smtpd"].control

    @property
    def ports(self) -> dict[str, int]:
        """Where the door listens."""
        return self._services["smtpd"].ports

    def write(self, **settings: str) -> None:
        """Write these control files, for every service."""
        self.settings |= settings
        for service in self._services.values():
            for name, content in settings.items():
                (service.control / name).write_text(content)

    def remove(self, *names: str) -> None:
        """Remove these control files, for every service."""
        for service in self._services.values():
            for name in names:
                self.settings.pop(name, None)
                (service.control / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def using(self, **settings: str) -> Iterator[None]:
        """Have these control files count, and those of before again afterwards."""
        before = {name: self.settings.get(name) for name in settings}
        self.write(**settings)
        self.reload()
        try:
            yield
        finally:
            self.remove(*settings)
            self.write(**{name: content for name, content in before.items() if content is not None})
            self.reload()

    def reload(self) -> None:
        """Have every service read its files again."""
        for service in self._services.values():
            client = service.client("control")
            client.send(frames.Command(1, [b"reload"]))
            answer, _ = client.receive()
            client.close()
            assert isinstance(answer, frames.Answer) and answer.code == 0, answer

    def program(self, name: str, *words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a program of qmail's by its name."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "QMAILD_CONTROL": str(self.control)}
        return subprocess.run([sys.executable, "-m", "qmaild", name, *words], input=given, capture_output=True,
                              env=environment, timeout=SECONDS)  # fmt: skip

    def assign(self, lines: str) -> subprocess.CompletedProcess[bytes]:
        """Write users/assign, in which UID and HOME stand for what all accounts here have, and run qmail-newu."""
        text = lines.replace("UID", f"{os.geteuid()}:{os.getegid()}").replace("HOME", f"{self.top}/home")
        (self.users / "assign").write_text(text)
        return self.program("qmail-newu")

    def smtp(self) -> Client:
        """A session of a stranger that has said EHLO."""
        client = Client(self._services["smtpd"].ports["smtp"])
        client.reply()
        client.ask(b"EHLO client.test")
        return client

    def queue(self, *recipients: bytes, sender: bytes = SENDER) -> None:
        """Put a message in the queue as qmail-queue does, for these addresses as they are."""
        client = self.top / "qmail-queue"
        if not client.exists():
            shutil.copy(ROOT / "build/client", client)
        envelope = b"F" + sender + b"\0" + b"".join([b"T" + each + b"\0" for each in recipients]) + b"\0"
        reading, writing = os.pipe()
        os.write(writing, envelope)
        os.close(writing)
        content = b"Subject: number %d\n\nhi\n" % next(self._numbers)
        done = subprocess.run([client], input=content, stdout=reading, timeout=SECONDS,
                              env={**os.environ, "QMAILD_RUN": str(self.top / "run")})  # fmt: skip
        os.close(reading)
        assert done.returncode == 0

    def whose(self, address: bytes) -> Whose:
        """Send a message to this address and return who got it."""
        self.queue(address)
        return self.arrival()

    def home(self, user: str) -> Path:
        """Return the home of this account, new and empty; the account is made if there was none."""
        home = self.top / "home" / user
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(mode=0o700)
        names = (self.top / "users").read_text()
        if f"{user}\n" not in names:
            (self.top / "users").write_text(f"{names}{user}\n")
        return home

    def deliver(self, recipient: bytes, content: bytes = b"Subject: x\n\nhi\n", sender: bytes = SENDER) -> Delivery:
        """Have local deliver a message as send would, and return what it reports."""
        client = self._services["local"].client("local")
        client._sock.settimeout(PATIENCE)
        client.send(frames.Order(next(self._numbers), 0, 1_700_000_000_000_000, 0, b"local", sender, [0], [recipient],
                                 len(content), content, 0))  # fmt: skip
        report, _ = client.receive()
        client.close()
        assert isinstance(report, frames.Report)
        return Delivery(report.outcomes, report.enhanced[0], report.texts[0])

    def forwarded(self) -> Seen:
        """Wait for the next message that the peer takes."""
        return self.peer.messages.get(timeout=SECONDS)

    def arrival(self) -> Whose:
        """Wait for the next message that arrives anywhere."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            for path in self.seen.iterdir():
                if not path.name.endswith(".new"):
                    told = path.read_text().split("\n")
                    path.unlink()
                    return Whose(*told[:3])
            with contextlib.suppress(queue.Empty):
                taken = self.peer.messages.get(timeout=0.02)
                return Whose("", "", taken.recipients[0])
        raise AssertionError("the message arrived nowhere")

    def kept(self) -> Kept:
        """Wait for the next message in keeper's Maildir, and take it out."""
        folder = self.top / "home/keeper/Maildir/new"
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            for path in folder.iterdir() if folder.exists() else ():
                found = _KEPT.fullmatch(path.read_bytes())
                path.unlink()
                assert found
                return Kept(*found.groups())
            time.sleep(0.02)
        raise AssertionError("keeper got no message")

    def ask(self, service: str, *words: bytes) -> str:
        """Give a service a control command and return what it answers."""
        client = self._services[service].client("control")
        client.send(frames.Command(2, list(words)))
        answer, _ = client.receive()
        client.close()
        assert isinstance(answer, frames.Answer)
        return answer.text.decode()


@pytest.fixture(scope="package")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    top = tmp_path_factory.mktemp("q")  # short: names of sockets end at 107 bytes
    with pytest.MonkeyPatch.context() as patch:
        for name, value in WholeHouse.environment(top).items():
            patch.setenv(name, value)
        with Host(top) as made:
            yield made
