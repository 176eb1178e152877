"""qmail-inject's rules: a header section as a user wrote it becomes one that may travel, and its envelope.

Knows neither the clock nor accounts: both are arguments. The body is not looked at.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from qmaild.message import fields
from qmaild.message.address import MAX_ADDRESS
from qmaild.message.addresslist import Address, AddressError, Hosts, Item, is_host, of_path, one, parse, render
from qmaild.message.dates import field_date
from qmaild.message.invocation import Invocation

MAX_RECIPIENTS = 100_000  # what one record of the queue holds
MAX_ENVELOPE = 8 << 20  # bytes of all recipients; half of the largest frame

_RECIPIENTS = frozenset((b"to", b"cc", b"bcc", b"apparently-to"))
_RESENT_RECIPIENTS = frozenset((b"resent-to", b"resent-cc", b"resent-bcc"))
_AUTHORS = frozenset((
    b"sender", b"from", b"reply-to", b"return-path", b"return-receipt-to", b"errors-to",
    b"resent-sender", b"resent-from", b"resent-reply-to",
))  # fmt: skip
_RESENT = frozenset((
    b"resent-sender", b"resent-from", b"resent-reply-to", b"resent-to", b"resent-cc", b"resent-bcc",
    b"resent-date", b"resent-message-id",
))  # fmt: skip
_REMOVED = frozenset((b"bcc", b"resent-bcc", b"return-path", b"content-length"))
_IN_COMMENT = re.compile(rb"([()\\])")
_IN_QUOTES = re.compile(rb'(["\\])')
_NOBODY_SHOWN = b"recipient list not shown: ;\n"


class Unacceptable(ValueError):
    """The message cannot be sent as it is; the text says why. Permanent."""


class Where(NamedTuple):
    """The settings that these rules read."""

    hosts: Hosts
    idhost: bytes
    maxhops: int


class When(NamedTuple):
    """The moment and who: seconds since the epoch, a number of its own in that second, the account's name."""

    seconds: int
    unique: int
    account: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Composed:
    """Envelope and header section (with the empty line that ends it)."""

    sender: bytes
    recipients: tuple[bytes, ...]
    section: bytes


def where(invocation: Invocation, hosts: Hosts, idhost: bytes, maxhops: int) -> Where:
    """Return the settings with the caller's variables put over them. Unacceptable if those are no host names."""
    for name in ("QMAILDEFAULTHOST", "QMAILDEFAULTDOMAIN", "QMAILPLUSDOMAIN", "QMAILIDHOST"):
        if not is_host(invocation.variable(name)):
            raise Unacceptable(f"{name} is no host name")
    chosen = Hosts(
        invocation.variable("QMAILDEFAULTHOST") or hosts.defaulthost,
        invocation.variable("QMAILDEFAULTDOMAIN") or hosts.defaultdomain,
        invocation.variable("QMAILPLUSDOMAIN") or hosts.plusdomain,
        hosts.complete,
    )
    return Where(chosen, invocation.variable("QMAILIDHOST") or idhost, maxhops)


class _Section:
    """One header section under work."""

    def __init__(self, lines: list[bytes], invocation: Invocation, place: Where) -> None:
        self.letters = invocation.letters
        self.takes_recipients = invocation.header_recipients
        self.hosts = place.hosts
        self.names = {fields.name_of(line) for line in lines}
        self.is_resent = not self.names.isdisjoint(_RESENT)
        self.recipients: list[bytes] = []
        self.followers: list[bytes] = []  # To and Cc: what Mail-Followup-To may list
        self.return_path: Address | None = None
        self.kept: list[bytes] = []
        self.addresses = 0
        for line in lines:
            self._field(line, fields.name_of(line))

    def _field(self, line: bytes, name: bytes) -> None:
        text = line
        if name in _RECIPIENTS or name in _RESENT_RECIPIENTS:
            text = self._recipient_field(line, name)
        elif name in _AUTHORS:
            text = self._author_field(line, name)
        if name in _REMOVED or (name == b"from" and ord("f") in self.letters):
            return
        if name == b"message-id" and ord("i") in self.letters:
            return
        self.kept.append(text)

    def _read(self, line: bytes) -> tuple[bytes, list[Address]]:
        items = [
            item.completed(self.hosts) if isinstance(item, Address) else item
            for item in parse(fields.value_of(line))
        ]
        found = [item for item in items if isinstance(item, Address)]
        for address in found:
            _bounded(address.path)
        self.addresses += len(found)
        if self.addresses > MAX_RECIPIENTS:  # told before they are written again: that is the longer half of the work
            raise Unacceptable(f"more addresses than one message can have ({MAX_RECIPIENTS})")
        return render(line.partition(b":")[0].rstrip(b" \t"), items) if items else line, found

    def _recipient_field(self, line: bytes, name: bytes) -> bytes:
        is_used = name in (_RESENT_RECIPIENTS if self.is_resent else _RECIPIENTS)
        try:
            text, found = self._read(line)
        except AddressError as error:
            if is_used and self.takes_recipients:
                # Differs: notqmail passes such a field on and the message reaches nobody it names.
                raise Unacceptable(f"{_shown(name)}: {error}") from None
            return line
        # Right to left, as qmail-inject's lists come out.
        paths = [address.path for address in reversed(found) if address.path]
        if is_used:
            self.recipients += paths
        if name in (b"to", b"cc"):
            self.followers += paths
        return text

    def _author_field(self, line: bytes, name: bytes) -> bytes:
        try:
            text, found = self._read(line)
        except AddressError as error:
            raise Unacceptable(f"{_shown(name)}: {error}") from None
        if name == b"return-path" and self.return_path is None and found and ord("s") not in self.letters:
            self.return_path = found[0]
        return text


