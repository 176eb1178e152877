"""A sender: many sessions at once, an id for every submission, a line for whatever came of it. Knows the doors only.

    python3 -I load_client.py <plan.json >outcomes

Uses the standard library alone, so that it runs as a file: in a namespace of the host (SMTP, QMQP) as well as
inside a machine (sendmail). load.py has the plan's fields, starts this program and reads its lines:

    TIME accepted ID RECIPIENTS          the promise was given: from here on it must arrive
    TIME temporary|permanent ID REPLY    it was refused; another submission of the message follows a temporary one
    TIME cut ID STATE:HOW                the session ended before an answer; whether it was taken nobody knows
    TIME greeting SECONDS                the longest time so far from connecting to the greeting
    TIME session END STATE               how a session ended, and after which command: quit, 421, refused, reset,
                                         closed (no reply, no reset), timeout, left (by us, after a partial refusal)

A message that was not accepted is submitted again under an id of its own (NAME-NUMBER.ATTEMPT), so that a copy that
arrives tells which submission it comes from. TERM ends the sender: no new message, what is under way may end.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

CLIENT_DOMAIN = "client.test"
TIMEOUT_SECONDS = 60.0
PAUSE_SECONDS = 0.3  # before the same session tries again after a failure
TRICKLES = 20  # pieces of a message that is sent slowly
VARIETIES = 3  # different contents of each size


def contents(size: int, variety: int) -> bytes:
    """About `size` bytes of lines that need care: a dot first, dots alone, "From " and eight-bit bytes."""
    rng = random.Random(f"{size} {variety}")
    lines = [b".", b"..", b".begins with a dot", b"From the first line on", "Gr\u00fc\u00dfe".encode()]
    while sum(map(len, lines)) + len(lines) < size and len(lines) < 60:
        lines.append(bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz 0123456789", k=70)))
    block = b"\n".join(lines) + b"\n"
    return block * max(1, round(size / len(block)))


class Refused(Exception):
    """A reply other than the wanted one; the session goes on."""


class Ended(Exception):
    """The session is over: args are how and in which state."""


class Sender:
    """What all sessions of a run share."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.lock = threading.Lock()
        self.again: collections.deque[tuple[int, int]] = collections.deque()
        self.next = plan.get("first", 0)
        self.end = self.next + plan["messages"]
        self.unsettled = 0
        self.longest = 0.0  # seconds from connecting to a greeting
        self.is_ending = False
        self.give_up = time.monotonic() + plan["seconds"]
        self.bodies: dict[tuple[int, int, bool], tuple[bytes, bytes]] = {}
        for _, _, size in plan["kinds"]:
            for variety in range(VARIETIES):
                text = contents(size, variety)
                digest = hashlib.sha256(text).hexdigest().encode()
                wire = text.replace(b"\n.", b"\n..").replace(b"\n", b"\r\n")
                wire = b"." + wire if text.startswith(b".") else wire
                self.bodies[size, variety, False] = text, digest
                self.bodies[size, variety, True] = wire, digest

    def take(self) -> tuple[int, int] | None:
        """The next message (number, attempt). None when there is none, or all is said."""
        with self.lock:
            if self.is_ending or time.monotonic() > self.give_up:
                return None
            if self.again:
                self.unsettled += 1
                return self.again.popleft()
            if self.next < self.end:
                self.unsettled += 1
                self.next += 1
                return self.next - 1, 1
        return None

    @property
    def is_done(self) -> bool:
        with self.lock:
            return self.is_ending or time.monotonic() > self.give_up or (
                self.next >= self.end and not self.again and not self.unsettled)

    def settled(self, number: int, attempt: int, is_final: bool) -> None:
        with self.lock:
            self.unsettled -= 1
            if not is_final:
                self.again.append((number, attempt + 1))

    def say(self, what: str, *words: str) -> None:
        line = "\t".join((f"{time.time():.4f}", what, *words))
        with self.lock:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def greeted(self, seconds: float) -> None:
        """A greeting came after so long: those that were longest are said."""
        if seconds > self.longest:
            self.longest = seconds
            self.say("greeting", f"{seconds:.3f}")

    def message(self, number: int, attempt: int, is_wire: bool) -> tuple[str, list[str], bytes]:
        """The id, the recipients and the whole message, as lines of CRLF and dots doubled if it goes by SMTP."""
        plan = self.plan
        rng = random.Random(f"{plan['seed']} {plan['name']} {number}")
        _, recipients, size = rng.choices(plan["kinds"], [kind[0] for kind in plan["kinds"]])[0]
        own = f"{plan['name']}-{number}.{attempt}"
        body, digest = self.bodies[size, number % VARIETIES, is_wire]
        header = (f"From: load@{CLIENT_DOMAIN}\nTo: {', '.join(recipients)}\nSubject: load {number}\nLoad-Id: {own}\n"
                  f"Load-Digest: {digest.decode()}\n\n").encode()  # fmt: skip
        return own, recipients, (header.replace(b"\n", b"\r\n") if is_wire else header) + body


