"""Counted load: who sends what through which door, what was promised, and what has arrived.

    with Sink(network.plug("sink")) as sink:
        load = Load.outside(network.plug("client"), Plan("out", 2000, [Kind(1, ["joe@one.test"])], host=one.place.ipv4))
        outcomes = load.wait()
        found = compare([outcomes], copies_in(one) + sink.copies())
        assert not found.lost and not found.doubled

Every submission has an id of its own, so each copy tells which one it is of: a message that a client sends again
because it heard no answer is no duplicate of ours, two copies of one submission are. The senders run outside of the
machines (but for sendmail's), so what they were told survives whatever happens to those.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from .machines import Machine, end
from .network import Place, wait_until
from .roots import run_folder
from .sink import facts

HERE = Path(__file__).parent
CLIENT, SINK = HERE / "load_client.py", HERE / "sink.py"
CLIENT_DOMAIN = "client.test"  # of the reverse-paths: bounces go there
SMALL = 4096


class Kind(NamedTuple):
    """A share of the messages: its weight, whom they are for, and their size."""

    weight: float
    recipients: list[str]
    size: int = SMALL


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What one sender does. `door` is smtp, qmqp or sendmail; `most` is of messages in a session, `pause` the mean
    seconds between two of them, `trickle` the seconds that an SMTP message's contents take. After `seconds` it
    tries nothing more."""

    name: str
    messages: int
    kinds: Sequence[Kind]
    door: str = "smtp"
    host: str = "127.0.0.1"
    sessions: int = 20
    most: int = 20
    pause: float = 0.0
    trickle: float = 0.0
    seconds: float = 600.0
    seed: int = 1
    first: int = 0


class Copy(NamedTuple):
    """One message where it was delivered to. is_whole: its content is what was sent."""

    own: str
    recipient: str
    time: float
    is_whole: bool


class Cut(NamedTuple):
    """A session that ended otherwise than by our QUIT: when, how, after which command."""

    time: float
    how: str
    state: str


class Outcomes:
    """What a sender's lines say."""

    def __init__(self, text: str) -> None:
        self.accepted: dict[str, list[str]] = {}  # id: recipients
        self.when: dict[str, float] = {}
        self.refusals: Counter[str] = Counter()
        self.permanent: list[str] = []
        self.cut: dict[str, str] = {}  # id: state:how
        self.sessions: Counter[str] = Counter()
        self.ends: list[Cut] = []
        self.longest_greeting = 0.0  # seconds from connecting
        for line in text.splitlines():
            time, what, first, *rest = line.split("\t")
            if what == "accepted":
                self.accepted[first] = rest[0].split(",")
                self.when[first] = float(time)
            elif what == "session":
                self.sessions[f"{first} {rest[0]}"] += 1
                if first != "quit":
                    self.ends.append(Cut(float(time), first, rest[0]))
            elif what == "greeting":
                self.longest_greeting = float(first)
            elif what == "cut":
                self.cut[first] = rest[0]
            else:
                self.refusals[rest[0]] += 1
                if what == "permanent":
                    self.permanent.append(f"{first}: {rest[0]}")

    @property
    def messages(self) -> set[str]:
        """The messages that were accepted, whichever submission it was."""
        return {own.rpartition(".")[0] for own in self.accepted}


class Load:
    """A sender that runs. Its lines are in a file: nothing it was told is lost with it."""

    def __init__(self, process: subprocess.Popen[Any], plan: Plan, path: Path, is_inside: bool) -> None:
        self.plan = plan
        self._process = process
        self._path = path
        self._is_inside = is_inside
        self._looked_to = self._accepted = 0
        assert process.stdin is not None
        process.stdin.write(json.dumps(dataclasses.asdict(plan)).encode())
        process.stdin.close()

    @classmethod
    def outside(cls, place: Place, plan: Plan) -> Self:
        """Send from another host of the network."""
        path = run_folder() / f"load.{plan.name}"
        with path.open("wb") as out:
            argv = [sys.executable, "-I", str(CLIENT)]
            process = place.namespace.popen(argv, stdin=subprocess.PIPE, stdout=out)
        return cls(process, plan, path, False)

    @classmethod
    def inside(cls, machine: Machine, plan: Plan) -> Self:
        """Send from within a machine; a crash of it ends the sender."""
        machine.write("/root/load_client.py", CLIENT.read_text())
        path = run_folder() / f"load.{plan.name}"
        with path.open("wb") as out:
            argv = ["python3", "-I", "/root/load_client.py"]
            process = machine.popen(argv, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.DEVNULL)
        return cls(process, plan, path, True)

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def outcomes(self) -> Outcomes:
        """What is known so far."""
        text = self._path.read_text()
        return Outcomes(text[: text.rfind("\n") + 1])

    def accepted(self) -> int:
        """How many submissions have been accepted so far. Cheap: each line is looked at once."""
        with self._path.open("rb") as file:
            file.seek(self._looked_to)
            new = file.read()
        new = new[: new.rfind(b"\n") + 1]
        self._looked_to += len(new)
        self._accepted += new.count(b"\taccepted\t")
        return self._accepted

    def wait(self, timeout: float = 600) -> Outcomes:
        """Let it send everything."""
        self._process.wait(timeout)
        return self.outcomes()

    def stop(self) -> Outcomes:
        """Let each session end what is under way, and no more."""
        if self.is_running:
            if self._is_inside:
                end(self._process)
            else:
                self._process.terminate()
                self._process.wait(120)
        return self.outcomes()


