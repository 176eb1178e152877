"""`qmailctl config`: every setting, its value, where it comes from, and what is wrong."""

from __future__ import annotations

import ipaddress
import json
import os
import pwd
import sys
from collections.abc import Mapping
from typing import Any

from qmaild.control.settings import COMPANIONS, TABLE, Settings, parse
from qmaild.runtime import controls, paths

MIN_USER = 1000  # below are accounts of the system: they receive nothing unless listed (rule 1)
MAX_USER = 59999  # Debian's last uid for people
WRITABLE_HOMES = ("/home/", "/var/mail/")  # ReadWritePaths= of qmaild-spawn.service


def plain(value: Any) -> Any:
    """Return a setting's value as JSON knows it: text, number, list, object or null."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return str(value)
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(each) for key, each in sorted(value.items())}
    if isinstance(value, frozenset):
        return sorted(plain(each) for each in value)
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    return value


def shown(value: Any) -> str:
    """Return a setting's value as one line."""
    known = plain(value)
    if known is None:
        return "(none)"
    if isinstance(known, dict):
        known = [f"{key}:{each}" for key, each in known.items()]
    if isinstance(known, list):
        return " ".join(known) or "(none)"
    return str(known).strip().replace("\n", " / ") or "(empty)"


def outside(accounts: list[pwd.struct_passwd]) -> list[tuple[str, str]]:
    """Return (name, home) of the people whose home no delivery may write, by the unit as it is packaged."""
    return [
        (account.pw_name, account.pw_dir) for account in accounts
        if MIN_USER <= account.pw_uid <= MAX_USER and not account.pw_dir.startswith(WRITABLE_HOMES)
    ]  # fmt: skip


def unknown_files() -> list[str]:
    """Return the control files that no setting has: a misspelt name, or one of qmail's that has no meaning here."""
    try:
        names = sorted(os.listdir(paths.CONTROL))
    except OSError:
        return []
    return [name for name in names if name not in TABLE and name not in COMPANIONS and not name.startswith(".")]


def stale_files() -> list[tuple[str, str]]:
    """Return (file, program) for what a program makes of a text that has changed since."""
    made = (
        (f"{paths.CONTROL}/morercpthosts", f"{paths.CONTROL}/morercpthosts.cdb", "qmail-newmrh"),
        (f"{paths.USERS}/assign", f"{paths.USERS}/cdb", "qmail-newu"),
    )
    return [(result, program) for source, result, program in made if _changed(source) > _changed(result)]


def _changed(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def show(as_json: bool) -> int:
    """Print everything. Exit status 1 if any file has an error."""
    files, problems = controls.read_files()
    settings, more = parse(files, controls.host_name())
    problems = problems + more
    wrong = {problem.file for problem in problems}
    homes = [] if paths.STANDALONE else outside(pwd.getpwall())
    if as_json:
        print(json.dumps({
            "settings": {
                name: {"value": plain(getattr(settings, name)), "from": _source(name, files, wrong)} for name in TABLE
            },
            "errors": [
                {"file": f"{paths.CONTROL}/{problem.file}", "line": problem.line, "expected": problem.expected}
                for problem in problems
            ],
            "unknown": unknown_files(),
            "stale": [{"file": file, "made_by": program} for file, program in stale_files()],
            "homes_outside": [{"user": user, "home": home} for user, home in homes],
        }, indent=1))  # fmt: skip
    else:
        _print(settings, files, wrong)
        for name in unknown_files():
            print(f"{paths.CONTROL}/{name}: warning: no setting has this name", file=sys.stderr)
        for file, program in stale_files():
            print(f"{file}: warning: older than what it is made of: qmaild {program} makes it anew", file=sys.stderr)
        for user, home in homes:
            print(f"warning: deliveries may not write the home of {user} ({home}): name it in a drop-in with "
                  "ReadWritePaths= for qmaild-spawn.service and qmaild-program.service", file=sys.stderr)  # fmt: skip
        for problem in problems:
            print(f"{paths.CONTROL}/{problem}", file=sys.stderr)
    return 1 if problems else 0


def _source(name: str, files: Mapping[str, bytes], wrong: set[str]) -> str:
    if name in wrong:
        return "error"
    return "file" if name in files else "default"


def _print(settings: Settings, files: Mapping[str, bytes], wrong: set[str]) -> None:
    for name in TABLE:
        print(f"{name:22} {_source(name, files, wrong):8} {shown(getattr(settings, name))}")