def reverse_path(own: str) -> str:
    return f"load-{own}@{CLIENT_DOMAIN}"


class Smtp:
    """One SMTP session. `state` is the last command sent."""

    def __init__(self, host: str, rng: random.Random) -> None:
        self.is_pipelined = rng.random() < 0.5
        self.state = "connect"
        begun = time.monotonic()
        try:
            self.sock = socket.create_connection((host, 25), TIMEOUT_SECONDS)
        except OSError as error:
            raise Ended(_named(error), self.state) from None
        self.file = self.sock.makefile("rb")
        try:
            self.expect("greeting", "220")
            self.waited = time.monotonic() - begun
            self.say("ehlo", f"EHLO {CLIENT_DOMAIN}", "250")
        except (Refused, Ended) as error:
            self.close()
            raise error if isinstance(error, Ended) else Ended(str(error)[:3], self.state) from None

    def send(self, state: str, data: bytes) -> None:
        """A failure to send is seen by reading: what the other side said before it closed is still there."""
        self.state = state
        try:
            self.sock.sendall(data)
        except TimeoutError:
            raise Ended("timeout", state) from None
        except OSError:
            pass

    def reply(self, state: str) -> str:
        self.state = state
        while True:
            try:
                line = self.file.readline(4096).decode("ascii", "replace")
            except OSError as error:
                raise Ended(_named(error), state) from None
            if not line.endswith("\n"):
                raise Ended("closed", state)
            if line[3:4] != "-":
                break
        if line.startswith("421"):
            raise Ended("421", state)
        return line.strip()

    def expect(self, state: str, wanted: str) -> None:
        line = self.reply(state)
        if not line.startswith(wanted):
            raise Refused(line)

    def say(self, state: str, command: str, wanted: str) -> None:
        self.send(state, command.encode() + b"\r\n")
        self.expect(state, wanted)

    def submit(self, own: str, recipients: list[str], message: bytes, seconds: float = 0) -> None:
        """`seconds`: how long the contents take, in pieces."""
        commands = [("mail", f"MAIL FROM:<{reverse_path(own)}> BODY=8BITMIME", "250")]
        commands += [("rcpt", f"RCPT TO:<{each}>", "250") for each in recipients]
        commands.append(("data", "DATA", "354"))
        if self.is_pipelined:
            self._pipelined(commands)
        else:
            try:
                for state, command, wanted in commands:
                    self.say(state, command, wanted)
            except Refused:
                self.say("rset", "RSET", "250")
                raise
        if seconds:
            self._trickle(message, seconds)
        self.send("body", b".\r\n" if seconds else message + b".\r\n")
        self.expect("body", "250")

    def _trickle(self, message: bytes, seconds: float) -> None:
        step = len(message) // TRICKLES + 1
        for begin in range(0, len(message), step):
            self.send("body", message[begin : begin + step])
            if select.select([self.sock], [], [], seconds / TRICKLES)[0]:
                return  # it says something before the end: the reply, or what took its place, is read next

    def _pipelined(self, commands: list[tuple[str, str, str]]) -> None:
        self.send("mail", b"".join([command.encode() + b"\r\n" for _, command, _ in commands]))
        refusal = ""
        for state, _, wanted in commands:
            line = self.reply(state)
            if not line.startswith(wanted):
                refusal = refusal or line
            elif state == "data" and refusal:
                raise Ended("left", state)  # it waits for contents that not all recipients would get
        if refusal:
            self.say("rset", "RSET", "250")
            raise Refused(refusal)

    def quit(self) -> None:
        self.say("quit", "QUIT", "221")
        self.close()

    def close(self) -> None:
        if self.state != "connect":
            self.file.close()
            self.sock.close()


