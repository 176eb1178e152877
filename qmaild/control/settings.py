"""The one table of settings: name, kind, default, readers, documentation. Parsers, manual and checks come from it.

Knows bytes and values; where the files are and how they are read is runtime/controls.py's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from qmaild.control import kinds
from qmaild.control.kinds import Network

Default = Callable[[dict[str, Any]], Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One error in a control file, told as file, line and what was expected."""

    file: str
    line: int
    expected: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: expected {self.expected}"


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    kind: kinds.Kind
    default: Default
    default_text: str
    readers: tuple[str, ...]
    doc: str


def setting(kind: kinds.Kind, default: Any, readers: str, doc: str, default_text: str = "") -> Any:
    make: Default = default if callable(default) else lambda settings: default
    simple = str(default) if isinstance(default, int) else default.decode() if isinstance(default, bytes) else "none"
    shown = default_text or simple
    return dataclasses.field(metadata={"row": Row(kind, make, shown, tuple(readers.split()), doc)})


def _me(settings: dict[str, Any]) -> bytes:
    return bytes(settings["me"])


def _local_names(settings: dict[str, Any]) -> frozenset[bytes]:
    return frozenset({settings["me"].lower(), b"localhost"})


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """The effective value of every control file. A field is the file of that name in the control directory."""

    me: bytes = setting(kinds.host, lambda settings: settings["me"], "*",
        "The fully qualified name of this host, default of many others.", "/etc/mailname, else the host's own name")  # fmt: skip
    # --- what is ours
    locals: frozenset[bytes] = setting(kinds.names, _local_names, "send queue smtpd local inject",
        "Domains whose local parts are users of this host.", "me and localhost")  # fmt: skip
    virtualdomains: dict[bytes, bytes] = setting(kinds.mapping, {}, "send queue smtpd local inject",
        "domain:prefix, user@domain:prefix, .suffix:prefix or :prefix; an empty prefix is an exception.")  # fmt: skip
    percenthack: frozenset[bytes] = setting(kinds.names, frozenset(), "send queue smtpd local inject",
        "Domains where user%host@domain means user@host.")  # fmt: skip
    envnoathost: bytes = setting(kinds.host, _me, "send queue smtpd local inject", "Added to recipients without @.", "me")
    # --- the SMTP server
    rcpthosts: frozenset[bytes] | None = setting(kinds.names, None, "smtpd",
        "Domains accepted from strangers, .suffix for subdomains; morercpthosts.cdb goes on with them. Differs: when it is "
        "missing, locals and virtualdomains are accepted and nothing else.", "locals and virtualdomains")  # fmt: skip
    relayclients: tuple[Network, ...] = setting(kinds.networks,
        lambda settings: kinds.networks(b"127.0.0.0/8\n::1\n"), "smtpd",
        "Client networks that may send to any domain (qmail's RELAYCLIENT).", "127.0.0.0/8 and ::1")  # fmt: skip
    badmailfrom: frozenset[bytes] = setting(kinds.names, frozenset(), "smtpd",
        "Reverse-paths refused at RCPT: user@host or @host.")  # fmt: skip
    databytes: int = setting(kinds.integer, 52428800, "smtpd qmqpd inject queue",
        "Largest message in bytes; 0 is no limit. Differs: qmail's default is no limit.")  # fmt: skip
    maxrecipients: int = setting(kinds.integer, 1000, "smtpd inject", "Recipients of one SMTP transaction.")
    maxhops: int = setting(kinds.integer, 100, "smtpd qmqpd inject", "Received and Delivered-To fields a message may carry.")
    smtpgreeting: bytes = setting(kinds.line, _me, "smtpd inject", "Text after 220 and 221; begins with the host's name.", "me")
    localiphost: bytes = setting(kinds.host, _me, "smtpd", "Replaces [our address] in recipients.", "me")
    timeoutsmtpd: int = setting(kinds.integer, 300, "smtpd qmqpd",
        "Seconds in which a client must complete its next command; parts of one gain no time, nor does a message that "
        "comes at less than 100 bytes a second. Differs: 1200 in qmail; RFC 5321 4.5.3.2 asks for 300.")  # fmt: skip
    concurrencyincoming: int = setting(kinds.integer, 1000, "smtpd qmqpd",
        "SMTP (QMQP) sessions at a time; one takes 5 kB of memory. With all taken, an SMTP session that got nowhere for ten "
        "seconds gives way to a new one, else one of the client that has most; clients in relayclients keep theirs.")  # fmt: skip
    clientconcurrency: int = setting(kinds.integer, 50, "smtpd qmqpd",
        "Sessions at a time from one IPv4 address or IPv6 /64; networks in relayclients have no such limit.")  # fmt: skip
    smtpdworkers: int = setting(kinds.integer, 0, "smtpd", "SMTP server processes; 0 is one for every four processors.")
    qmqpclients: tuple[Network, ...] = setting(kinds.networks, (), "qmqpd", "Client networks that may use QMQP. None by default.")
    # --- scheduling
    queueonly: int = setting(kinds.integer, 0, "queue",
        "1: accept mail and keep it, deliver nothing until this is 0 again.")  # fmt: skip
    concurrencylocal: int = setting(kinds.integer, 200, "send",
        "Local deliveries at a time; 0 holds the channel. Differs: 10 in qmail, where each is a process.")  # fmt: skip
    concurrencyremote: int = setting(kinds.integer, 100, "send remote",
        "Remote deliveries at a time; 0 holds the channel. Differs: 20 in qmail, where each is a process.")  # fmt: skip
    destinationconcurrency: int = setting(kinds.integer, 20, "send",
        "Deliveries at a time to one destination at the most; each begins with 5 and gets more while they succeed.")  # fmt: skip
    queuelifetime: int = setting(kinds.integer, 604800, "send", "Seconds a message is tried before it bounces.")
    bouncefrom: bytes = setting(kinds.line, b"MAILER-DAEMON", "send", "Local part that bounces come from.")
    bouncehost: bytes = setting(kinds.host, _me, "send", "Host that bounces come from.", "me")
    bouncemaxbytes: int = setting(kinds.integer, 65536, "send",
        "Larger messages go back as their header section only; 0 returns everything up to 4 MiB, the most there is. "
        "Differs: qmail returns everything.")  # fmt: skip
    doublebounceto: bytes = setting(kinds.line, b"postmaster", "send", "Local part that double bounces go to.")
    doublebouncehost: bytes = setting(kinds.host, _me, "send", "Host that double bounces go to.", "me")
    # --- the SMTP client
    helohost: bytes = setting(kinds.host, _me, "remote", "Name in EHLO and HELO.", "me")
    smtproutes: dict[bytes, bytes] = setting(kinds.routes, {}, "send local dial",
        "domain:relay[:port], .suffix:relay, :relay for all; an empty relay means MX. "
        "lmtp:host:port or lmtp:/socket in place of relay hands over by LMTP.")  # fmt: skip
    timeoutconnect: int = setting(kinds.integer, 60, "dial", "Seconds to wait for a connection.")
    timeoutremote: int = setting(kinds.integer, 1200, "remote", "Seconds to wait for each reply.")
    # --- local delivery
    defaultdelivery: bytes = setting(kinds.text, b"./Maildir/\n", "local",
        "Instructions for users without a .qmail file.", "./Maildir/")  # fmt: skip
    systemusers: frozenset[bytes] = setting(kinds.names, frozenset({b"qmaild-alias"}), "local spawn program",
        "Accounts with a uid below 1000 that may receive mail themselves.", "qmaild-alias")  # fmt: skip
    # --- qmail-inject
    defaultdomain: bytes = setting(kinds.line, _me, "inject", "Added to host names without a dot.", "me")
    defaulthost: bytes = setting(kinds.line, _me, "inject", "Added to addresses without a host.", "me")
    plusdomain: bytes = setting(kinds.line, _me, "inject", "Added to host names that end in +.", "me")
    idhost: bytes = setting(kinds.line, _me, "inject", "Host in Message-ID.", "me")
    # --- every service
    idleexit: int = setting(kinds.integer, 60, "*", "Seconds without work after which a service exits; 0 is never.")


