"""Hours of mixed traffic in a booted machine: nothing is lost, and no service grows.

    python3 -m tests.system.soak [--hours 2] [--release trixie]

Messages of all sizes come by SMTP, QMQP and sendmail, to Maildirs, a program, a mailing list, other hosts, hosts whose
DNS comes and goes, and nobody; bad clients come beside them, settings are reloaded, and in the first quarter every
service is restarted. Each service is measured once a minute. The last quarter is held against the second: memory
(PSS), descriptors and threads of all its processes. The exit status is 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from qmaild.runtime.running import SERVICES

from .hosts import Host, host
from .load import Copy, Kind, Load, Outcomes, Plan, Sink, compare
from .machines import RELEASES, Network, prepare, unavailable
from .network import Place, wait_until
from .sink import facts

MEMBERS = 40  # of the mailing list
LIST = "sue-list@one.test"
LISTED = [f"member{number}@far.test" for number in range(MEMBERS)]
KEEP = "|mkdir -p copies; f=copies/$$-$(date +%N); cat >.new-$$ && mv .new-$$ $f\n"
NOBODY = ("nobody@null.test", "no-such-user@one.test")  # whoever writes to them gets a bounce
MORE_MEMORY, MORE_BYTES, MORE_DESCRIPTORS, MORE_THREADS = 1.10, 3 << 20, 12, 2  # what counts as flat
MOST_SAMPLE_SECONDS = 60.0
END_SECONDS = 900.0
EVIDENCE_SECONDS = 400.0
WARNING = 4  # of syslog's priorities

# Runs inside: for each service the PSS in kB, the descriptors and the threads of all processes in its unit.
MEASURE = r"""
import json, os, re
found = {}
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        unit = re.search(r"qmaild-(\w+)\.service", open(f"/proc/{pid}/cgroup").read())
        if not unit:
            continue
        pss = int(re.search(r"^Pss: *(\d+)", open(f"/proc/{pid}/smaps_rollup").read(), re.M)[1])
        one = [pss, len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task")), 1]
    except (OSError, TypeError):
        continue
    found[unit[1]] = [a + b for a, b in zip(found.get(unit[1], [0, 0, 0, 0]), one)]
print(json.dumps(found))
"""


class Sample(NamedTuple):
    """One service at one time."""

    pss: int
    descriptors: int
    threads: int
    processes: int


class Soak:
    """The machine, its traffic and what was seen of both."""

    def __init__(self, one: Host, network: Network, sink: Sink, seconds: float) -> None:
        self.one = one
        self.network = network
        self.sink = sink
        self.seconds = seconds
        self.samples: dict[str, list[tuple[float, Sample]]] = defaultdict(list)
        self.copies: list[Copy] = []
        self.restarts: list[float] = []
        self.reloads = 0
        self.begun = 0.0
        self.troubles: list[str] = []

    # --- the machine

    def set_up(self, client: Place) -> None:
        one = self.one
        one.write("/home/ann/.qmail", KEEP, owner="ann", mode=0o600)
        one.write("/home/sue/.qmail-list", "".join(f"&{each}\n" for each in LISTED), owner="sue", mode=0o600)
        one.control(
            idleexit="0\n", locals="one.test\n", relayclients=f"127.0.0.0/8\n{client.ipv4}\n",
            qmqpclients=f"127.0.0.1\n{client.ipv4}\n", queuelifetime=f"{int(max(60, self.seconds / 4))}\n",
            timeoutsmtpd="60\n",
        )  # fmt: skip
        one.run(["qmailctl", "listen", "public"])
        one.run("systemctl restart qmaild.target; systemctl start qmaild-qmqpd.socket")
        self.serve_dns(True)

    def serve_dns(self, is_well: bool) -> None:
        at = self.sink.place.ipv4
        fault: dict[str, Any] = {} if is_well else {"fault": "SERVFAIL"}
        mx = {"MX": ["10 mx.far.test."]}
        self.network.dns({
            "mx.far.test": {"A": [at]}, "far.test": mx, "client.test": mx, "null.test": {"MX": ["0 ."]},
            "unsteady.test": {**mx, **fault}, "one.test": {"MX": ["10 one.test."], "A": [self.one.place.ipv4]},
        })  # fmt: skip

    def plans(self) -> list[tuple[bool, Plan]]:
        """Each sender, and whether it runs inside of the machine."""
        one, seconds, most = self.one.place.ipv4, self.seconds, 10_000_000
        usual = [
            Kind(40, ["joe@one.test"]), Kind(20, ["x@far.test"]), Kind(10, ["joe@one.test", "ann@one.test", "y@far.test"]),
            Kind(8, ["ann@one.test"], 300), Kind(6, ["joe@one.test"], 70_000), Kind(3, ["x@unsteady.test"]),
            Kind(3, ["nobody@null.test"]), Kind(1, [LIST]), Kind(0.7, ["joe@one.test", "x@far.test"], 1 << 20),
            Kind(0.1, ["x@far.test"], 5 << 20),
        ]  # fmt: skip
        unknown = [Kind(8, ["joe@one.test"]), Kind(4, ["x@far.test"], 40_000), Kind(2, ["no-such-user@one.test"])]
        return [
            (False, Plan("smtp", most, usual, host=one, sessions=8, most=8, pause=1.0, seconds=seconds)),
            (False, Plan("qmqp", most, unknown, "qmqp", host=one, sessions=1, pause=1.0, seconds=seconds)),
            (True, Plan("sendmail", most, unknown, "sendmail", sessions=2, pause=1.5, seconds=seconds)),
        ]

    @contextlib.contextmanager
    def bad_clients(self, place: Place) -> Iterator[None]:
        program = Path(__file__).with_name("bad_client.py")
        argv = [sys.executable, "-I", str(program), self.one.place.ipv4, "1"]
        process = place.namespace.popen(argv, stdin=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.kill()
            process.wait()

    # --- the traffic

    def run(self, client: Place, bad: Place) -> list[Outcomes]:
        self.set_up(client)
        self.begun = time.monotonic()
        loads = [Load.inside(self.one, plan) if inside else Load.outside(client, plan) for inside, plan in self.plans()]
        with self.bad_clients(bad):
            pause = min(MOST_SAMPLE_SECONDS, self.seconds / 40)
            for turn in range(int(self.seconds / pause)):
                self.turn(turn)
                time.sleep(max(0.0, self.begun + (turn + 1) * pause - time.monotonic()))
        outcomes = [load.wait(300) for load in loads]
        self.empty_queue()
        return outcomes

    def turn(self, turn: int) -> None:
        """What happens once a minute."""
        passed = time.monotonic() - self.begun
        self.measure(passed)
        self.gather()
        self.serve_dns(turn // 3 % 2 == 0)
        self.one.run(["qmailctl", "reload"])
        self.reloads += 1
        if passed < self.seconds / 4 and turn and len(self.restarts) < len(SERVICES):
            self.restarts.append(time.time())
            self.one.run(["systemctl", "try-restart", f"qmaild-{SERVICES[len(self.restarts) - 1]}.service"])

    def measure(self, passed: float) -> None:
        for service, facts_of in json.loads(self.one.run(["python3", "-c", MEASURE]).stdout).items():
            self.samples[service].append((passed, Sample(*facts_of)))

    def gather(self) -> None:
        """Take the load's messages out of the machine, so that its folders stay small."""
        for home in (self.one.root.path / "home").iterdir():
            for folder in (home / "Maildir/new", home / "copies"):
                for file in folder.iterdir() if folder.is_dir() else ():
                    header, _, body = file.read_bytes().partition(b"\n\n")
                    own, is_whole = facts(header, body)
                    if own != "-":
                        self.copies.append(Copy(own, f"{home.name}@one.test", file.stat().st_mtime, is_whole))
                    file.unlink()

    def empty_queue(self) -> None:
        self.serve_dns(True)

        def is_empty() -> bool:
            self.one.run("qmailctl queue retry all")
            return self.one.queue() == []

        try:
            wait_until(is_empty, END_SECONDS, "the queue is empty")
        except TimeoutError:
            self.troubles.append(f"{len(self.one.queue())} messages stay in the queue: {self.one.queue()[:3]}")
        self.gather()

    # --- what came of it

    def judge(self, outcomes: list[Outcomes]) -> None:
        bounced = _split(outcomes)
        found = compare(outcomes, self.copies + self.sink.copies())
        print(f"{found.sent} submissions, {found.accepted} accepted, {found.deliveries} deliveries promised, "
              f"{found.delivered} made, {len(found.lost)} lost, {len(found.doubled)} doubled, {len(found.damaged)} damaged; "
              f"{len(bounced)} to bounce, {self.reloads} reloads, {len(self.restarts)} restarts")  # fmt: skip
        got = self.sink.bounces()
        # A host whose DNS was away at every attempt within queuelifetime: its sender was told.
        lost = [each for each in found.lost if not ("@unsteady.test" in each and each.split()[0] in got)]
        print(f"{len(found.lost) - len(lost)} returned because their host could not be found for too long")
        self._expect(not lost, f"lost: {lost[:5]}")
        self._expect(not found.damaged, f"damaged: {found.damaged[:5]}")
        late = [copy for copy in found.doubled if not any(0 <= copy.time - at < 60 for at in self.restarts)]
        self._expect(not late, f"doubled without a restart: {late[:5]}")
        for copy in late[:5]:
            self._tell_around(copy)
        missing = set(bounced) - set(got)
        self._expect(not missing, f"{len(missing)} bounces are missing: {sorted(missing)[:5]}")
        self._expect(len(got) - len(set(got)) <= len(self.restarts), f"{len(got) - len(set(got))} doubled bounces")
        for each in outcomes:
            self._expect(not each.permanent, f"refused for good: {each.permanent[:3]}")
        errors = [record for record in self.one.journal("-p", "err", "-u", "qmaild-*")]
        self._expect(not errors, f"{len(errors)} error records: {[each['MESSAGE'] for each in errors[:5]]}")

    def _tell_around(self, copy: Copy) -> None:
        """Print what the services said about this recipient, and all that was not well, in the minutes before its second copy."""
        window = ("--since", f"@{copy.time - EVIDENCE_SECONDS:.0f}", "--until", f"@{copy.time + 5:.0f}")
        for record in self.one.journal("-u", "qmaild-*", *window):
            is_about = record.get("QMAILD_RECIPIENT") == copy.recipient and record.get("QMAILD_EVENT") != "delivered"
            if is_about or int(record.get("PRIORITY", "6")) <= WARNING:
                print(copy.own, record["__REALTIME_TIMESTAMP"], record.get("_SYSTEMD_UNIT"), record["MESSAGE"])

    def compare_quarters(self) -> None:
        print("The median of each quarter, but for the first; the most.")
        print(f"{'service':9}{'PSS kB':>9}{'':27}{'descriptors':>13}{'':12}{'threads':>9}")
        for service, samples in sorted(self.samples.items()):
            quarters = [[each for at, each in samples if at * 4 // self.seconds == number] for number in (1, 2, 3)]
            if not all(quarters):
                continue
            medians = [_medians(quarter) for quarter in quarters]
            before, after = medians[0], medians[-1]
            print(f"{service:9}" + "".join(f"{each.pss:9}" for each in medians), f"{max(each.pss for _, each in samples):8}",
                  "".join(f"{each.descriptors:6}" for each in medians), f"{max(each.descriptors for _, each in samples):5}",
                  "".join(f"{each.threads:6}" for each in medians))  # fmt: skip
            self._expect(after.pss <= before.pss * MORE_MEMORY + (MORE_BYTES >> 10), f"{service} grows: {before} {after}")
            self._expect(after.descriptors <= before.descriptors + MORE_DESCRIPTORS, f"{service}: more descriptors")
            self._expect(after.threads <= before.threads + MORE_THREADS, f"{service}: more threads")

    def _expect(self, is_true: bool, otherwise: str) -> None:
        if not is_true:
            self.troubles.append(otherwise)


def _medians(samples: list[Sample]) -> Sample:
    return Sample(*(int(statistics.median(column)) for column in zip(*samples, strict=True)))


def _split(outcomes: list[Outcomes]) -> list[str]:
    """Put the list's members in its place, take out who can only bounce, and return the ids of those."""
    bounced = []
    for each in outcomes:
        for own, recipients in list(each.accepted.items()):
            if recipients == [LIST]:
                each.accepted[own] = LISTED
            elif recipients[0] in NOBODY:
                bounced.append(own)
                del each.accepted[own]
    return bounced


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--release", choices=RELEASES, default=RELEASES[0])
    asked = parser.parse_args()
    if reason := unavailable():
        sys.exit(f"no test machines: {reason}")
    prepare()
    with Network("soak") as network, Sink(network.plug("sink")) as sink:
        client, bad = network.plug("client"), network.plug("bad")
        with host("one", asked.release, network) as one:
            soak = Soak(one, network, sink, asked.hours * 3600)
            outcomes = soak.run(client, bad)
            soak.judge(outcomes)
            soak.compare_quarters()
    for trouble in soak.troubles:
        print("NOT AS IT SHOULD BE:", trouble)
    return 1 if soak.troubles else 0


if __name__ == "__main__":
    sys.exit(main())
