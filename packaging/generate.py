"""Writes what the tables of settings and events say for people: manual pages and the journal catalog.

Usage: generate.py DIRECTORY. Makes DIRECTORY/qmaild.catalog and DIRECTORY/man/*.5 and *.8 (settings, one page per
service). The pages of programs are written by hand, in man/ beside this file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from qmaild.control import events, kinds, settings  # noqa: E402

RELEASE = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
VERSION = RELEASE.group(1) if RELEASE else ""

FORMS = {
    kinds.line: "text in the first line",
    kinds.host: "a host name in the first line",
    kinds.integer: "a whole number in the first line",
    kinds.names: "one name a line",
    kinds.mapping: "key:value lines",
    kinds.routes: "key:value lines",
    kinds.networks: "an address or network (192.0.2.0/24, 2001:db8::/32) a line",
    kinds.text: "the whole file, as it is",
}


class Service(NamedTuple):
    """What a service's page says. sockets: where it is asked; asks: whom it asks."""

    does: str
    sockets: str
    asks: str
    more: str
    stops: str = "five seconds"


DOOR_STOPS = "five seconds, or twelve while a message is under way"

SERVICES = {
    "smtpd": Service("SMTP server", "TCP port 25", "queue, local",
        "It speaks SMTP with clients, refuses what is not for this host (rcpthosts) unless the client is in relayclients, "
        "asks qmaild-local whether a recipient exists, and says 250 only when the queue has the message on disk. "
        "Which addresses port 25 is open on is chosen with `qmailctl listen`.", DOOR_STOPS),
    "qmqpd": Service("QMQP server", "TCP port 628, closed as installed", "queue",
        "It takes messages by QMQP from the clients in qmqpclients and from nobody else. "
        "systemctl enable --now qmaild-qmqpd.socket opens the port.", DOOR_STOPS),
    "inject": Service("door for local programs", "/run/qmaild/inject.sock, open to every user", "queue, local",
        "sendmail(8), qmail-inject(8), qmail-queue(8), mailq(1) and newaliases(1) are one small client of this service. The "
        "kernel tells it who the client is; none of the programs is set-user-ID or set-group-ID. Twenty messages of "
        "one user are worked on at a time, the next ones wait."),
    "queue": Service("durable queue", "/run/qmaild/intake.sock, group qmaild-intake", "send",
        "It alone writes /var/lib/qmaild/queue. A message is acknowledged when it has been synced to the disk; "
        "whatever arrived during one sync is committed by the next. It stays while any message is pending."),
    "send": Service("scheduler", "/run/qmaild/manage.sock, user qmaild-queue", "local, remote",
        "It decides from the current control files where each recipient goes, how many deliveries run at a time, when a "
        "delivery is tried again, and writes the bounces."),
    "remote": Service("SMTP and LMTP client", "/run/qmaild/remote.sock, user qmaild-send", "dial",
        "It delivers to other hosts on connected sockets that qmaild-dial hands over. It has no network of its own."),
    "dial": Service("resolver and dialer", "/run/qmaild/dial.sock, user qmaild-remote", "the network",
        "It alone opens connections and asks DNS. It takes purposes, not addresses: the mail hosts of a domain, or a route "
        "of smtproutes that it reads itself. It never sees a message."),
    "local": Service("local delivery", "/run/qmaild/local.sock, user qmaild-send; /run/qmaild/lookup.sock, group qmaild-lookup",
        "spawn, program, queue",
        "It finds the user or alias a local recipient belongs to and has the delivery done by a process of that user."),
    "spawn": Service("processes of users", "/run/qmaild/spawn.sock, user qmaild-local", "nobody",
        "It becomes the user that qmaild-local names and then delivers to maildirs, mbox files and forwards, by the user's "
        ".qmail file. It never becomes root or an account of the system that systemusers does not list. Homes outside /home "
        "need a drop-in with ReadWritePaths=; `qmailctl config` names them."),
    "program": Service("processes of users for program lines", "/run/qmaild/program.sock, user qmaild-local", "nobody",
        "The same as qmaild-spawn in a looser sandbox: started when a .qmail file or alias first runs a program."),
}  # fmt: skip


