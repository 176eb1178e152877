"""The unit files as standalone reads them: which sockets and programs there are. Knows no process.

systemd reads the same files, so that what is tried standalone and what is installed are made of the same
parts. Only what a supervisor without systemd can do is read; the sandbox is not.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

RUN = "/run/qmaild/"  # what standalone moves to its own directory
UNIT_PLACES = ("/usr/lib/systemd/system", "/lib/systemd/system")  # where packages put units

Section = dict[str, list[str]]


class UnitError(ValueError):
    """A unit file is not what standalone can run; the text names it and says why."""


class SocketUnit(NamedTuple):
    """One socket. Either port (under systemd) or path (its name below the run directory) is set."""

    name: str  # FileDescriptorName=
    service: str  # `smtpd`, without prefix and suffix
    port: int
    path: str
    mode: int
    backlog: int


class Program(NamedTuple):
    """One service: what runs, and how it is ended and begun again."""

    name: str
    module: str
    restart_seconds: float
    stop_seconds: float
    has_state: bool  # StateDirectory=: it gets the queue's directory
    files: int  # LimitNOFILE=
    is_wanted: bool  # started at once, not by the first connection


def find(tree: Path) -> Path:
    """Return the folder of the unit files: beside the package, in it (pip), or where packages go."""
    for folder in (tree / "systemd", tree / "qmaild/units", *map(Path, UNIT_PLACES)):
        if (folder / "qmaild.target").is_file():
            return folder
    raise UnitError(f"no qmaild.target in {tree}/systemd, {tree}/qmaild/units or {', '.join(UNIT_PLACES)}")


def read(folder: Path) -> tuple[list[SocketUnit], list[Program]]:
    """Return every socket (once each: two units may offer a service in two places) and every program."""
    wanted = _words(_parse(folder / "qmaild.target"), "Unit", "Wants")
    programs = [_program(path, path.name in wanted) for path in sorted(folder.glob("qmaild-*.service"))]
    sockets: dict[tuple[str, str, str], SocketUnit] = {}
    for path in sorted(folder.glob("qmaild-*.socket")):
        for unit in _sockets(path):
            sockets.setdefault((unit.service, unit.name, unit.path), unit)
    missing = {unit.service for unit in sockets.values()} - {program.name for program in programs}
    if missing:
        raise UnitError(f"{folder}: sockets name services that are not there: {', '.join(sorted(missing))}")
    return list(sockets.values()), programs


def _parse(path: Path) -> dict[str, Section]:
    """Return section → key → values. An empty value forgets the earlier ones, as in systemd."""
    sections: dict[str, Section] = {}
    keys: Section = {}
    for number, text in enumerate(path.read_text().splitlines(), 1):
        line = text.strip()
        if not line or line[0] in "#;":
            continue
        if line[0] == "[" and line[-1] == "]":
            keys = sections.setdefault(line[1:-1], {})
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise UnitError(f"{path}:{number}: expected KEY=VALUE")
        values = keys.setdefault(key.strip(), [])
        if value.strip():
            values.append(value.strip())
        else:
            values.clear()
    return sections


def _words(sections: dict[str, Section], section: str, key: str) -> list[str]:
    return [word for value in sections.get(section, {}).get(key, []) for word in value.split()]


def _last(sections: dict[str, Section], section: str, key: str, default: str) -> str:
    values = sections.get(section, {}).get(key)
    return values[-1] if values else default


_SPAN = re.compile(r"(\d+)\s*(ms|s|min|)")
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "": 1.0}


def _seconds(path: Path, sections: dict[str, Section], key: str, default: str) -> float:
    found = _SPAN.fullmatch(_last(sections, "Service", key, default))
    if not found:
        raise UnitError(f"{path}: expected {key}= to be seconds, or a number with ms, s or min")
    return int(found[1]) * _SECONDS[found[2]]


def _sockets(path: Path) -> list[SocketUnit]:
    sections = _parse(path)
    service = _last(sections, "Socket", "Service", path.stem + ".service")
    name = _last(sections, "Socket", "FileDescriptorName", path.name)
    mode = int(_last(sections, "Socket", "SocketMode", "0666"), 8)
    backlog = int(_last(sections, "Socket", "Backlog", "1024"))
    found = []
    for address in _words(sections, "Socket", "ListenStream"):
        port = address.rpartition(":")[2]
        if port.isdigit():
            place = int(port), ""
        elif address.startswith(RUN):
            place = 0, address.removeprefix(RUN)
        else:
            raise UnitError(f"{path}: expected ListenStream= to be a port or below {RUN}, not {address}")
        found.append(SocketUnit(name, _name_of(service), *place, mode, backlog))
    return found


def _program(path: Path, is_wanted: bool) -> Program:
    sections = _parse(path)
    words = _words(sections, "Service", "ExecStart")
    if words[:3] != ["/usr/bin/python3", "-I", "-m"] or len(words) != 4:
        raise UnitError(f"{path}: expected ExecStart=/usr/bin/python3 -I -m MODULE")
    return Program(
        _name_of(path.name), words[3],
        restart_seconds=_seconds(path, sections, "RestartSec", "100ms"),
        stop_seconds=_seconds(path, sections, "TimeoutStopSec", "90"),
        has_state=bool(_words(sections, "Service", "StateDirectory")),
        files=int(_last(sections, "Service", "LimitNOFILE", "1024")),
        is_wanted=is_wanted,
    )  # fmt: skip


def _name_of(unit: str) -> str:
    return unit.removeprefix("qmaild-").removesuffix(".service")
