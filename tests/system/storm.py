"""The kill storm: mail through every door to everywhere, while services are killed and the machine is hard-stopped.

    /usr/bin/python3 -m tests.system.storm --messages 100000 --seed 1        (make storm MESSAGES=100000 SEED=1)

Promise: every acknowledged message arrives, whole, and no bounce is made. A delivery may happen twice only if it was in
flight when something on its way was killed: begun, and its completion not yet durable in the queue. How many those are
is counted right before each kill, from the services' own status:

- a kill of local, spawn or program doubles no more than the orders that local has then; one of remote, those that
  remote has; one of send, queue or the whole machine, the orders that send has, and besides them what was delivered in
  the SETTLE_SECONDS before: its report may still have been on its way to the queue's disk;
- a kill of smtpd, qmqpd, inject or dial doubles nothing: a client that heard no answer sends again under another id.

The duplicates must stay within the sum of these, and more: each is charged to a kill that it can have met, and no kill
is charged with more than were in flight then.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import sys
import time
from bisect import bisect
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from qmaild.runtime.running import SERVICES

from . import inside
from .hosts import Host, host
from .load import CLIENT_DOMAIN, Comparison, Copy, Kind, Load, Outcomes, Plan, Sink, compare, copies_in
from .machines import Network, prepare, unavailable

KEPT = Path(__file__).resolve().parents[2] / "build/storm"  # what a storm that failed leaves behind
SETTLE_SECONDS = 0.25
MEETING_SECONDS = 60.0  # local keeps an order so long for a user's deliverer that has no room
RETRY_SECONDS = 5.0  # waiting messages are made due at such intervals, so that second attempts meet kills too
DRAIN_SECONDS = 600.0
KEEP = "|cat >.new-$$ && mv .new-$$ copies/$$-$(date +%s%N)\n"  # ann's program
MEBIBYTE = 1 << 20

MAILBOX, PROGRAM, REMOTE = "mailbox", "program", "remote"  # ways of a delivery
WAYS = {  # which ways a kill may double a delivery on, and who knows how many are in flight
    "local": ((MAILBOX, PROGRAM), "local"), "spawn": ((MAILBOX,), "local"), "program": ((PROGRAM,), "local"),
    "remote": ((REMOTE,), "remote"), "send": ((MAILBOX, PROGRAM, REMOTE), "send"),
    "queue": ((MAILBOX, PROGRAM, REMOTE), "send"), "machine": ((MAILBOX, PROGRAM, REMOTE), "send"),
}  # fmt: skip
UNSETTLED = ("send", "queue", "machine")


@dataclass(frozen=True, slots=True)
class Storm:
    """What to do: messages in all, seconds between two kills (least, most), hard stops, and the chance's seed."""

    messages: int
    seed: int
    stops: int
    pause: tuple[float, float] = (1.0, 2.0)
    kills: int = 0  # at least so many: the storm goes on with an idle house until they are done
    sessions: int = 20


class Kill(NamedTuple):
    """victim: a service, or `machine`. orders: in flight right before, in what a kill of the victim can double."""

    time: float
    victim: str
    orders: int


@dataclass(slots=True)
class Result:
    """What came of a storm, in numbers and, where something is wrong, in names."""

    storm: Storm
    found: Comparison
    bounces: list[str]
    permanent: list[str]
    kills: list[Kill]
    bound: int
    uncharged: list[Copy]
    seconds: float
    accepted: set[str]

    @property
    def problems(self) -> list[str]:
        """What the promise does not allow; empty if it was kept."""
        found = self.found
        wrong = {
            "lost": found.lost, "damaged": found.damaged, "bounced": self.bounces, "refused for good": self.permanent,
            "doubled without a kill": [f"{copy.own} {copy.recipient} {copy.time:.3f}" for copy in self.uncharged],
        }  # fmt: skip
        said = [f"{len(names)} {what}: {', '.join(names[:10])}" for what, names in wrong.items() if names]
        if len(found.doubled) > self.bound:
            said.append(f"{len(found.doubled)} duplicates, {self.bound} deliveries were in flight")
        if len(self.accepted) < self.storm.messages:
            said.append(f"only {len(self.accepted)} of {self.storm.messages} messages were accepted")
        return said

    def lines(self) -> list[str]:
        """The report: a name and a value each."""
        found, kills = self.found, Counter(kill.victim for kill in self.kills)
        facts = {
            "messages": self.storm.messages, "seed": self.storm.seed, "submissions": found.sent,
            "acknowledged": found.accepted, "deliveries": found.deliveries, "delivered": found.delivered,
            "lost": len(found.lost), "damaged": len(found.damaged), "duplicates": len(found.doubled), "bound": self.bound,
            "duplicates-without-a-kill": len(self.uncharged), "unacknowledged-but-delivered": found.unacknowledged,
            "bounces": len(self.bounces), "bounces-doubled": len(self.bounces) - len(set(self.bounces)),
            "kills": sum(kills[service] for service in SERVICES), "hard-stops": kills["machine"],
            "seconds": round(self.seconds),
        }  # fmt: skip
        return [f"storm {name} {value}" for name, value in facts.items()] + [
            f"storm kills-of-{service} {kills[service]}" for service in SERVICES]


