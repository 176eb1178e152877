"""`qmailctl trace NUMBER`: one message's life from the journal, and that of the bounces about it.

Only records of our own accounts count: a user's program inside a unit can write to the journal too, and can
give its records any field but _UID.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from qmaild.runtime import paths, running

MAX_MESSAGES = 100  # followed from one: bounces about it, and bounces about those
MAX_LINE = 1 << 20

Record = dict[str, Any]


class NoJournal(Exception):
    """The journal cannot be read; the text says why."""


class Shown(NamedTuple):
    """One line of a trace."""

    microseconds: int
    number: str
    text: str


def trace(number: str) -> int:
    """Print the life of a message. Exit status 1 if nothing is known of it, 111 if the journal cannot be read."""
    try:
        lives = list(follow(number))
    except NoJournal as error:
        print(f"qmailctl: {error}", file=sys.stderr)
        return 111
    if not lives:
        print(f"qmailctl: the journal has no records of message {number}{_hint()}", file=sys.stderr)
        return 1
    for place, (each, records) in enumerate(lives):
        if place:
            print(f"\nbounce {each}")
        print("\n".join(lines(records)))
    return 0


def follow(number: str) -> Iterator[tuple[str, list[Record]]]:
    """Yield (message number, its records in order) for the message and every bounce that its records name."""
    seen = {number}
    waiting = [number]
    while waiting:
        each = waiting.pop(0)
        records = sorted(_records(each), key=_when)
        if records:
            yield each, records
        for record in records:
            bounce = record.get("QMAILD_BOUNCE", "")
            if isinstance(bounce, str) and bounce.isdigit() and bounce not in seen and len(seen) < MAX_MESSAGES:
                seen.add(bounce)
                waiting.append(bounce)


def lines(records: list[Record]) -> Iterator[str]:
    """Yield a line for each record: when, how long after the first, which service, what happened."""
    start = _when(records[0]) if records else 0
    for record in records:
        at = datetime.fromtimestamp(_when(record) / 1e6).isoformat(" ", "milliseconds")
        service = _text(record.get("SYSLOG_IDENTIFIER")).removeprefix("qmaild-")
        yield f"{at}  +{(_when(record) - start) / 1e6:.3f}  {service:7} {_text(record.get('MESSAGE'))}"


def _when(record: Record) -> int:
    text = record.get("__REALTIME_TIMESTAMP", "0")
    return int(text) if isinstance(text, str) and text.isdigit() else 0


def _text(value: Any) -> str:
    if isinstance(value, list):  # journalctl's form for bytes that are not text
        value = bytes([byte for byte in value if byte in range(256)]).decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "?" for char in str(value or ""))


def _records(number: str) -> Iterable[Record]:
    return _standalone(number) if paths.STANDALONE else _journal(number)


def _standalone(number: str) -> Iterator[Record]:
    try:
        with open(os.path.join(paths.STANDALONE, "journal"), "rb") as file:
            while line := file.readline(MAX_LINE):
                if number.encode() in line:
                    record = _parsed(line)
                    if record.get("QMAILD_MESSAGE") == number:
                        yield record
    except FileNotFoundError:
        return
    except OSError as error:
        raise NoJournal(f"{paths.STANDALONE}/journal cannot be read: {error.strerror}") from None


def _parsed(line: bytes) -> Record:
    try:
        found = json.loads(line)
    except ValueError:  # a line that a crash has cut
        return {}
    return found if isinstance(found, dict) else {}


def our_uids() -> list[int]:
    """Return the uids of our services' accounts, as far as they exist."""
    found = []
    for name in running.SERVICES:
        try:
            found.append(pwd.getpwnam(f"qmaild-{name}").pw_uid)
        except KeyError:
            continue
    return found


def _journal(number: str) -> list[Record]:
    uids = our_uids()
    if not uids:
        raise NoJournal("the accounts of the services (qmaild-queue and its kin) do not exist here")
    matches = [f"QMAILD_MESSAGE={number}", *(f"_UID={uid}" for uid in uids)]
    try:
        done = subprocess.run(
            ["journalctl", "--output=json", "--all", "--no-pager", "--quiet", *matches], capture_output=True, check=False
        )
    except OSError as error:
        raise NoJournal(f"journalctl cannot be run: {error.strerror}") from None
    if done.returncode and done.stderr:
        raise NoJournal(f"journalctl: {done.stderr.decode(errors='replace').strip()}{_hint()}")
    return [record for record in map(_parsed, done.stdout.splitlines()) if record]


def _hint() -> str:
    if paths.STANDALONE or os.geteuid() == 0:
        return ""
    return "; it is shown to root and to members of the groups adm and systemd-journal"
