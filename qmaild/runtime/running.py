"""Which services run, and what systemd says of them. Knows systemctl's words and, standalone, the process table."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from typing import NamedTuple

from qmaild.runtime import paths

SERVICES = ("smtpd", "qmqpd", "inject", "queue", "send", "remote", "dial", "local", "spawn", "program")
SYSTEMCTL_SECONDS = 120.0


class SystemctlError(Exception):
    """systemctl did not do what it was told; the text is its own."""


class Unit(NamedTuple):
    """active: systemd's word (active, inactive, failed, activating ...); text: the service's own status line."""

    name: str
    active: str
    text: str

    @property
    def is_running(self) -> bool:
        return self.active in ("active", "reloading")


def shown(text: str) -> str:
    """Return text of a service as it may reach an administrator's terminal: lines, and nothing that steers it.

    Most services parse strangers' bytes: what one of them has become is not trusted with a terminal of root.
    """
    return "\n".join([line if line.isprintable() else _tamed(line) for line in text.split("\n")])


def _tamed(line: str) -> str:
    return "".join([char if char.isprintable() else "?" for char in line])


def has_systemd() -> bool:
    """Whether systemd runs this machine (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system")


def systemctl(*words: str) -> str:
    """Run systemctl and return what it prints. SystemctlError if it fails."""
    try:
        done = subprocess.run(
            ["systemctl", *words], capture_output=True, text=True, errors="replace", timeout=SYSTEMCTL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemctlError(f"systemctl {words[0]}: {error}") from None
    if done.returncode:
        raise SystemctlError(done.stderr.strip() or f"systemctl {' '.join(words)} ended with {done.returncode}")
    return done.stdout


def services() -> list[Unit]:
    """Return every service and its state."""
    if paths.STANDALONE:
        running = _standalone()
        return [Unit(name, "active" if name in running else "inactive", "") for name in SERVICES]
    found = units(f"qmaild-{name}.service" for name in SERVICES)
    return [unit._replace(name=name) for name, unit in zip(SERVICES, found, strict=True)]


def units(names: Iterable[str]) -> list[Unit]:
    """Ask systemd for these units, in order."""
    wanted = list(names)
    text = systemctl("show", "--property=Id,ActiveState,StatusText", *wanted)
    found = []
    for name, block in zip(wanted, text.strip().split("\n\n"), strict=True):
        values = dict(line.partition("=")[::2] for line in block.splitlines())
        found.append(Unit(name, values.get("ActiveState", "unknown"), shown(values.get("StatusText", ""))))
    return found


def is_installed(unit: str) -> bool:
    """Whether systemd knows this unit."""
    return systemctl("show", "--property=LoadState", "--value", unit).strip() != "not-found"


def _standalone() -> set[str]:
    """Return the services of this tree that run, by their arguments and variables."""
    found = set()
    mark = b"QMAILD_STANDALONE=" + os.fsencode(paths.STANDALONE)
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                words = file.read(4096).split(b"\0")
            name = next((word[16:].decode() for word in words if word.startswith(b"qmaild.services.")), "")
            if not name:
                continue
            with open(f"/proc/{entry}/environ", "rb") as file:
                if mark in file.read(65536).split(b"\0"):
                    found.add(name)
        except OSError:  # it has ended, or is somebody else's
            continue
    return found