# Files beside the settings: no service takes one for a setting, and none is a misspelt name.
COMPANIONS = {
    "morercpthosts": "More domains for rcpthosts, as many as there are. It counts once qmail-newmrh(8) has made "
        "morercpthosts.cdb of it.",
    "morercpthosts.cdb": "What qmail-newmrh(8) makes. It is looked at if rcpthosts is there and does not have the domain; a new "
        "one counts at once. While it cannot be read, a recipient it may be about is told to come again. Read by qmaild-smtpd.",
}  # fmt: skip

TABLE: dict[str, Row] = {field.name: field.metadata["row"] for field in dataclasses.fields(Settings)}


def parse(files: Mapping[str, bytes], host_name: bytes) -> tuple[Settings, list[Problem]]:
    """Return the settings that these files (name to content) give, and what is wrong in them.

    host_name stands in for a missing `me`. A file with a problem counts as missing in the settings
    returned: callers that must not run on half a configuration look at the problems first.
    """
    values: dict[str, Any] = {"me": host_name}
    problems: list[Problem] = []
    for name, row in TABLE.items():
        content = files.get(name)
        if content is not None:
            try:
                values[name] = row.kind(content)
                continue
            except kinds.ValueProblem as problem:
                problems.append(Problem(name, problem.line, problem.expected))
        values[name] = row.default(values)
    return Settings(**values), problems
