"""The Debian packages as they are built, and as they install, on both releases."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from qmaild.control.events import EVENTS
from tests.packaging.test_units import SERVICES, SOCKETS
from tests.system.machines import Machine
from tests.system.packages import Build, lintian

TREE = Path(__file__).resolve().parents[2]

# DESIGN: what `systemd-analyze security` may find, by service.
EXPOSURE = {"dial": 1.1, "spawn": 1.0, "program": 2.1}
EXPOSURE_OF_OTHERS = 0.5

# Opened by an administrator, by qmaild-mta, or together with another socket.
NOT_ENABLED = {"qmaild-smtpd", "qmaild-qmqpd", "qmaild-smtpd-loopback", *(f"qmaild-{name}-control" for name in SERVICES)}


def deb_of(built: Build, package: str) -> Path:
    (deb,) = (deb for deb in built.debs if deb.name.startswith(f"{package}_"))
    return deb


def field(deb: Path, name: str) -> str:
    return subprocess.run(["dpkg-deb", "--field", deb, name], capture_output=True, text=True, check=True).stdout.strip()


def listing(deb: Path) -> dict[str, tuple[str, str]]:
    """Path → (mode and kind as ls shows them, target of a link)."""
    printed = subprocess.run(["dpkg-deb", "--contents", deb], capture_output=True, text=True, check=True).stdout
    found = {}
    for line in printed.splitlines():
        mode, *_, rest = line.split(None, 5)
        path, _, target = rest.partition(" -> ")
        found[path.removeprefix("./").rstrip("/")] = (mode, target)
    return found


def script(deb: Path, name: str) -> str:
    """One maintainer script; empty if the package has none of that name."""
    return subprocess.run(["dpkg-deb", "--info", deb, name], capture_output=True, text=True).stdout


def test_lintian_finds_no_error_and_no_warning(release: str, built: Build) -> None:
    assert [line for line in lintian(release, built) if line[:2] in ("E:", "W:")] == []


def test_no_file_is_set_id(built: Build) -> None:
    for deb in built.debs:
        assert not [path for path, (mode, _) in listing(deb).items() if "s" in mode.lower()], deb.name


def test_qmaild_conflicts_with_no_mailer_and_owns_no_name_of_one(built: Build) -> None:
    deb = deb_of(built, "qmaild")
    assert field(deb, "Conflicts") == field(deb, "Provides") == field(deb, "Replaces") == ""
    theirs = {"usr/sbin/sendmail", "usr/lib/sendmail", "usr/bin/mailq", "usr/bin/newaliases", "usr/bin/maildirmake"}
    assert not theirs & set(listing(deb))


def test_qmaild_mta_is_the_mail_transport_agent(built: Build) -> None:
    deb = deb_of(built, "qmaild-mta")
    for name in ("Provides", "Conflicts", "Replaces"):
        assert field(deb, name) == "mail-transport-agent"
    found = listing(deb)
    assert found["usr/lib/sendmail"][1] == "../sbin/sendmail"
    for path in ("usr/sbin/sendmail", "usr/bin/mailq", "usr/bin/newaliases"):
        assert found[path][1] == "../libexec/qmaild/client"


def test_what_cffi_needs_is_a_dependency(built: Build) -> None:
    assert "python3-cffi-backend" in re.split(r"[ ,]+", field(deb_of(built, "qmaild"), "Depends"))


def test_the_native_modules_serve_every_python(built: Build) -> None:
    found = listing(deb_of(built, "qmaild"))
    assert sorted(Path(path).name for path in found if path.endswith(".so")) == [
        "_body.abi3.so", "_queue.abi3.so", "_system.abi3.so",
    ]


def test_native_code_is_hardened(built: Build, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "--extract", deb_of(built, "qmaild"), tmp_path], check=True)
    programs = [*tmp_path.rglob("*.so"), tmp_path / "usr/libexec/qmaild/client"]
    assert len(programs) == 4
    for path in programs:
        shown = subprocess.run(["readelf", "--wide", "--dynamic", "--program-headers", "--symbols", "--file-header", path],
                               capture_output=True, text=True, check=True).stdout  # fmt: skip
        assert "BIND_NOW" in shown and "GNU_RELRO" in shown, path.name
        assert re.search(r"Type:\s+DYN", shown), path.name
        assert "__stack_chk_fail" in shown, path.name


def test_the_unit_files_are_installed_once_and_whole(built: Build) -> None:
    every = [path for deb in built.debs for path in listing(deb)]
    units = [Path(path).name for path in every if re.search(r"\.(service|socket|target)$", path)]
    assert sorted(units) == sorted(path.name for path in (TREE / "systemd").iterdir())
    assert not [path for path in every if path.endswith("qmaild/units")]


def test_our_own_maintainer_scripts_leave_systemctl_alone() -> None:
    for path in (TREE / "debian").glob("qmaild*.p*"):
        assert "systemctl" not in path.read_text(), path.name


def invoked(text: str, action: str) -> set[str]:
    """The units a script names to deb-systemd-invoke with this action."""
    lines = re.findall(rf"deb-systemd-invoke {re.escape(action)} (.*) >/dev/null", text)
    return {unit for line in lines for unit in re.findall(r"'([^']+)'", line)}


def test_an_upgrade_restarts_every_service_and_no_socket(built: Build) -> None:
    for package in ("qmaild", "qmaild-mta"):
        deb = deb_of(built, package)
        restarted = invoked(script(deb, "postinst"), "$_dh_action")
        assert restarted == ({f"qmaild-{name}.service" for name in SERVICES} if package == "qmaild" else set())
        assert "deb-systemd-invoke stop" not in script(deb, "preinst")
        assert re.findall(r'"\$1" = (\w+) \] && \[ -d /run/systemd', script(deb, "prerm")).count("upgrade") == 0


def test_the_sockets_that_work_by_demand_start_and_those_of_the_network_do_not(built: Build) -> None:
    started = invoked(script(deb_of(built, "qmaild"), "postinst"), "start")
    assert started == {f"{unit}.socket" for unit in SOCKETS if unit not in NOT_ENABLED} | {"qmaild.target"}
    assert invoked(script(deb_of(built, "qmaild-mta"), "postinst"), "start") == {"qmaild-smtpd-loopback.socket"}


def test_users_exist_before_folders_and_folders_before_sockets(built: Build) -> None:
    text = script(deb_of(built, "qmaild"), "postinst")
    assert 0 < text.index("systemd-sysusers ") < text.index("systemd-tmpfiles ") < text.index("deb-systemd-invoke start")


def test_systemd_finds_nothing_wrong_with_any_unit(installed: Machine) -> None:
    folder = "$(ls -d /usr/lib/systemd/system/qmaild.target /lib/systemd/system/qmaild.target | head -n 1 | xargs dirname)"
    done = installed.run(f"systemd-analyze verify --man=no {folder}/qmaild* 2>&1")
    assert done.stdout == ""


@pytest.mark.parametrize("service", SERVICES)
def test_exposure_stays_within_its_limit(installed: Machine, service: str) -> None:
    shown = installed.run(["systemd-analyze", "security", "--offline=true", "--no-pager", f"qmaild-{service}.service"]).stdout
    found = re.search(r"exposure level for \S+: ([\d.]+)", shown)
    assert found, shown
    assert float(found[1]) <= EXPOSURE.get(service, EXPOSURE_OF_OTHERS), shown


def test_no_program_has_a_capability_of_its_own(installed: Machine) -> None:
    assert installed.run(["getcap", "-r", "/usr/libexec/qmaild", "/usr/bin", "/usr/sbin"]).stdout.count("qmail") == 0


def test_enabled_is_what_should_be(installed: Machine) -> None:
    wanted = installed.run("ls /etc/systemd/system/qmaild.target.wants").stdout.split()
    assert set(wanted) == {f"{unit}.socket" for unit in SOCKETS if unit not in NOT_ENABLED} | {"qmaild-smtpd-loopback.socket"}
    installed.run(["test", "-L", "/etc/systemd/system/multi-user.target.wants/qmaild.target"])


def test_the_alias_user_takes_what_belongs_to_nobody(installed: Machine) -> None:
    for name in ("root", "postmaster", "mailer-daemon"):
        assert installed.read(f"/var/lib/qmaild/alias/.qmail-{name}") == "./Maildir/\n"
    assert installed.run(["stat", "-c", "%U", "/var/lib/qmaild/alias"]).stdout == "qmaild-alias\n"
    assert "postmaster:" in installed.read("/etc/aliases")


def test_maildirmake_comes_by_alternatives(installed: Machine) -> None:
    installed.run(["su", "-s", "/bin/sh", "joe", "-c", "maildirmake /home/joe/Test"])
    installed.run(["test", "-d", "/home/joe/Test/new"])


def test_the_catalog_explains_every_event(installed: Machine) -> None:
    for event in EVENTS.values():
        shown = installed.run(["journalctl", "--dump-catalog", event.message_id]).stdout
        assert event.message_id in shown, event.name


def test_standalone_runs_from_the_package(installed: Machine) -> None:
    script = (
        "qmaild standalone /tmp/try --port=smtp=0 --port=qmqp=0 & "
        "until [ -e /tmp/try/ports ]; do sleep 0.1; done; kill -INT $!; wait $! && stat -c %u /tmp/try/run"
    )
    assert installed.run(script).stdout == "65025\n"


def test_removal_and_purge_leave_only_what_belongs_to_the_administrator(release: str, built: Build, installed: Machine) -> None:
    with Machine("purge", release, installed.network) as machine:
        before = everything(machine)
        machine.install(built.debs)
        machine.run(["apt-get", "purge", "-y", "qmaild", "qmaild-mta"])
        left = {path for path in everything(machine) - before if "qmail" in path or path == "/etc/aliases"}
    # /etc/aliases is everybody's; the accounts stay, so that no later one gets their numbers.
    assert {path for path in left if not path.startswith("/var/lib/dpkg") and "/var/log" not in path} == {"/etc/aliases"}


def everything(machine: Machine) -> set[str]:
    return set(machine.run("find / -xdev ! -path '/proc/*' ! -path '/root/debs*' ! -path '/var/cache/*'").stdout.splitlines())


def test_a_queue_with_messages_survives_a_purge(release: str, built: Build, installed: Machine) -> None:
    make = (
        "from qmaild.queue.store import Store; s = Store.open('/var/lib/qmaild/queue'); "
        "s.add(birth=1, flags=0, origin=b'', sender=b'', recipients=[b'joe@localhost'], content=b'Subject: kept\\n\\n'); "
        "s.commit(); s.close()"
    )
    with Machine("kept", release, installed.network) as machine:
        machine.install(built.debs)
        machine.run(["install", "-d", "-o", "qmaild-queue", "-g", "qmaild-queue", "-m", "700", "/var/lib/qmaild/queue"])
        machine.run(["setpriv", "--reuid=qmaild-queue", "--regid=qmaild-queue", "--clear-groups", "python3", "-c", make])
        purged = machine.run(["apt-get", "purge", "-y", "qmaild", "qmaild-mta"])
        assert "/var/lib/qmaild/queue holds messages and is kept" in purged.stdout + purged.stderr
        machine.run("grep -r -q 'Subject: kept' /var/lib/qmaild/queue")