def submit_qmqp(host: str, own: str, recipients: list[str], message: bytes) -> None:
    """One package on one connection; Ended with the state if no answer comes."""
    parts = [message, reverse_path(own).encode(), *(each.encode() for each in recipients)]
    package = _netstring(b"".join(map(_netstring, parts)))
    state = "connect"
    try:
        with socket.create_connection((host, 628), TIMEOUT_SECONDS) as sock:
            state = "package"
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # an answer may have come all the same
                sock.sendall(package)
            answer = b""
            while not answer.endswith(b","):
                data = sock.recv(4096)
                if not data:
                    raise Ended("closed", state)
                answer += data
    except OSError as error:
        raise Ended(_named(error), state) from None
    said = answer.partition(b":")[2].decode("ascii", "replace")
    if said[:1] != "K":
        raise Refused({"Z": "4", "D": "5"}.get(said[:1], "?") + said)


def submit_sendmail(own: str, recipients: list[str], message: bytes) -> None:
    done = subprocess.run(["/usr/sbin/sendmail", "-f", reverse_path(own), *recipients], input=message,
                          capture_output=True)  # fmt: skip
    if done.returncode:
        code = "4" if done.returncode == 75 else "5"
        raise Refused(f"{code} exit {done.returncode}: {done.stderr.decode(errors='replace').strip()}")


def _netstring(content: bytes) -> bytes:
    return b"%d:%b," % (len(content), content)


def _named(error: OSError) -> str:
    names = {ConnectionRefusedError: "refused", ConnectionResetError: "reset", BrokenPipeError: "reset",
             TimeoutError: "timeout"}  # fmt: skip
    return next((name for kind, name in names.items() if isinstance(error, kind)), type(error).__name__)


class Session(threading.Thread):
    """One sender's thread: connections one after the other, each with some messages."""

    def __init__(self, sender: Sender, number: int) -> None:
        super().__init__(daemon=True)
        self.sender = sender
        self.plan = sender.plan
        self.rng = random.Random(f"{self.plan['seed']} {self.plan['name']} session {number}")
        self.smtp: Smtp | None = None
        self.left = 0  # messages until QUIT

    def run(self) -> None:
        while not self.sender.is_done:
            taken = self.sender.take()
            if taken is None:
                time.sleep(0.05)  # others may still fail and hand theirs back
                continue
            self.one(*taken)
            if self.plan["pause"]:
                time.sleep(self.rng.uniform(0, 2 * self.plan["pause"]))
        if self.smtp:
            self.end_session()

    def one(self, number: int, attempt: int) -> None:
        """Submit one message and say what came of it."""
        sender = self.sender
        own, recipients, message = sender.message(number, attempt, self.plan["door"] == "smtp")
        is_final = False
        try:
            self.submit(own, recipients, message)
            is_final = True
            sender.say("accepted", own, ",".join(recipients))
        except Refused as refusal:
            is_final = str(refusal).startswith("5")
            sender.say("permanent" if is_final else "temporary", own, str(refusal))
        except Ended as end:
            how, state = end.args
            if self.smtp:
                self.smtp.close()
                self.smtp = None
            sender.say("session", how, state)
            sender.say("cut", own, f"{state}:{how}")
        sender.settled(number, attempt, is_final)
        if not is_final:
            time.sleep(PAUSE_SECONDS)
        if self.smtp and self.left <= 0:
            self.end_session()

    def submit(self, own: str, recipients: list[str], message: bytes) -> None:
        sender, door = self.sender, self.plan["door"]
        if door == "sendmail":
            submit_sendmail(own, recipients, message)
        elif door == "qmqp":
            submit_qmqp(self.plan["host"], own, recipients, message)
            sender.say("session", "quit", "package")
        else:
            if not self.smtp:
                self.smtp = Smtp(self.plan["host"], self.rng)
                sender.greeted(self.smtp.waited)
                self.left = self.rng.randint(1, self.plan["most"])
            self.left -= 1
            self.smtp.submit(own, recipients, message, self.plan["trickle"])

    def end_session(self) -> None:
        assert self.smtp
        try:
            self.smtp.quit()
            self.sender.say("session", "quit", "quit")
        except Refused as refusal:
            self.sender.say("session", "refused-quit", str(refusal))
        except Ended as end:
            self.sender.say("session", *end.args)
            self.smtp.close()
        self.smtp = None


def main() -> None:
    sender = Sender(json.load(sys.stdin))

    def stop(number: int, frame: object) -> None:
        sender.is_ending = True

    signal.signal(signal.SIGTERM, stop)
    sessions = [Session(sender, number) for number in range(sender.plan["sessions"])]
    for session in sessions:
        session.start()
    for session in sessions:
        session.join()


if __name__ == "__main__":
    main()
