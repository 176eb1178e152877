"""The machines themselves: they boot, talk, resolve, reboot, crash and leave nothing behind."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .machines import RELEASES, CommandFailed, Machine, end
from .network import Network

RECORDS = {
    "b.test": {"A": ["10.77.0.3"], "AAAA": ["fd77::3"], "MX": ["10 b.test."]},
    "www.test": {"CNAME": ["b.test."]},
    "broken.test": {"fault": "SERVFAIL"},
    "mute.test": {"fault": "TIMEOUT"},
    "large.test": {"fault": "TRUNCATE", "TXT": ['"over TCP only"']},
    "many.test": {"A": [f"10.9.{i // 250}.{i % 250}" for i in range(200)]},
    "secure.test": {"ad": True, "A": ["10.77.0.3"]},
}
LOOKUP = """
import sys, dns.resolver, dns.flags
resolver = dns.resolver.Resolver()
resolver.lifetime = resolver.timeout = float(sys.argv[3])
try:
    answer = resolver.resolve(*sys.argv[1:3])
    print(*sorted(r.to_text() for r in answer), *(["AD"] if answer.response.flags & dns.flags.AD else []))
except Exception as error:
    print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network("proof") as network:
        network.dns(RECORDS)
        yield network


@pytest.fixture(scope="module")
def machines(network: Network) -> Iterator[dict[str, Machine]]:
    """One machine of each release, booted: trixie is 10.77.0.2, bookworm 10.77.0.3."""
    with Machine("a", "trixie", network) as a, Machine("b", "bookworm", network) as b:
        a.boot()
        b.boot()
        yield {"trixie": a, "bookworm": b}


@pytest.fixture(params=RELEASES)
def machine(request: pytest.FixtureRequest, machines: dict[str, Machine]) -> Machine:
    return machines[request.param]


def lookup(machine: Machine, name: str, kind: str) -> str:
    seconds = "1.5" if name == "mute.test" else "20"
    return machine.run(["python3", "-c", LOOKUP, name, kind, seconds]).stdout.strip()


def test_a_machine_is_the_release_it_says_and_runs_its_own_systemd(machine: Machine) -> None:
    assert f"VERSION_CODENAME={machine.release}\n" in machine.read("/etc/os-release")
    assert machine.run("systemctl is-system-running").stdout.strip() == "running"
    assert machine.run("cat /proc/1/comm").stdout == "systemd\n"
    assert machine.run("hostname -f").stdout == f"{machine.name}.test\n"


def test_a_failing_command_raises_with_its_output(machine: Machine) -> None:
    with pytest.raises(CommandFailed, match="no luck"):
        machine.run("echo no luck >&2; exit 3")
    assert machine.run("exit 3", check=False).returncode == 3


def test_a_command_can_be_run_as_a_user_with_input(machine: Machine) -> None:
    machine.run("id joe || useradd -m -G mail joe", check=False)
    done = machine.run("id -un; id -Gn; pwd; echo $HOME; cat", user="joe", input="fed\n")
    assert done.stdout == "joe\njoe mail\n/\n/home/joe\nfed\n"
    machine.write("/home/joe/sub/file", "text", owner="joe", mode=0o600)
    assert machine.run("stat -c '%U %G %a' /home/joe/sub/file").stdout == "joe joe 600\n"
    assert machine.read("/home/joe/sub/file") == "text"


def test_a_machine_can_hold_a_sandboxed_unit(machine: Machine) -> None:
    sandbox = ["PrivateNetwork=yes", "ProtectSystem=strict", "PrivateUsers=yes", "NoNewPrivileges=yes",
               "SystemCallFilter=@system-service", "MemoryDenyWriteExecute=yes",
               "DynamicUser=yes"]  # fmt: skip
    words = ["systemd-run", "--wait", "--pipe", "--quiet", *(f"--property={line}" for line in sandbox)]
    script = "sed -n 's/:.*//p' /proc/net/dev | tr -d ' '; touch /etc/x || echo denied"
    assert machine.run([*words, "sh", "-c", script]).stdout == "lo\ndenied\n"


def test_units_of_the_same_name_in_two_machines_do_not_meet(machines: dict[str, Machine]) -> None:
    a, b = machines["trixie"], machines["bookworm"]
    for machine in (a, b):
        machine.run("systemd-run --quiet --unit=twin sleep 12345")
    processes = "cat /sys/fs/cgroup/systemd/system.slice/twin.service/cgroup.procs"
    if a.run("test -d /sys/fs/cgroup/systemd", check=False).returncode != 0:
        processes = processes.replace("/systemd/", "/", 1)
    assert len(a.run(processes).stdout.split()) == 1
    a.run("systemctl stop twin", timeout=20)
    assert b.run("systemctl is-active twin").stdout == "active\n"
    b.run("systemctl stop twin", timeout=20)


