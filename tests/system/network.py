"""Networks for test machines: namespaces joined by a bridge that stands in a namespace of its own.

Nothing here touches the host's own network. Names carry the process number of the run, so that what a
killed run left behind can be told from what a living one uses.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cgroups import remove_groups_of
from .roots import command, dead_runs

PREFIX = "qmaild-test"


class Namespace:
    """A network namespace with a name, and the processes that were started in it."""

    def __init__(self, name: str) -> None:
        self.name = f"{PREFIX}-{os.getpid()}-{name}"
        command(["ip", "netns", "add", self.name], f"making namespace {self.name}")
        self.path = Path("/run/netns") / self.name
        self.ip("link", "set", "lo", "up")

    def argv(self, argv: Sequence[str]) -> list[str]:
        """The words of a command, wrapped so that it runs in this namespace."""
        return ["nsenter", f"--net={self.path}", "--", *argv]

    def ip(self, *words: str) -> str:
        return command(["ip", "-n", self.name, *words], f"ip {' '.join(words)} in {self.name}")

    def popen(self, argv: Sequence[str], **how: Any) -> subprocess.Popen[Any]:
        """Start a program of the host in this namespace; it ends with the namespace at the latest."""
        return subprocess.Popen(self.argv(argv), **how)

    def delete(self) -> None:
        delete_namespace(self.name)


def delete_namespace(name: str) -> None:
    """Remove a namespace of ours and whatever still runs inside. One that is gone already is no error."""
    listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
    for pid in listed.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def remove_dead_runs() -> None:
    """Clear away machines, namespaces and folders of runs that were killed before they could do it."""
    for folder in dead_runs():
        listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
        for line in listed.splitlines():
            if line.startswith(f"{PREFIX}-{folder.name}-"):
                delete_namespace(line.split()[0])
        remove_groups_of(folder.name)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one host stands in a network."""

    name: str
    namespace: Namespace
    ipv4: str
    ipv6: str


class Network:
    """One Ethernet: a bridge, and hosts plugged into it in the order in which they are added.

    Hosts are 10.77.0.N and fd77::N; number 1 is kept for the DNS server, to which every resolv.conf points.
    """

    def __init__(self, name: str = "net", domain: str = "test") -> None:
        self.name = name
        self.domain = domain
        self.places: list[Place] = []
        self._next = 2
        self._dns: DnsServer | None = None
        self._bridge = Namespace(f"{name}.bridge")
        self._bridge.ip("link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0")
        self._bridge.ip("link", "set", "br0", "up")
        atexit.register(self.close)

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def plug(self, name: str, number: int | None = None) -> Place:
        """A new namespace on the bridge, with its two addresses."""
        if number is None:
            number, self._next = self._next, self._next + 1
        namespace = Namespace(f"{self.name}.{name}")
        place = Place(name, namespace, f"10.77.0.{number}", f"fd77::{number:x}")
        self.places.append(place)
        self._bridge.ip("link", "add", f"port{number}", "type", "veth",
                        "peer", "name", "host0", "netns", namespace.name)  # fmt: skip
        self._bridge.ip("link", "set", f"port{number}", "master", "br0", "up")
        namespace.ip("link", "set", "host0", "up")
        namespace.ip("addr", "add", f"{place.ipv4}/24", "dev", "host0")
        # Without nodad an IPv6 address cannot be used for a second or two.
        namespace.ip("addr", "add", f"{place.ipv6}/64", "dev", "host0", "nodad")
        return place

    def cut(self, place: Place) -> None:
        """Pull the plug of one host: its packets go nowhere until join()."""
        self._bridge.ip("link", "set", f"port{place.ipv4.rpartition('.')[2]}", "down")

    def join(self, place: Place) -> None:
        self._bridge.ip("link", "set", f"port{place.ipv4.rpartition('.')[2]}", "up")

    def hosts_file(self, own: Place) -> str:
        """/etc/hosts of one host: itself by its full name first, and every other host known by now."""
        lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
        for place in [own, *(p for p in self.places if p is not own)]:
            for address in (place.ipv4, place.ipv6):
                lines.append(f"{address} {place.name}.{self.domain} {place.name}")
        return "\n".join(lines) + "\n"

    def resolv_conf(self) -> str:
        return f"nameserver 10.77.0.1\nsearch {self.domain}\noptions timeout:2 attempts:2\n"

    def dns(self, records: Mapping[str, Any]) -> DnsServer:
        """Start the network's DNS server with these records (see dns_server.py for their form)."""
        if self._dns is None:
            self._dns = DnsServer(self.plug("dns", 1), records)
        else:
            self._dns.serve(records)
        return self._dns

    def close(self) -> None:
        """Remove every namespace and whatever runs in one. Twice is once."""
        atexit.unregister(self.close)
        if self._dns is not None:
            self._dns.close()
            self._dns = None
        for place in self.places:
            place.namespace.delete()
        self._bridge.delete()


class DnsServer:
    """The DNS of one network: a process in its own namespace, told by its standard input what to serve."""

    def __init__(self, place: Place, records: Mapping[str, Any]) -> None:
        self.place = place
        program = str(Path(__file__).with_name("dns_server.py"))
        self._process = place.namespace.popen(
            [sys.executable, "-I", program, place.ipv4, place.ipv6, "127.0.0.1"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.serve(records)

    def serve(self, records: Mapping[str, Any]) -> None:
        """Replace everything that is served; holds when this returns."""
        self._ask({"serve": records})

    def queries(self) -> list[str]:
        """What was asked so far: `udp a.test. MX`, oldest first."""
        asked = self._ask({"queries": True})
        assert isinstance(asked, list)
        return asked

    def _ask(self, question: Mapping[str, Any]) -> object:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        readable, _, _ = select.select([self._process.stdout], [], [], 20)
        line = self._process.stdout.readline() if readable else ""
        if not line:
            raise RuntimeError(f"the DNS server gave no answer (exit status {self._process.poll()})")
        answer: object = json.loads(line)
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


def wait_until(ready: Any, timeout: float, what: str) -> Any:
    """Ask `ready` until its answer is true and return that answer; TimeoutError names what was waited for.

    For facts of another machine that no event announces to us. What the journal tells is better waited
    for with Machine.wait_for_record().
    """
    deadline = time.monotonic() + timeout
    pause = 0.01
    while True:
        answer = ready()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:g} s: {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)