class Sink:
    """Somebody else's mail server: port 25 of a place on the network."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._path = run_folder() / f"sink.{place.name}"
        with self._path.open("wb") as out:
            argv = [sys.executable, "-I", str(SINK), place.ipv4]
            self._process = place.namespace.popen(argv, stdin=subprocess.DEVNULL, stdout=out)
        listening = ["ss", "-Hltn", "sport", "=", ":25"]
        wait_until(lambda: subprocess.run(place.namespace.argv(listening), capture_output=True).stdout, 20, "the sink")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()

    def _lines(self) -> list[list[str]]:
        text = self._path.read_text()
        return [line.split("\t") for line in text[: text.rfind("\n") + 1].splitlines()]

    def copies(self) -> list[Copy]:
        """The load's messages that were taken."""
        return [Copy(own, recipient, float(time), state == "whole")
                for time, own, recipient, state, sender in self._lines() if sender]  # fmt: skip

    def bounces(self) -> list[str]:
        """The ids of the submissions that bounces were about, once for each bounce."""
        return [recipient.removeprefix("load-").removesuffix("@" + CLIENT_DOMAIN)
                for _, _, recipient, _, sender in self._lines() if not sender]  # fmt: skip


def copies_in(machine: Machine) -> list[Copy]:
    """The load's messages in the Maildirs and the `copies` folders of a machine's users, read from outside."""
    found = []
    for home in (machine.root.path / "home").iterdir():
        recipient = f"{home.name}@{machine.name}.{machine.network.domain}"
        for folder in (home / "Maildir/new", home / "Maildir/cur", home / "copies"):
            for file in folder.iterdir() if folder.is_dir() else ():
                header, _, body = file.read_bytes().partition(b"\n\n")
                own, is_whole = facts(header, body)
                if own != "-":
                    found.append(Copy(own, recipient, file.stat().st_mtime, is_whole))
    return found


class Comparison(NamedTuple):
    """lost, doubled and damaged name deliveries, as `id recipient`; doubled has each further copy."""

    sent: int
    accepted: int
    deliveries: int
    delivered: int
    unacknowledged: int
    lost: list[str]
    doubled: list[Copy]
    damaged: list[str]


def compare(outcomes: Iterable[Outcomes], copies: Sequence[Copy]) -> Comparison:
    """Hold what was promised against what has arrived. `unacknowledged` arrived without a promise: its answer was cut."""
    promised: dict[tuple[str, str], float] = {}
    submissions = 0
    for each in outcomes:
        promised |= {(own, to): each.when[own] for own, recipients in each.accepted.items() for to in recipients}
        submissions += len(each.accepted) + len(each.cut) + sum(each.refusals.values())
    arrived: dict[tuple[str, str], list[Copy]] = {}
    for copy in sorted(copies, key=lambda copy: copy.time):
        arrived.setdefault((copy.own, copy.recipient), []).append(copy)
    return Comparison(
        submissions,
        len({own for own, _ in promised}),
        len(promised),
        len(promised.keys() & arrived.keys()),
        len(arrived.keys() - promised.keys()),
        sorted(" ".join(key) for key in promised.keys() - arrived.keys()),
        [copy for several in arrived.values() for copy in several[1:]],
        sorted(f"{copy.own} {copy.recipient}" for copy in copies if not copy.is_whole),
    )
