"""Dot-qmail files on the disk of their owner: finding the one that counts, judging the home and the file."""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from qmaild.delivery.outcome import Outcome, of_error, permanent, temporary
from qmaild.policy import dotqmail

MAX_FILE_BYTES = 4 << 20  # a list of a hundred thousand addresses
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO)

NO_MAILBOX = permanent(b"5.1.1", b"there is no mailbox of this name here")
STICKY = temporary(b"4.2.1", b"the home directory is sticky: its user is editing the dot-qmail files")


class Found(NamedTuple):
    """A dot-qmail file: its name in the home, its bytes, whether it may only forward, and what DEFAULT is."""

    name: bytes
    content: bytes
    forward_only: bool
    default: bytes | None


def judge_home(home: bytes) -> Outcome | None:
    """Return why nothing may be delivered in this home now, or None.

    Differs: a home that is missing or another's is not "no such user" but a temporary failure: it may be a
    disk that is not mounted yet.
    """
    try:
        status = os.stat(home)
    except OSError as error:
        return of_error(b"find the home directory", error)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return temporary(b"4.7.0", b"the home directory does not belong to its user")
    if status.st_mode & stat.S_IWOTH:
        return temporary(b"4.7.0", b"the home directory is writable by everybody")
    if status.st_mode & stat.S_ISVTX:
        return STICKY
    return None


def look(home: bytes, dash: bytes, extension: bytes) -> Found | Outcome | None:
    """Return what find() does, but an address with an extension that has no file has no mailbox."""
    if not dotqmail.is_possible(extension):
        return NO_MAILBOX
    found = find(home, dash, extension)
    return NO_MAILBOX if found is None and dash else found


def find(home: bytes, dash: bytes, extension: bytes) -> Found | Outcome | None:
    """Return the file that counts for this extension, None if there is none, or why that cannot be told."""
    for name, default in dotqmail.file_names(dash, extension):
        try:
            # O_NONBLOCK: a FIFO of that name must not hold us.
            descriptor = os.open(home + b"/" + name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _MISSING:
                continue
            return of_error(b"read " + name, error)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                continue
            if status.st_mode & stat.S_IWOTH:
                return temporary(b"4.7.0", name + b": the file is writable by everybody")
            content = _read(descriptor)
        except OSError as error:
            return of_error(b"read " + name, error)
        finally:
            os.close(descriptor)
        if len(content) > MAX_FILE_BYTES:
            return temporary(b"4.2.1", name + b": the file is too long")
        return Found(name, content, bool(status.st_mode & stat.S_IXUSR), default)
    return None


def _read(descriptor: int) -> bytes:
    content = b""
    while len(content) <= MAX_FILE_BYTES:
        chunk = os.read(descriptor, 65536)
        if not chunk:
            break
        content += chunk
    return content


def owners(home: bytes, dash: bytes, extension: bytes) -> tuple[bool, bool]:
    """Return whether the -owner and the -owner-default file exist."""
    owner, default = dotqmail.owner_names(dash, extension)
    has_owner = os.path.exists(home + b"/" + owner)
    return has_owner, has_owner and os.path.exists(home + b"/" + default)