def test_machines_reach_one_another_over_both_protocols_and_nothing_else(
    machines: dict[str, Machine],
) -> None:
    a, b = machines["trixie"], machines["bookworm"]
    server = ("import socket\n"
              "s = socket.create_server(('::', 2500), family=socket.AF_INET6, dualstack_ipv6=True)\n"
              "print('up', flush=True)\n"
              "for n in range(2): c, peer = s.accept(); c.sendall(peer[0].encode()); c.close()")  # fmt: skip
    with b.popen(["python3", "-c", server], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        client = (
            "import socket, sys\nprint(socket.create_connection((sys.argv[1], 2500), 5).recv(99).decode())"
        )
        for target, seen_as in ((b.place.ipv6, a.place.ipv6), (b.place.ipv4, f"::ffff:{a.place.ipv4}")):
            assert a.run(["python3", "-c", client, target]).stdout == f"{seen_as}\n"
    assert a.run("ip route show default; ip -6 route show default").stdout == ""


def test_a_host_whose_plug_is_pulled_is_not_reached_until_it_is_back(
    network: Network, machines: dict[str, Machine]
) -> None:
    a, b = machines["trixie"], machines["bookworm"]
    probe = "import socket, sys; socket.create_connection((sys.argv[1], 9), 1)"
    network.cut(b.place)
    assert "timed out" in a.run(["python3", "-c", probe, b.place.ipv4], check=False).stderr
    network.join(b.place)
    reach = ["python3", "-c", probe, b.place.ipv4]
    a.wait_for(lambda: "refused" in a.run(reach, check=False).stderr, what="b is back")


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("b.test", "MX", "10 b.test."),
        ("b.test", "AAAA", "fd77::3"),
        ("b.test", "TXT", "NoAnswer"),
        ("www.test", "A", "10.77.0.3"),
        ("test", "A", "NoAnswer"),
        ("nowhere.test", "A", "NXDOMAIN"),
        ("broken.test", "A", "NoNameservers"),
        ("mute.test", "A", "LifetimeTimeout"),
        ("large.test", "TXT", '"over TCP only"'),
        ("secure.test", "A", "10.77.0.3 AD"),
    ],
)
def test_the_dns_server_answers_as_told(
    machines: dict[str, Machine], name: str, kind: str, expected: str
) -> None:
    assert lookup(machines["trixie"], name, kind) == expected


def test_an_answer_too_large_for_udp_is_asked_again_over_tcp(
    network: Network, machines: dict[str, Machine]
) -> None:
    assert len(lookup(machines["bookworm"], "many.test", "A").split()) == 200
    assert network.dns(RECORDS).queries()[-2:] == ["udp many.test. A", "tcp many.test. A"]


def test_records_can_be_replaced_while_the_server_runs(
    network: Network, machines: dict[str, Machine]
) -> None:
    network.dns({**RECORDS, "new.test": {"A": ["10.77.0.9"]}})
    assert lookup(machines["bookworm"], "new.test", "A") == "10.77.0.9"
    network.dns(RECORDS)
    assert lookup(machines["bookworm"], "new.test", "A") == "NXDOMAIN"


def test_the_journal_tells_records_with_their_fields(machine: Machine) -> None:
    machine.run("printf 'MESSAGE=hello\\nQMAILD_MESSAGE=17\\n' | logger --journald")
    record = machine.wait_for_record("QMAILD_MESSAGE=17")
    assert record["MESSAGE"] == "hello"
    assert record in machine.journal("QMAILD_MESSAGE=17")
    with pytest.raises(TimeoutError):
        machine.wait_for_record("QMAILD_MESSAGE=18", timeout=0.3)


def test_a_machine_keeps_its_disk_its_journal_and_its_address_over_a_reboot(machine: Machine) -> None:
    before = machine.run("stat -c %y /run").stdout
    machine.run("echo kept >/var/lib/kept; logger --tag proof before the reboot")
    machine.reboot()
    assert machine.run("stat -c %y /run").stdout != before
    assert machine.read("/var/lib/kept") == "kept\n"
    assert machine.place.ipv4 in machine.run("ip -o addr show dev host0").stdout
    assert [r["MESSAGE"] for r in machine.journal("SYSLOG_IDENTIFIER=proof")][-1] == "before the reboot"


def test_a_machine_that_crashes_boots_again_with_what_was_written(machine: Machine) -> None:
    machine.run("echo kept >/var/lib/crashed")
    machine.kill()
    assert not machine.is_running
    assert machine.read("/var/lib/crashed") == "kept\n", "commands run in the root of a machine that is off"
    machine.boot()
    assert machine.run("systemctl is-system-running").stdout.strip() == "running"


def test_a_package_is_installed_before_boot_and_while_running(machine: Machine, tmp_path: Path) -> None:
    for version in ("1", "2"):
        tree = tmp_path / version
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(
            f"Package: proof\nVersion: {version}\nArchitecture: all\nMaintainer: T <t@test>\n"
            "Depends: python3\nDescription: proof\n"
        )
        subprocess.run(
            ["dpkg-deb", "--build", "--root-owner-group", tree, tmp_path / f"{version}.deb"], check=True
        )
    machine.install([tmp_path / "1.deb"])
    machine.poweroff()
    machine.install([tmp_path / "2.deb"])
    machine.boot()
    assert machine.run("dpkg-query -W proof").stdout == "proof\t2\n"


@pytest.mark.parametrize("ending", [end, subprocess.Popen.kill])
@pytest.mark.parametrize("user", [None, "nobody"])
def test_a_started_command_can_be_ended(machine: Machine, user: str | None, ending: Any) -> None:
    with machine.popen(["sleep", "12345"], user=user) as process:
        machine.wait_for(lambda: "12345" in machine.run("pgrep -a sleep", check=False).stdout, what="sleep")
        ending(process)
    machine.wait_for(lambda: "12345" not in machine.run("pgrep -a sleep", check=False).stdout, what="its end")


def test_a_closed_network_leaves_no_namespace_process_or_folder() -> None:
    with Network("gone") as network, Machine("x", "trixie", network) as machine:
        machine.boot()
        folder, process = machine.root.folder, machine.popen(["sleep", "1000"])
    assert process.wait(10) != 0
    assert not folder.exists()
    assert "gone.x" not in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
