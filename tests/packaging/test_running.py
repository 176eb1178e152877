"""The packages in booted machines: what listens, what an upgrade keeps open, what a removal lets go of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.test_units import SERVICES
from tests.system.machines import Machine, Network
from tests.system.packages import Build, build

SMOKE = Path(__file__).resolve().parents[2] / "debian/tests/smoke"


@pytest.fixture(scope="module")
def machine(release: str, built: Build) -> Iterator[Machine]:
    """Booted, with nothing of ours installed."""
    with Network("running") as network, Machine("pack", release, network) as machine:
        machine.run(["useradd", "--create-home", "joe"])
        machine.boot()
        yield machine


def tcp_ports(machine: Machine) -> set[str]:
    return {line.split()[3] for line in machine.run("ss -Hltn").stdout.splitlines()}


def active_since(machine: Machine, unit: str) -> str:
    return machine.run(["systemctl", "show", "--property=ActiveEnterTimestampMonotonic", "--value", unit]).stdout


def is_active(machine: Machine, name: str) -> bool:
    return machine.run(["systemctl", "is-active", f"qmaild-{name}.service"], check=False).returncode == 0


def say_quit(machine: Machine) -> None:
    """One SMTP session, so that smtpd runs."""
    machine.run(["python3", "-c", "import smtplib; smtplib.SMTP('127.0.0.1').quit()"])


def test_qmaild_alone_opens_no_port_and_answers_by_demand(machine: Machine, built: Build) -> None:
    before = tcp_ports(machine)
    machine.install(deb for deb in built.debs if deb.name.startswith("qmaild_"))
    assert tcp_ports(machine) == before
    machine.run("printf 'To: joe\\nSubject: alone\\n\\n' | QMAILINJECT=i qmail-inject", user="joe")
    machine.wait_for(lambda: "Subject: alone" in machine.run("cat /home/joe/Maildir/new/*", check=False).stdout)
    assert machine.run(["systemctl", "--failed", "--plain", "--no-legend"]).stdout == ""


def test_qmaild_without_mta_can_listen_in_public_but_not_on_loopback(machine: Machine) -> None:
    machine.run(["qmailctl", "listen", "public"])
    assert {"*:25"} <= tcp_ports(machine)
    refused = machine.run(["qmailctl", "listen", "loopback"], check=False)
    assert refused.returncode == 1 and "qmaild-mta" in refused.stderr
    machine.run("systemctl disable --now qmaild-smtpd.socket; systemctl stop qmaild-smtpd.service")
    assert not [port for port in tcp_ports(machine) if port.endswith(":25")]


def test_qmaild_mta_listens_on_the_loopback_addresses(machine: Machine, built: Build) -> None:
    machine.install(deb for deb in built.debs if deb.name.startswith("qmaild-mta_"))
    assert {port for port in tcp_ports(machine) if port.endswith(":25")} == {"127.0.0.1:25", "[::1]:25"}
    say_quit(machine)


def test_the_smoke_test_of_the_package_passes(machine: Machine) -> None:
    machine.write("/root/smoke", SMOKE.read_text(), mode=0o755)
    machine.run(["/root/smoke"])


def test_the_qmqp_port_can_be_opened_and_closed(machine: Machine) -> None:
    machine.run(["systemctl", "enable", "--now", "qmaild-qmqpd.socket"])
    assert "*:628" in tcp_ports(machine)
    # Nobody is in qmqpclients: a stranger is sent away, by a service that was started for it.
    machine.run(["python3", "-c", "import socket; s = socket.create_connection(('127.0.0.1', 628), 30); s.recv(100)"])
    machine.run("systemctl disable --now qmaild-qmqpd.socket; systemctl stop qmaild-qmqpd.service")
    assert "*:628" not in tcp_ports(machine)


def test_the_target_stops_starts_and_restarts_everything(machine: Machine) -> None:
    say_quit(machine)
    machine.run(["systemctl", "stop", "qmaild.target"])  # returns before what it holds has stopped
    machine.wait_for(lambda: machine.run("systemctl list-units --plain --no-legend 'qmaild*'").stdout == "")
    machine.run(["systemctl", "start", "qmaild.target"])
    say_quit(machine)
    machine.run(["systemctl", "restart", "qmaild.target"])
    say_quit(machine)
    assert machine.run(["systemctl", "--failed", "--plain", "--no-legend"]).stdout == ""


def test_an_upgrade_restarts_what_runs_and_leaves_every_socket_open(machine: Machine, release: str) -> None:
    say_quit(machine)
    sockets = machine.run("systemctl list-units --plain --no-legend 'qmaild*.socket' | cut -d' ' -f1").stdout.split()
    opened = {unit: active_since(machine, unit) for unit in sockets}
    started = {name: active_since(machine, f"qmaild-{name}.service") for name in SERVICES}
    running = {name for name in SERVICES if is_active(machine, name)}
    assert "smtpd" in running
    machine.install(build(release, "+1").debs)
    assert {unit: active_since(machine, unit) for unit in sockets} == opened
    for name in running:
        assert active_since(machine, f"qmaild-{name}.service") != started[name], name


def test_removing_qmaild_mta_frees_port_25_though_a_session_is_open(machine: Machine) -> None:
    holding = machine.popen(["python3", "-c", "import smtplib, time; s = smtplib.SMTP('127.0.0.1'); time.sleep(600)"])
    machine.wait_for(lambda: is_active(machine, "smtpd"))
    machine.run(["apt-get", "remove", "-y", "qmaild-mta"])
    assert not [port for port in tcp_ports(machine) if port.endswith(":25")]
    holding.kill()
    holding.wait()


def test_removing_qmaild_leaves_nothing_running(machine: Machine) -> None:
    machine.run(["apt-get", "remove", "-y", "qmaild"])
    assert machine.run("systemctl list-units --plain --no-legend 'qmaild*'").stdout == ""
    assert "/run/qmaild/" not in machine.run("ss -Hlx").stdout
