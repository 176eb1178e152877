"""Addresses as bytes: splitting them, and quoting a local part for commands and header fields.

Envelope addresses are stored unquoted, as qmail does: the local part is everything before the last @.
"""

from __future__ import annotations

import re

MAX_ADDRESS = 1000  # qmail-queue's documented limit, without the final NUL

_PLAIN = re.compile(rb"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]+(?:\.[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]+)*")
_PLAIN_UTF8 = re.compile(rb"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~\x80-\xff]+(?:\.[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~\x80-\xff]+)*")
_SPECIAL = re.compile(rb'([\r\n"\\])')


def split(address: bytes) -> tuple[bytes, bytes]:
    """Return (local part, domain), cut at the last @; without one the domain is empty."""
    local, at, domain = address.rpartition(b"@")
    return (local, domain) if at else (domain, b"")


def quote(address: bytes, utf8: bool = False) -> bytes:
    """Return the address as it stands in MAIL FROM:<...> and header fields. Empty stays empty.

    utf8: the text goes to an SMTPUTF8 session, where bytes from 128 up need no quotes (RFC 6531 3.3).
    """
    if not address:
        return b""
    local, at, domain = address.rpartition(b"@")
    if not at:
        local, domain = domain, b""
    plain = _PLAIN_UTF8 if utf8 else _PLAIN
    if not plain.fullmatch(local):
        local = b'"' + _SPECIAL.sub(rb"\\\1", local) + b'"'
    return local + at + domain