def escape(text: str) -> str:
    """Return text as roff shows it unchanged."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in text.split("\n"))


def head(name: str, section: int, line: str) -> str:
    return (f'.\\" Made by packaging/generate.py.\n.TH {name.upper()} {section} "" "qmaild {VERSION}" "qmaild"\n'
            f".SH NAME\n{name} \\- {escape(line)}\n")  # fmt: skip


def control_page() -> str:
    """qmaild-control(5)."""
    parts = [
        head("qmaild-control", 5, "control files of the qmaild mail server"),
        ".SH DESCRIPTION\nThe settings of\n.BR qmaild (7)\nare files in\n.IR /etc/qmaild/control ,\n"
        "one setting a file, as in qmail. A setting whose file does not exist has its default. In files of lists, blank lines "
        "and lines that begin with # do not count.\n.PP\n"
        "A change takes effect with\n.BR \"qmailctl reload\" ,\n"
        "which checks all files first: one error, and nothing changes. A service does not start while a file has an error. "
        "Both name the file, the line and what was expected.\n.B \"qmailctl config\"\nshows all values.\n.SH FILES\n",
    ]  # fmt: skip
    for name, row in settings.TABLE.items():
        readers = "all services" if row.readers == ("*",) else ", ".join(f"qmaild-{reader}" for reader in row.readers)
        default = "empty" if not row.default_text else row.default_text
        parts.append(
            f".TP\n.B {escape(name)}\n{escape(row.doc)}\n"
            f"Form: {escape(FORMS[row.kind])}. Default: {escape(default)}. Read by {escape(readers)}.\n"
        )
    for name, text in settings.COMPANIONS.items():
        parts.append(f".TP\n.BR {escape(name)}\n{escape(text)}\n")
    parts.append(".SH SEE ALSO\n.BR qmaild (7),\n.BR qmailctl (8),\n.BR qmail\\-newmrh (8)\n")
    return "".join(parts)


def service_page(name: str, service: Service) -> str:
    """qmaild-NAME(8)."""
    read = [key for key, row in settings.TABLE.items() if name in row.readers or row.readers == ("*",)]
    references = "\n".join(f".BR {escape(key)} ," for key in read[:-1]) + f"\n.BR {escape(read[-1])} .\n"
    return "".join([
        head(f"qmaild-{name}", 8, f"{service.does} of the qmaild mail server"),
        f".SH SYNOPSIS\n.I qmaild-{escape(name)}.service\n",
        f".SH DESCRIPTION\n{escape(service.more)}\n.PP\nIt is started by systemd when somebody connects to it, runs as user\n"
        f".BR qmaild\\-{escape(name)} ,\nand ends when it has had nothing to do for a while\n.RB ( idleexit ).\n",
        f".SH CONNECTIONS\nServes: {escape(service.sockets)}; "
        f"/run/qmaild/control/{escape(name)}.sock, group qmaild\\-admin.\n.br\nAsks: {escape(service.asks)}.\n",
        f".SH CONTROL FILES\n{references}See\n.BR qmaild\\-control (5).\n",
        f".SH SIGNALS\nSIGTERM ends it within {service.stops}; what had no answer by then is done again later.\n",
        ".SH EXIT STATUS\n0 when idle or told to stop, 111 when it cannot serve: its status line and the journal say why, and "
        "systemd tries again.\n",
        ".SH SEE ALSO\n.BR qmaild (7),\n.BR qmaild\\-control (5),\n.BR qmailctl (8)\n",
    ])  # fmt: skip


def catalog() -> Iterator[str]:
    """The journal catalog: one entry an event."""
    for event in events.EVENTS.values():
        subject = event.name if "message" not in event.fields else f"{event.name}: message @QMAILD_MESSAGE@"
        yield (f"-- {event.message_id}\nSubject: qmaild {subject}\nDefined-By: qmaild\n"
               f"Documentation: man:qmailctl(8)\n\n{event.explanation}\n\n")  # fmt: skip


def write(directory: Path) -> None:
    """Write everything below `directory`."""
    pages = directory / "man"
    pages.mkdir(parents=True, exist_ok=True)
    (pages / "qmaild-control.5").write_text(control_page())
    for name, service in SERVICES.items():
        (pages / f"qmaild-{name}.8").write_text(service_page(name, service))
    (directory / "qmaild.catalog").write_text("".join(catalog()))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: generate.py DIRECTORY")
    write(Path(sys.argv[1]))
