"""Paths and parameters of MAIL and RCPT by RFC 5321. Addresses come out unquoted, as the queue keeps them."""

from __future__ import annotations

import re

from qmaild.message.address import MAX_ADDRESS

MAX_DOMAIN = 255  # RFC 5321 4.5.3.1.2

# RFC 5321 4.1.2, with RFC 6531 3.3 for bytes from 128 up. No alternative starts as another does, so no
# input makes the matcher try twice. Differs from the RFC: _ in host names, which the real world has.
_TEXT = rb"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~\x80-\xff]"
_ATOM = _TEXT + rb"+"
_OLD_ATOM = rb"(?:" + _TEXT + rb"|\\[ -~])+"  # RFC 821: a backslash takes the next byte outside of quotes too
_QUOTED = rb'"(?:[ !#-\[\]-~\x80-\xff]|\\[ -~])*"'
_LABEL = rb"[A-Za-z0-9_\x80-\xff]+(?:-+[A-Za-z0-9_\x80-\xff]+)*"
_DOMAIN = _LABEL + rb"(?:\." + _LABEL + rb")*"
# Narrower than the RFC: an @ would move the place where local part and domain are parted, brackets end paths.
_LITERAL = rb"\[[!-;=?A-Z^-~]+\]"
_ROUTE = rb"(?:@" + _DOMAIN + rb"(?:,@" + _DOMAIN + rb")*:)?"


def _mailbox(atom: bytes) -> bytes:
    """Beyond the RFC, as in qmail: a name without a domain is one of ours (envnoathost is its domain)."""
    local = rb"(?:(" + atom + rb"(?:\." + atom + rb")*)|(" + _QUOTED + rb"))"
    return local + rb"(?:@(" + _DOMAIN + rb"|" + _LITERAL + rb"))?"


# Blanks after the colon are not in the grammar, but in many clients.
_KEYWORD = {
    b"FROM:": re.compile(rb"FROM:[ \t]*<", re.IGNORECASE),
    b"TO:": re.compile(rb"TO:[ \t]*<", re.IGNORECASE),
}
_PATH = re.compile(_ROUTE + _mailbox(_ATOM) + rb">")
# What qmail takes as well is looked for where there is no such path.
_OLD_PATH = re.compile(_ROUTE + _mailbox(_OLD_ATOM) + rb">")
_BARE = {word: re.compile(rb"(?i:%b)[ \t]*" % word + _mailbox(_OLD_ATOM) + rb"(?= |\Z)") for word in _KEYWORD}
_PAIR = re.compile(rb"\\(.)")
_PARAMETER = re.compile(rb"([A-Za-z0-9][A-Za-z0-9\-]*)(?:=([!-<>-~\x80-\xff]+))?")


class PathError(ValueError):
    """The argument holds no path where one must be."""


def parse(argument: bytes, keyword: bytes) -> tuple[bytes, bytes] | None:
    """Return (address, rest) of `FROM:<...> ...` or `TO:<...> ...`, or without the brackets; None if it begins otherwise.

    The null reverse-path gives an empty address, <postmaster> and other names alone one without @. A source route
    is dropped (RFC 5321 appendix C). PathError: there is something between the brackets that is no path.
    """
    start = _KEYWORD[keyword].match(argument)
    if start is None:
        found = _BARE[keyword].match(argument)
        if found is None:
            return None
    else:
        place = start.end()
        found = _PATH.match(argument, place) or _OLD_PATH.match(argument, place)
        if found is None:
            if keyword == b"FROM:" and argument.startswith(b">", place):
                return b"", argument[place + 1 :]
            raise PathError("no path")
    local, quoted, domain = found.groups()
    if quoted is not None:
        local = quoted[1:-1]
    if quoted is not None or b"\\" in local:
        if domain is None:
            raise PathError("a quoted name alone")  # "a@b" without its quotes would be another address
        local = _PAIR.sub(rb"\1", local)
    address = local if domain is None else local + b"@" + domain
    if len(domain or b"") > MAX_DOMAIN or len(address) > MAX_ADDRESS:
        raise PathError("the path is too long")
    if not address.isascii():
        _check_utf8(address)
    return address, argument[found.end() :]


def _check_utf8(address: bytes) -> None:
    try:
        address.decode("utf-8")
    except UnicodeDecodeError:
        raise PathError("neither ASCII nor UTF-8") from None


def parameters(text: bytes) -> dict[bytes, bytes | None] | None:
    """Return keyword (upper case) to value of ` KEY=value KEY`; None if malformed or if one comes twice."""
    found: dict[bytes, bytes | None] = {}
    if not text:
        return found
    if text[:1] != b" ":
        return None
    for word in text.split():
        match = _PARAMETER.fullmatch(word)
        if match is None:
            return None
        key = match[1].upper()
        if key in found:
            return None
        found[key] = match[2]
    return found
