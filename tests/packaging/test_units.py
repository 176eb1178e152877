"""The unit files: the sockets of ARCHITECTURE.md, the sandbox of every service, and a reason for each loosening."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

UNITS = Path(__file__).resolve().parents[2] / "systemd"
SERVICES = ("smtpd", "qmqpd", "inject", "queue", "send", "remote", "dial", "local", "spawn", "program")


class Line(NamedTuple):
    section: str
    key: str
    value: str
    has_reason: bool  # a comment stands above the line, or above the lines it follows directly


def lines(unit: str) -> list[Line]:
    found: list[Line] = []
    section, has_reason = "", False
    for text in (UNITS / unit).read_text().splitlines():
        if text.startswith("["):
            section, has_reason = text[1:-1], False
        elif text.startswith("#"):
            has_reason = True
        elif text:
            key, _, value = text.partition("=")
            found.append(Line(section, key, value, has_reason))
        else:
            has_reason = False
    return found


def settings(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines(unit):
        found.setdefault(line.key, []).append(line.value)
    return found


# unit: (FileDescriptorName, ListenStream, SocketUser, SocketGroup, SocketMode, service)
RUN = "/run/qmaild"
SOCKETS: dict[str, tuple[str, list[str], str | None, str | None, str | None, str]] = {
    "qmaild-smtpd": ("smtp", ["25"], None, None, None, "smtpd"),
    "qmaild-smtpd-loopback": ("smtp", ["127.0.0.1:25", "[::1]:25"], None, None, None, "smtpd"),
    "qmaild-qmqpd": ("qmqp", ["628"], None, None, None, "qmqpd"),
    "qmaild-inject": ("inject", [f"{RUN}/inject.sock"], None, None, "0666", "inject"),
    "qmaild-queue": ("intake", [f"{RUN}/intake.sock"], "qmaild-queue", "qmaild-intake", "0660", "queue"),
    "qmaild-send": ("manage", [f"{RUN}/manage.sock"], "qmaild-queue", None, "0600", "send"),
    "qmaild-remote": ("remote", [f"{RUN}/remote.sock"], "qmaild-send", None, "0600", "remote"),
    "qmaild-dial": ("dial", [f"{RUN}/dial.sock"], "qmaild-remote", None, "0600", "dial"),
    "qmaild-local": ("local", [f"{RUN}/local.sock"], "qmaild-send", None, "0600", "local"),
    "qmaild-local-lookup": ("lookup", [f"{RUN}/lookup.sock"], "qmaild-local", "qmaild-lookup", "0660", "local"),
    "qmaild-spawn": ("spawn", [f"{RUN}/spawn.sock"], "qmaild-local", None, "0600", "spawn"),
    "qmaild-program": ("program", [f"{RUN}/program.sock"], "qmaild-local", None, "0600", "program"),
    **{
        f"qmaild-{name}-control": ("control", [f"{RUN}/control/{name}.sock"], f"qmaild-{name}", "qmaild-admin", "0660", name)
        for name in SERVICES
    },
}  # fmt: skip

# Where a service may differ from the strictest: its powers.
STRICT = {
    "NoNewPrivileges": ["yes"], "ProtectSystem": ["strict"], "ProtectHome": ["yes"], "PrivateTmp": ["yes"],
    "PrivateDevices": ["yes"], "PrivateMounts": ["yes"], "PrivateIPC": ["yes"], "PrivateUsers": ["yes"],
    "ProtectProc": ["invisible"], "ProcSubset": ["pid"], "ProtectClock": ["yes"], "ProtectHostname": ["yes"],
    "ProtectKernelLogs": ["yes"], "ProtectKernelModules": ["yes"], "ProtectKernelTunables": ["yes"],
    "ProtectControlGroups": ["yes"], "DevicePolicy": ["closed"], "LockPersonality": ["yes"],
    "MemoryDenyWriteExecute": ["yes"], "RestrictNamespaces": ["yes"], "RestrictRealtime": ["yes"],
    "RestrictSUIDSGID": ["yes"], "RemoveIPC": ["yes"], "KeyringMode": ["private"], "UMask": ["0077"],
    "CapabilityBoundingSet": [""], "AmbientCapabilities": [""], "SystemCallArchitectures": ["native"],
    "SystemCallErrorNumber": ["EPERM"],
    "SystemCallFilter": ["@system-service", "~@privileged @resources"],
    "PrivateNetwork": ["yes"], "IPAddressDeny": ["any"], "RestrictAddressFamilies": ["AF_UNIX"],
}  # fmt: skip
POWERS = ["CAP_SETUID CAP_SETGID"]
HOMES = ["-/home -/var/mail -/var/lib/qmaild/alias"]
LOOSENED: dict[str, dict[str, list[str] | None]] = {
    "inject": {"PrivateUsers": ["no"]},
    "queue": {"PrivateUsers": ["no"], "StateDirectory": ["qmaild/queue"]},
    "dial": {"PrivateNetwork": ["no"], "IPAddressDeny": None, "RestrictAddressFamilies": ["AF_UNIX AF_INET AF_INET6"]},
    "spawn": {
        "PrivateUsers": ["no"], "ProtectHome": ["no"], "ReadWritePaths": HOMES,
        "CapabilityBoundingSet": POWERS, "AmbientCapabilities": POWERS,
        "SystemCallFilter": ["@system-service", "~@privileged @resources", "@setuid capset"],
    },
    "program": {
        "PrivateUsers": ["no"], "ProtectHome": ["no"], "ReadWritePaths": HOMES,
        "CapabilityBoundingSet": POWERS, "AmbientCapabilities": POWERS,
        "SystemCallFilter": ["@system-service", "~@privileged", "@setuid capset @chown"],
        "ProcSubset": ["all"], "MemoryDenyWriteExecute": ["no"],
        "PrivateNetwork": ["no"], "IPAddressDeny": None,
        "RestrictAddressFamilies": ["AF_UNIX AF_INET AF_INET6 AF_NETLINK"],
    },
}  # fmt: skip
# Not part of a sandbox, but a power all the same.
GRANTS = {"ReadWritePaths", "StateDirectory", "RuntimeDirectory", "CacheDirectory", "LogsDirectory", "BindPaths", "ExecPaths"}


def test_the_sockets_are_those_of_the_table() -> None:
    assert {path.stem for path in UNITS.glob("*.socket")} == set(SOCKETS)


@pytest.mark.parametrize("unit", SOCKETS)
def test_a_socket_has_its_place_owner_and_mode(unit: str) -> None:
    name, addresses, user, group, mode, service = SOCKETS[unit]
    found = settings(f"{unit}.socket")
    assert found["FileDescriptorName"] == [name]
    assert found["ListenStream"] == addresses
    assert found["Service"] == [f"qmaild-{service}.service"]
    assert found.get("SocketUser") == (user and [user])
    assert found.get("SocketGroup") == (group and [group])
    assert found.get("SocketMode") == (mode and [mode])
    assert found.get("DirectoryMode") == (mode and ["0755"])


@pytest.mark.parametrize("unit", SOCKETS)
def test_a_crash_loop_never_closes_a_door(unit: str) -> None:
    assert settings(f"{unit}.socket")["TriggerLimitIntervalSec"] == ["0"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_its_own_user_and_is_restarted_watched_and_told_apart(service: str) -> None:
    found = settings(f"qmaild-{service}.service")
    assert found["User"] == [f"qmaild-{service}"]
    assert found["ExecStart"] == [f"/usr/bin/python3 -I -m qmaild.services.{service}"]
    assert found["ExecReload"] == [f"/usr/bin/qmailctl reload {service}"]
    assert found["Type"] == ["notify"]
    assert found["Restart"] == ["on-failure"]
    assert found["StartLimitIntervalSec"] == ["0"]
    assert found["LogRateLimitIntervalSec"] == ["0"]
    assert found["LimitNOFILE"] == ["65536"]
    assert "WatchdogSec" in found
    assert "RuntimeDirectory" not in found  # it would take everybody's sockets along


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_brings_up_all_its_sockets_with_it(service: str) -> None:
    ours = {f"{unit}.socket" for unit, row in SOCKETS.items() if row[5] == service}
    named = set(settings(f"qmaild-{service}.service")["Sockets"][0].split())
    network = {unit for unit in ours if settings(unit)["ListenStream"][0][0] not in "/"}
    assert named == ours - network


@pytest.mark.parametrize("service", SERVICES)
def test_a_sandbox_is_the_strictest_but_for_the_listed_powers(service: str) -> None:
    found = settings(f"qmaild-{service}.service")
    wanted: dict[str, list[str] | None] = {**STRICT}
    wanted.update(LOOSENED.get(service, {}))
    kept = {key: values for key, values in found.items() if key in STRICT or key in GRANTS}
    assert kept == {key: values for key, values in wanted.items() if values is not None}


@pytest.mark.parametrize("service", LOOSENED)
def test_each_loosening_has_a_reason_above_it(service: str) -> None:
    found = lines(f"qmaild-{service}.service")
    for key, values in LOOSENED[service].items():
        for line in found:
            if line.key == key and values and line.value not in STRICT.get(key, []):
                assert line.has_reason, f"{service}: {key}={line.value}"


def test_the_target_holds_every_unit_and_wants_the_queue() -> None:
    assert settings("qmaild.target")["Wants"] == ["qmaild-queue.service"]
    for path in UNITS.glob("qmaild-*"):
        assert settings(path.name)["PartOf"] == ["qmaild.target"], path.name


def test_two_sockets_for_port_25_conflict() -> None:
    assert settings("qmaild-smtpd.socket")["Conflicts"] == ["qmaild-smtpd-loopback.socket"]
    assert settings("qmaild-smtpd-loopback.socket")["Conflicts"] == ["qmaild-smtpd.socket"]


def test_every_account_of_a_unit_is_made_by_sysusers() -> None:
    made = re.findall(r"(?m)^[ug]\s+(\S+)", (UNITS.parent / "packaging/sysusers.d/qmaild.conf").read_text())
    used = {"qmaild-alias"}
    for path in UNITS.glob("qmaild-*"):
        for line in lines(path.name):
            if line.key in ("User", "SocketUser", "SocketGroup", "SupplementaryGroups"):
                used.update(line.value.split())
    assert used == set(made)


def test_every_manual_page_that_a_unit_names_is_there(tmp_path: Path) -> None:
    subprocess.run([sys.executable, UNITS.parent / "packaging/generate.py", tmp_path], check=True)
    pages = {path.name for path in (*(tmp_path / "man").iterdir(), *(UNITS.parent / "packaging/man").iterdir())}
    for path in UNITS.iterdir():
        for value in settings(path.name)["Documentation"]:
            name, section = re.fullmatch(r"man:([\w.-]+)\((\d)\)", value).groups()  # type: ignore[union-attr]
            assert f"{name}.{section}" in pages, path.name
