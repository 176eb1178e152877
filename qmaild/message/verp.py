"""Variable envelope return paths: a sender pre@host-@[] becomes one for each recipient. Pure text."""

from __future__ import annotations

MARK = b"-@[]"


def is_verp(sender: bytes) -> bool:
    """Return whether the sender asks for an address of its own for each recipient."""
    return sender.endswith(MARK) and b"@" in sender[: -len(MARK)]


def expand(sender: bytes, recipient: bytes) -> bytes:
    """Return pre-user=domain@host for pre-@host-@[] and user@domain; without an @ nothing changes."""
    local, at, domain = recipient.rpartition(b"@")
    if not at:
        return sender
    prefix, _, host = sender[: -len(MARK)].rpartition(b"@")
    return b"%b%b=%b@%b" % (prefix, local, domain, host)


def collect(sender: bytes) -> bytes:
    """Return the address that stands for all recipients: pre@host for pre@host-@[]."""
    return sender[: -len(MARK)] if is_verp(sender) else sender