class House:
    """The machine under the storm, the senders outside of it, and the rest of the world."""

    def __init__(self, network: Network, one: Host, sink: Sink, storm: Storm) -> None:
        self.one = one
        self.sink = sink
        self.storm = storm
        self.client = network.plug("client")
        self.loads: list[Load] = []
        self.kills: list[Kill] = []
        self._rng = random.Random(storm.seed)
        network.dns({
            "strange.test": {"MX": ["10 sink.test."]}, CLIENT_DOMAIN: {"MX": ["10 sink.test."]},
            "sink.test": {"A": [sink.place.ipv4]}, "one.test": {"A": [one.place.ipv4]},
        })  # fmt: skip
        one.control(relayclients="127.0.0.1\n10.77.0.0/24\n", qmqpclients="10.77.0.0/24\n", idleexit="0\n")
        one.write("/home/ann/.qmail", KEEP, owner="ann", mode=0o600)
        one.run("install -d -o ann -g ann /home/ann/copies")
        one.run("qmailctl reload; qmailctl listen public; systemctl enable --now qmaild-qmqpd.socket")

    def _plan(self, name: str, door: str, messages: int, sessions: int) -> Plan:
        large = 1 if door == "smtp" else 0.2
        kinds = [
            Kind(38, ["joe@one.test"]), Kind(18, ["sue@one.test"]), Kind(32, ["x@strange.test"]),
            Kind(5, ["joe@one.test", "y@strange.test"]), Kind(5, ["ann@one.test"]),
            Kind(large / 2, ["sue@one.test"], MEBIBYTE), Kind(large / 2, ["x@strange.test"], MEBIBYTE),
        ]  # fmt: skip
        return Plan(name, messages, kinds, door, self.one.place.ipv4, sessions, seed=self.storm.seed, seconds=3600)

    def start(self) -> None:
        """Nine tenths by SMTP; the other two doors have so few sessions that they too last for the whole storm."""
        total, sessions = self.storm.messages, self.storm.sessions
        self.inside_share = total // 20
        qmqp = total // 20
        smtp = total - qmqp - self.inside_share
        self.loads = [Load.outside(self.client, self._plan("smtp", "smtp", smtp, sessions)),
                      Load.outside(self.client, self._plan("qmqp", "qmqp", qmqp, max(1, sessions // 20)))]  # fmt: skip
        self._inside: list[Load] = []
        self.send_inside()

    def send_inside(self) -> None:
        """Start the sender inside, for what its predecessors were not told to be accepted: each stop ends one."""
        left = self.inside_share - sum(load.accepted() for load in self._inside)
        if left > 0:
            name = f"sendmail{len(self._inside)}"
            self._inside.append(Load.inside(self.one, self._plan(name, "sendmail", left, max(1, self.storm.sessions // 20))))

    @property
    def all_loads(self) -> list[Load]:
        return self.loads + self._inside

    def accepted(self) -> int:
        return sum(load.accepted() for load in self.all_loads)

    # --- the storm

    def rage(self) -> None:
        """Kill until everything is accepted, every stop and at least the wanted kills are done."""
        stops = [self.storm.messages * n // (self.storm.stops + 1) for n in range(1, self.storm.stops + 1)]
        retry_at = time.monotonic() + RETRY_SECONDS
        victims: list[str] = []
        while any(load.is_running for load in self.all_loads) or stops or len(self.kills) < self.storm.kills:
            time.sleep(self._rng.uniform(*self.storm.pause))
            if stops and self.accepted() >= stops[0]:
                del stops[0]
                self.strike("machine")
                self.one.boot()
                self.send_inside()
                continue
            if not victims:  # each service once, in an order of chance, then again
                victims = self._rng.sample(SERVICES, len(SERVICES))
            self.strike(victims.pop())
            if time.monotonic() > retry_at:
                retry_at = time.monotonic() + RETRY_SECONDS
                inside.ask(self.one, "queue", "retry", "all")

    def strike(self, victim: str) -> None:
        """Count what is in flight, and kill. A service that does not run at this moment is spared."""
        orders = 0
        if victim in WAYS:
            counted = None
            while counted is None:  # who counts may be starting
                counted = inside.count(self.one, WAYS[victim][1], r"(\d+) orders")
            orders = counted
        if victim == "machine":
            self.kills.append(Kill(time.time(), victim, orders))
            self.one.kill()
        elif inside.kill(self.one, victim):
            self.kills.append(Kill(time.time(), victim, orders))

    def drain(self) -> None:
        """Let everything arrive, making due what waits."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while inside.queued(self.one) != 0 and time.monotonic() < deadline:
            inside.ask(self.one, "queue", "retry", "all")
            time.sleep(1)


def bounds(kills: list[Kill], copies: list[Copy]) -> list[tuple[Kill, int]]:
    """The kills that can double something, and how many deliveries were in flight at each: see the top of this file."""
    times = sorted(copy.time for copy in copies)
    found = []
    for kill in kills:
        recent = bisect(times, kill.time) - bisect(times, kill.time - SETTLE_SECONDS) if kill.victim in UNSETTLED else 0
        if kill.victim in WAYS:
            found.append((kill, kill.orders + recent))
    return found


def way_of(recipient: str) -> str:
    if not recipient.endswith("@one.test"):
        return REMOTE
    return PROGRAM if recipient.startswith("ann@") else MAILBOX


def uncharged(kills: list[Kill], copies: list[Copy], doubled: list[Copy]) -> list[Copy]:
    """Further copies for which no kill has room: each is charged to one kill of its way, a kill takes its bound at most.

    The kill came before the further copy, and at most MEETING_SECONDS before the copy that was there already: an
    order that is out when the queue or send dies is still carried out.
    """
    made: dict[tuple[str, str], list[float]] = {}
    for copy in copies:
        made.setdefault((copy.own, copy.recipient), []).append(copy.time)
    before = {copy: max(each for each in made[copy.own, copy.recipient] if each < copy.time) for copy in doubled}
    left = sorted(doubled, key=lambda copy: copy.time)
    for kill, room in bounds(kills, copies):
        ways = WAYS[kill.victim][0]
        met = [copy for copy in left if way_of(copy.recipient) in ways
               and before[copy] - MEETING_SECONDS <= kill.time <= copy.time]  # fmt: skip
        charged = set(met[:room])
        left = [copy for copy in left if copy not in charged]
    return left


@contextlib.contextmanager
def house(release: str, storm: Storm) -> Iterator[House]:
    with Network("storm") as network, host("one", release, network) as one, Sink(network.plug("sink")) as sink:
        yield House(network, one, sink, storm)


def run(place: House) -> Result:
    """The whole of it. What is needed to understand a failure stays in KEPT."""
    begun = time.monotonic()
    place.start()
    place.rage()
    outcomes = [load.wait() for load in place.all_loads]
    place.drain()
    seconds = time.monotonic() - begun
    copies = copies_in(place.one) + place.sink.copies()
    found = compare(outcomes, copies)
    result = Result(
        place.storm, found, place.sink.bounces(), [each for one in outcomes for each in one.permanent], place.kills,
        sum(room for _, room in bounds(place.kills, copies)), uncharged(place.kills, copies, found.doubled), seconds,
        {message for one in outcomes for message in one.messages},
    )  # fmt: skip
    if result.problems:
        keep(place, result, outcomes, copies)
    return result


def keep(place: House, result: Result, outcomes: list[Outcomes], copies: list[Copy]) -> None:
    shutil.rmtree(KEPT, ignore_errors=True)
    KEPT.mkdir(parents=True)
    (KEPT / "report").write_text("\n".join([*result.lines(), *result.problems]) + "\n")
    (KEPT / "lost").write_text("\n".join(result.found.lost))
    (KEPT / "kills").write_text("\n".join(f"{kill.time:.4f} {kill.victim} {kill.orders}" for kill in result.kills))
    (KEPT / "doubled").write_text("\n".join(map(str, result.found.doubled)))
    (KEPT / "copies").write_text("\n".join(f"{copy.time:.4f} {copy.own} {copy.recipient}" for copy in copies))
    (KEPT / "accepted").write_text("\n".join(f"{each.when[own]:.4f} {own} {','.join(to)}" for each in outcomes
                                             for own, to in each.accepted.items()))  # fmt: skip
    (KEPT / "queue").write_text("\n".join(map(json.dumps, place.one.queue())))
    (KEPT / "status").write_text(place.one.run(["systemctl", "status", "--no-pager", "qmaild-*"], check=False).stdout)
    shutil.copytree(place.one.root.path / "var/log/journal", KEPT / "journal")
    shutil.copytree(place.one.root.path / "var/lib/qmaild/queue", KEPT / "segments")


def main() -> None:
    parser = argparse.ArgumentParser(prog="storm", description="the kill storm on a booted machine")
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stops", type=int, default=10)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--release", default="trixie")
    given = parser.parse_args()
    if reason := unavailable():
        sys.exit(f"no test machines: {reason}")
    prepare()
    with house(given.release, Storm(given.messages, given.seed, given.stops, sessions=given.sessions)) as place:
        result = run(place)
        print("\n".join([*result.lines(), *(f"storm problem {each}" for each in result.problems)]), flush=True)
    sys.exit(f"see {KEPT}" if result.problems else 0)


if __name__ == "__main__":
    main()
