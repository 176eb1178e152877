"""dial as a process: questions by frames, answers as connected sockets or verdicts; a real name server behind it."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmaild.control.settings import parse
from qmaild.policy import mailhosts
from qmaild.protocol import frames
from qmaild.runtime import dialing
from qmaild.runtime.dns import Resolver

from .name_server import NameServer, zone
from .processes import Client, Running

RECORDS = {
    "null.test": ["MX 0 ."],
    "us.test": ["MX 10 us.test.", "A 127.0.0.1"],
    "implicit.test": ["A 127.0.0.1"],
    "mapped.test": ["AAAA ::ffff:127.0.0.1"],
    "bare.test": ["MX 10 nowhere.test."],
    "nowhere.test": ["TXT x"],
    "relay.test": ["A 127.0.0.1"],
    "two.test": ["A 127.0.0.2", "A 127.0.0.3"],
    "both.test": ["A 127.0.0.1", "AAAA ::1"],
}


def listening(address: str = "127.0.0.1", port: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.bind((address, port))
    sock.listen(10)
    sock.settimeout(20)
    return sock


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


class DeadHost:
    """A port that answers no connection: its backlog is full, so the kernel drops what knocks."""

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._sock = socket.socket(family)
        self._sock.bind((address, port))
        self._sock.listen(0)
        self.port = port_of(self._sock)
        self._fillers = [socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(4)]
        for filler in self._fillers:
            filler.connect_ex((address, self.port))

    def revive(self) -> None:
        """Take connections from now on."""
        self._sock.listen(10)

    def close(self) -> None:
        for sock in (self._sock, *self._fillers):
            sock.close()


@pytest.fixture
def names(tmp_path: Path) -> Iterator[NameServer]:
    with NameServer(zone(RECORDS)) as server:
        (tmp_path / "resolv.conf").write_text(server.line())
        yield server


def dial(tmp_path: Path, **settings: str) -> Running:
    return Running("dial", ["dial", "control"], tmp_path, **settings)


def asked(
    client: Client, purpose: bytes, name: bytes, *skip: bytes, is_probe: int = 0
) -> frames.NotConnected | frames.Connected:
    client.send(frames.Connect(7, purpose, name, list(skip), is_probe))
    frame, descriptor = client.receive()
    if isinstance(frame, frames.Connected):
        os.close(descriptor)
    assert isinstance(frame, (frames.Connected, frames.NotConnected)) and frame.tag == 7
    return frame


@pytest.mark.parametrize(
    ("domain", "outcome", "enhanced"),
    [
        (b"null.test", b"D", b"5.1.10"),
        (b"missing.test", b"D", b"5.1.2"),
        (b"bare.test", b"D", b"5.4.4"),
        (b"us.test", b"D", b"5.4.6"),
        (b"implicit.test", b"D", b"5.4.6"),
        (b"mapped.test", b"D", b"5.4.6"),
        (b"[127.0.0.1]", b"D", b"5.4.6"),
        (b"0.0.0.0", b"D", b"5.4.6"),
        (b"[IPv6:::1]", b"D", b"5.4.6"),
        (b"", b"D", b"5.1.2"),
        (b"a\nb\xff", b"D", b"5.1.2"),
    ],
)  # fmt: skip
def test_domains_that_have_no_mail_host(
    names: NameServer, tmp_path: Path, domain: bytes, outcome: bytes, enhanced: bytes
) -> None:
    with dial(tmp_path) as service:
        answer = asked(service.client("dial"), b"mx", domain)
    assert isinstance(answer, frames.NotConnected)
    assert (answer.outcome, answer.enhanced) == (outcome, enhanced)


def test_a_domain_is_temporary_while_no_name_server_answers(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unserved, dial(tmp_path) as service:
        unserved.bind(("127.0.0.1", 0))
        port = port_of(unserved)
        unserved.close()
        (tmp_path / "resolv.conf").write_text(f"nameserver 127.0.0.1#{port}\n")
        answer = asked(service.client("dial"), b"mx", b"a.test")
    assert isinstance(answer, frames.NotConnected)
    assert (answer.outcome, answer.enhanced) == (b"Z", b"4.1.2")


@pytest.mark.parametrize("relay", ["[127.0.0.1]:{}", "127.0.0.1:{}", "relay.test:{}"])
def test_a_route_gives_a_connected_socket(names: NameServer, tmp_path: Path, relay: str) -> None:
    with listening() as listener, dial(tmp_path, smtproutes=".a.test:" + relay.format(port_of(listener))) as service:
        client = service.client("dial")
        client.send(frames.Connect(3, b"route", b".A.test", []))
        frame, descriptor = client.receive()
        assert isinstance(frame, frames.Connected)
        host = relay.partition(":")[0].encode()
        assert frame == frames.Connected(3, b"smtp", host, b"127.0.0.1", port_of(listener), 0, 1)
        sock, _ = listener.accept()
        sock.sendall(b"220 hello\r\n")
        with socket.socket(fileno=descriptor) as ours:
            ours.setblocking(True)
            ours.settimeout(20)
            assert ours.recv(100) == b"220 hello\r\n"
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        sock.close()


def test_an_lmtp_route_may_be_a_unix_socket(names: NameServer, tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    with socket.socket(socket.AF_UNIX) as listener, dial(tmp_path, smtproutes=f":lmtp:{path}\nb:lmtp:/no") as service:
        listener.bind(str(path))
        listener.listen()
        client = service.client("dial")
        assert asked(client, b"route", b"") == frames.Connected(7, b"lmtp", b"localhost", bytes(path), 0, 0, 1)
        refused = asked(client, b"route", b"b")
        assert isinstance(refused, frames.NotConnected) and refused.outcome == b"Z" and b"ENOENT" in refused.text


@pytest.mark.parametrize(
    ("name", "enhanced"), [(b"unknown.test", b"4.3.5"), (b"mx.test", b"4.3.5"), (b"lost.test", b"4.1.2"), (b"off.test", b"4.4.1")]
)
def test_a_route_that_does_not_work_is_temporary(names: NameServer, tmp_path: Path, name: bytes, enhanced: bytes) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        routes = f"mx.test:\nlost.test:missing.test\noff.test:[127.0.0.1]:{port_of(unused)}"
        with dial(tmp_path, smtproutes=routes) as service:
            answer = asked(service.client("dial"), b"route", name)
    assert isinstance(answer, frames.NotConnected)
    assert (answer.outcome, answer.enhanced) == (b"Z", enhanced)


def test_addresses_already_tried_are_skipped_and_more_says_whether_others_remain(names: NameServer, tmp_path: Path) -> None:
    with listening("127.0.0.2") as one, listening("127.0.0.3", port_of(one)), \
         dial(tmp_path, smtproutes=f":two.test:{port_of(one)}") as service:  # fmt: skip
        client = service.client("dial")
        first = asked(client, b"route", b"")
        assert isinstance(first, frames.Connected) and first.more == 1
        second = asked(client, b"route", b"", first.address)
        assert isinstance(second, frames.Connected) and second.more == 0
        assert {first.address, second.address} == {b"127.0.0.2", b"127.0.0.3"}
        none = asked(client, b"route", b"", first.address, second.address)
        assert isinstance(none, frames.NotConnected) and none.outcome == b"Z"


def test_a_refused_address_gives_way_to_the_next(names: NameServer, tmp_path: Path) -> None:
    with listening("127.0.0.3") as one, dial(tmp_path, smtproutes=f":two.test:{port_of(one)}") as service:
        client = service.client("dial")
        for _ in range(5):
            answer = asked(client, b"route", b"")
            assert isinstance(answer, frames.Connected) and answer.address == b"127.0.0.3"


def test_ipv4_is_tried_beside_an_ipv6_address_that_is_silent(names: NameServer, tmp_path: Path) -> None:
    with listening() as four:
        six = DeadHost("::1", port_of(four))
        with dial(tmp_path, smtproutes=f":both.test:{port_of(four)}") as service:
            began = time.monotonic()
            answer = asked(service.client("dial"), b"route", b"")
            assert isinstance(answer, frames.Connected) and answer.address == b"127.0.0.1"
            assert time.monotonic() - began < 15  # timeoutconnect is 60
        six.close()


def test_a_host_that_timed_out_is_left_alone_until_tcpok(names: NameServer, tmp_path: Path) -> None:
    dead = DeadHost()
    with dial(tmp_path, smtproutes=f":[127.0.0.1]:{dead.port}", timeoutconnect="1") as service:
        client, control = service.client("dial"), service.client("control")
        assert isinstance(asked(client, b"route", b""), frames.NotConnected)
        control.send(frames.Command(1, [b"tcpto"]))
        answer, _ = control.receive()
        assert isinstance(answer, frames.Answer) and answer.text.startswith(b"127.0.0.1:%d timed out " % dead.port)
        dead.revive()
        assert isinstance(asked(client, b"route", b""), frames.NotConnected)
        control.send(frames.Command(3, [b"tcpok"]))
        assert control.receive()[0] == frames.Answer(3, 0, b"")
        assert isinstance(asked(client, b"route", b""), frames.Connected)
    dead.close()


def test_a_host_that_timed_out_and_is_back_is_found_by_a_probe_and_known_from_then_on(tmp_path: Path) -> None:
    dead = DeadHost()
    with dial(tmp_path, smtproutes=f":[127.0.0.1]:{dead.port}", timeoutconnect="1") as service:
        client = service.client("dial")
        assert isinstance(asked(client, b"route", b""), frames.NotConnected)
        assert isinstance(asked(client, b"route", b"", is_probe=1), frames.NotConnected)
        dead.revive()
        assert isinstance(asked(client, b"route", b""), frames.NotConnected)
        assert isinstance(asked(client, b"route", b"", is_probe=1), frames.Connected)
        assert isinstance(asked(client, b"route", b""), frames.Connected)
    dead.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_port_that_times_out_leaves_the_other_ports_of_its_address_alone(tmp_path: Path, address: str) -> None:
    dead = DeadHost(address)
    with listening(address) as alive:
        routes = f"dead:[{address}]:{dead.port}\nalive:[{address}]:{port_of(alive)}"
        with dial(tmp_path, smtproutes=routes, timeoutconnect="1") as service:
            client = service.client("dial")
            assert isinstance(asked(client, b"route", b"dead"), frames.NotConnected)
            assert isinstance(asked(client, b"route", b"alive"), frames.Connected)
            dead.revive()
            assert isinstance(asked(client, b"route", b"dead"), frames.NotConnected)
    dead.close()


def test_a_slow_question_does_not_hold_up_others(names: NameServer, tmp_path: Path) -> None:
    dead = DeadHost()
    with (
        listening() as alive,
        dial(
            tmp_path, smtproutes=f"dead:[127.0.0.1]:{dead.port}\nalive:127.0.0.1:{port_of(alive)}", timeoutconnect="30"
        ) as service,
    ):
        client = service.client("dial")
        client.send(frames.Connect(1, b"route", b"dead", []))
        client.send(frames.Connect(2, b"route", b"alive", []))
        frame, descriptor = client.receive()
        assert isinstance(frame, frames.Connected) and frame.tag == 2
        os.close(descriptor)
    dead.close()


@pytest.mark.parametrize(
    "frame",
    [frames.Abort(1), frames.Connect(1, b"mx", b"a" * 2000, []), frames.Connect(1, b"mx", b"a", [b"192.0.2.1"] * 200)],
    ids=["another frame", "a long name", "a long list"],
)
def test_a_question_out_of_bounds_ends_the_connection(names: NameServer, tmp_path: Path, frame: frames.Frame) -> None:
    with dial(tmp_path) as service:
        client = service.client("dial")
        client.send(frame)
        assert client.is_closed_by_service()
        assert isinstance(asked(service.client("dial"), b"mx", b"null.test"), frames.NotConnected)


def test_an_unknown_purpose_is_temporary(names: NameServer, tmp_path: Path) -> None:
    with dial(tmp_path) as service:
        answer = asked(service.client("dial"), b"192.0.2.1", b"a")
    assert isinstance(answer, frames.NotConnected) and answer.outcome == b"Z"


def test_it_leaves_when_told(names: NameServer, tmp_path: Path) -> None:
    service = dial(tmp_path)
    client = service.client("dial")
    asked(client, b"mx", b"null.test")
    client.close()
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(20) == 0


def test_every_address_of_this_host_is_its_own() -> None:
    trie = Path("/proc/net/fib_trie").read_text()
    own = re.findall(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL", trie)
    assert "127.0.0.1" in own
    assert all(dialing.is_own(ipaddress.ip_address(address)) for address in own)
    assert not dialing.is_own(ipaddress.ip_address("192.0.2.77"))
    assert not dialing.is_own(ipaddress.ip_address("2001:db8::77"))


def test_mail_hosts_are_tried_by_preference_at_port_25(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback stands for other hosts here: only who is "own", and the port, are other than in life."""
    records = {
        "a.test": ["MX 5 off.test.", "MX 10 best.test.", "MX 20 next.test.", "MX 30 us.test.", "MX 40 never.test."],
        "off.test": ["A 127.0.0.9"], "best.test": ["A 127.0.0.2"], "next.test": ["A 127.0.0.3"],
        "us.test": ["A 127.0.0.4"], "never.test": ["A 127.0.0.5"],
    }  # fmt: skip
    monkeypatch.setattr(dialing, "is_own", lambda address: str(address) == "127.0.0.4")
    with NameServer(zone(records)) as server, listening("127.0.0.2") as best, \
         listening("127.0.0.3", port_of(best)), listening("127.0.0.5", port_of(best)):  # fmt: skip
        monkeypatch.setattr(mailhosts, "SMTP_PORT", port_of(best))
        (tmp_path / "resolv.conf").write_text(server.line())
        reached: list[object] = []

        async def run() -> None:
            loop = asyncio.get_running_loop()
            resolver = Resolver(loop, str(tmp_path / "resolv.conf"))
            dialer = dialing.Dialer(loop, resolver, lambda: parse({}, b"host.test")[0])
            skip: set[bytes] = set()
            for _ in range(3):
                answer = await dialer.connect(b"mx", b"a.test", frozenset(skip))
                if isinstance(answer, dialing.Reached):
                    answer.sock.close()
                    skip.add(answer.address)
                    reached.append((answer.host, answer.address, answer.more))
                else:
                    reached.append(answer.enhanced)

        asyncio.run(run())
        # The third time only hosts remain that are us or behind us: nothing is reached, and that may change.
        assert reached == [(b"best.test", b"127.0.0.2", True), (b"next.test", b"127.0.0.3", True), b"4.4.1"]
        assert "udp never.test A" not in server.asked
