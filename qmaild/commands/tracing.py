"""`qmailctl trace NUMBER`: one message's life from the journal, and that of its bounces and forwards.

Only records of our own accounts count: a user's program inside a unit can write to the journal too, and can
give its records any field but _UID.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from qmaild.runtime import paths, running

MAX_MESSAGES = 100  # followed from one: its bounces and forwards, and theirs
_FORWARDED = re.compile(r"\bqp (\d{1,20})\b")  # what local says of a forward that it put in the queue
MAX_LINE = 1 << 20

Record = dict[str, Any]


class NoJournal(Exception):
    """The journal cannot be read; the text says why."""


class Life(NamedTuple):
    """One message's records in order. how: "" for the one that was asked for, else bounce or forward."""

    number: str
    how: str
    records: list[Record]


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
    for life in lives:
        if life.how:
            print(f"\n{life.how} {life.number}")
        print("\n".join(lines(life.records)))
    return 0


def follow(number: str) -> Iterator[Life]:
    """Yield the life of the message, then those of every bounce and forward that the records name."""
    seen = {number}
    waiting = [(number, "")]
    while waiting:
        each, how = waiting.pop(0)
        records = sorted(_records(each), key=_when)
        if records:
            yield Life(each, how, records)
        for other, became in _others(records):
            if other not in seen and len(seen) < MAX_MESSAGES:
                seen.add(other)
                waiting.append((other, became))


def _others(records: list[Record]) -> Iterator[tuple[str, str]]:
    """Yield (number, how it came about) of the messages that these records name."""
    for record in records:
        bounce = _text(record.get("QMAILD_BOUNCE"))
        if bounce.isdigit():
            yield bounce, "bounce"
        # Another qmail says `qp` as well, of its own queue: only what happened here counts.
        if record.get("QMAILD_CHANNEL") == "local" and record.get("QMAILD_OUTCOME") == "success":
            for found in _FORWARDED.finditer(_text(record.get("QMAILD_TEXT"))):
                yield found.group(1), "forward"


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