def compose(lines: list[bytes], invocation: Invocation, place: Where, when: When) -> Composed:
    """Return the envelope and the header section to send. Unacceptable if the rules do not allow it."""
    if fields.hops(lines) > place.maxhops:
        raise Unacceptable(f"the message has made more than {place.maxhops} hops: it is in a loop")
    section = _Section(lines, invocation, place)
    sender = _sender(section, invocation, when)
    recipients = arguments(invocation, place.hosts)
    if section.takes_recipients:
        recipients += section.recipients
    # Differs: qmail delivers twice to who is named twice; nobody misses the second copy.
    unique = tuple(dict.fromkeys(recipients))
    check_envelope(sender, unique)
    added = [*_missing(section, invocation, place, when), *_followup(section, invocation)]
    return Composed(sender, unique, b"".join([*added, *section.kept]) + b"\n")


def check_envelope(sender: bytes, recipients: Iterable[bytes]) -> None:
    """Raise Unacceptable if the envelope exceeds what the queue takes."""
    count = total = 0
    for path in recipients:
        count += 1
        total += _bounded(path)
    _bounded(sender)
    if count > MAX_RECIPIENTS or total > MAX_ENVELOPE:
        raise Unacceptable(f"more recipients than one message can have ({MAX_RECIPIENTS})")


def _bounded(path: bytes) -> int:
    if len(path) > MAX_ADDRESS + 2:  # as many as qmail-queue takes
        raise Unacceptable(f"an address is longer than {MAX_ADDRESS} bytes")
    return len(path)


def arguments(invocation: Invocation, hosts: Hosts) -> list[bytes]:
    """Return the recipients that stand behind the options, completed."""
    found = []
    for argument in invocation.arguments:
        try:
            address = one(argument).completed(hosts)
        except AddressError as error:
            raise Unacceptable(f"{_shown(argument)}: {error}") from None
        if address.path:
            found.append(address.path)
    return found


def _identity(invocation: Invocation, account: bytes) -> Address:
    """Who writes, from the environment. Differs: without a variable it is the account, not `anonymous`."""
    user = invocation.variable("QMAILUSER", "MAILUSER", "USER", "LOGNAME") or account or b"anonymous"
    host = invocation.variable("QMAILHOST", "MAILHOST")
    return _clean(Address(user, host or None))


def _clean(address: Address) -> Address:
    if any(byte in b"\r\n\0" for byte in address.path):
        raise Unacceptable("a variable that names the sender holds a line end")
    if not is_host(address.host or b""):
        raise Unacceptable("a variable that names the sender's host holds what no host name can")
    return address


def _sender(section: _Section, invocation: Invocation, when: When) -> bytes:
    letters = section.letters
    verp = b"-@[]" if ord("r") in letters else b""
    if invocation.sender is not None:
        try:
            return one(invocation.sender).completed(section.hosts).path
        except AddressError as error:
            raise Unacceptable(f"-f: {error}") from None
    if section.return_path is not None:
        path = section.return_path.path
        return path + verp if path else path
    identity = _identity(invocation, when.account)
    user = invocation.variable("QMAILSUSER") or identity.local
    host = invocation.variable("QMAILSHOST") or identity.host
    if ord("m") in letters:
        user += b"-%d.%d" % (when.seconds, when.unique)
    if verp:
        user += b"-"
    return _clean(Address(user, host)).completed(section.hosts).path + verp


def _missing(section: _Section, invocation: Invocation, place: Where, when: When) -> Iterable[bytes]:
    """Yield the fields a message must have and this one has not."""
    prefix = b"Resent-" if section.is_resent else b""
    names = {fields.name_of(line) for line in section.kept}

    def lacks(name: bytes) -> bool:
        return prefix.lower() + name not in names

    if lacks(b"date"):
        yield prefix + b"Date: " + field_date(when.seconds) + b"\n"
    if lacks(b"message-id"):
        moment = datetime.fromtimestamp(when.seconds, UTC).strftime("%Y%m%d%H%M%S").encode()
        yield prefix + b"Message-ID: <%b.%d.qmail@%b>\n" % (moment, when.unique, place.idhost)
    if lacks(b"from"):
        yield render(prefix + b"From", [_author(invocation, place.hosts, when.account)])
    if lacks(b"to") and lacks(b"cc"):
        yield prefix + b"Cc: " + _NOBODY_SHOWN


def _author(invocation: Invocation, hosts: Hosts, account: bytes) -> Address:
    """Return what a generated From says: with the full name in quotes, or (letter c) in a comment."""
    identity = _identity(invocation, account).completed(hosts)
    name = b" ".join(invocation.variable("QMAILNAME", "MAILNAME", "NAME").replace(b"\0", b"").split())
    if name and ord("c") in invocation.letters:
        return dataclasses.replace(identity, comments=(b"(" + _IN_COMMENT.sub(rb"\\\1", name) + b")",))
    if name:
        return dataclasses.replace(identity, phrase=b'"' + _IN_QUOTES.sub(rb"\\\1", name) + b'"')
    return identity


def _followup(section: _Section, invocation: Invocation) -> Iterable[bytes]:
    lists = {line.rstrip(b" \t\r").lower() for line in invocation.variable("QMAILMFTFILE").split(b"\n")}
    lists = {line for line in lists if line and not line.startswith(b"#")}
    if section.is_resent or b"mail-followup-to" in section.names:
        return
    if any(path.lower() in lists for path in section.followers):
        everybody: list[Item] = [of_path(path) for path in section.followers]
        yield render(b"Mail-Followup-To", everybody)


def _shown(text: bytes) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:100].decode("utf-8", "replace"))
