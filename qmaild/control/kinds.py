"""The kinds of control files: how the bytes of one become a value, and what is wrong with them if they do not."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ValueProblem(ValueError):
    """One line of a control file is wrong. line counts from 1; expected says what should stand there."""

    def __init__(self, line: int, expected: str) -> None:
        super().__init__(f"line {line}: expected {expected}")
        self.line = line
        self.expected = expected


def lines_of(content: bytes) -> list[tuple[int, bytes]]:
    """Return (line number, line) without blank lines, comments and trailing blanks (qmail's list rule)."""
    found = []
    for number, line in enumerate(content.split(b"\n"), 1):
        text = line.rstrip(b" \t\r")
        if b"\0" in text:
            raise ValueProblem(number, "text without NUL bytes")
        if text and not text.startswith(b"#"):
            found.append((number, text))
    return found


def line(content: bytes) -> bytes:
    """The first line without trailing blanks; an empty file is an empty value."""
    first = content.split(b"\n", 1)[0].rstrip(b" \t\r")
    if b"\0" in first:
        raise ValueProblem(1, "text without NUL bytes")
    return first


def host(content: bytes) -> bytes:
    """A host name in its first line."""
    name = line(content)
    if not name or any(byte <= 32 or byte in b"@<>:;,\"\\" for byte in name):
        raise ValueProblem(1, "a host name")
    return name


def integer(content: bytes) -> int:
    """A whole number in its first line; what stands behind it and a blank is not read, as in qmail.

    Differs: qmail ignores a file without digits, and a letter behind them; we name the error.
    """
    digits = re.split(rb"[ \t]", line(content), maxsplit=1)[0]
    if not digits.isdigit() or len(digits) > 15:
        raise ValueProblem(1, "a whole number")
    return int(digits)


def names(content: bytes) -> frozenset[bytes]:
    """A set of names, compared without regard to case."""
    return frozenset(text.lower() for _, text in lines_of(content))


def mapping(content: bytes) -> dict[bytes, bytes]:
    """key:value lines, keys without regard to case; of duplicate keys the last line wins (as in qmail)."""
    found = {}
    for number, text in lines_of(content):
        key, colon, value = text.partition(b":")
        if not colon:
            raise ValueProblem(number, "key:value")
        found[key.lower()] = value
    return found


def routes(content: bytes) -> dict[bytes, bytes]:
    """smtproutes: domain:relay[:port], .suffix:relay, :relay; an empty relay means MX.

    lmtp:host:port and lmtp:/socket name LMTP targets.
    """
    found = mapping(content)
    numbers = {text.partition(b":")[0].lower(): number for number, text in lines_of(content)}
    for key, value in found.items():
        target = value[5:] if value.startswith(b"lmtp:") else value
        if target.startswith(b"/"):
            if target is value:
                raise ValueProblem(numbers[key], "lmtp: before a socket path")
            continue
        name, colon, port = (target.rpartition(b":") if target.count(b":") == 1 or b"]:" in target else (target, b"", b""))
        if colon and (not port.isdigit() or not 0 < int(port) < 65536 or not name):
            raise ValueProblem(numbers[key], "domain:relay:port with a port between 1 and 65535")
        if target is not value and not target:
            raise ValueProblem(numbers[key], "lmtp:host:port or lmtp:/path/of/socket")
    return found


def networks(content: bytes) -> tuple[Network, ...]:
    """Client networks: an address or address/prefix a line, IPv4 or IPv6."""
    found = []
    for number, text in lines_of(content):
        try:
            found.append(ipaddress.ip_network(text.decode("ascii"), strict=False))
        except ValueError:
            raise ValueProblem(number, "an address or network such as 192.0.2.0/24 or 2001:db8::/32") from None
    return tuple(found)


def text(content: bytes) -> bytes:
    """The whole file, as it is (instructions of several lines)."""
    if b"\0" in content:
        raise ValueProblem(1, "text without NUL bytes")
    return content


Kind = Callable[[bytes], Any]
