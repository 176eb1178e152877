"""mbox: how one message is added to a mailbox file, under both locks, and taken back if that fails.

fcntl first, then the dot-lock (Debian policy 11.6); the dot-lock is left out where its folder is not ours to write.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time

from qmaild.delivery.contents import Contents, write_all
from qmaild.delivery.maildir import sync_folder
from qmaild.delivery.outcome import DELIVERED, Outcome, of_error, temporary

LOCK_SECONDS = 30.0  # qmail-local's patience
POLL_SECONDS = 0.05
MAX_KEPT = 1024  # of an unfinished line: enough to see whether it begins with From
STALE_SECONDS = 300.0  # a dot-lock this old belongs to nobody any more (liblockfile's rule)

_FROM = re.compile(rb"^(>*From )", re.MULTILINE)


class _Locked(Exception):
    """Somebody else holds the mailbox for longer than we wait."""


def deliver(path: bytes, from_line: bytes, lines: bytes, contents: Contents) -> Outcome:
    """Append the message to the mailbox at path, which is made if it is missing."""
    try:
        # O_NONBLOCK: a FIFO in place of the file must not hold us.
        mailbox = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        return of_error(b"open the mailbox", error)
    lock = b""
    try:
        if not stat.S_ISREG(os.fstat(mailbox).st_mode):
            return temporary(b"4.2.1", b"the mailbox is not a regular file")
        deadline = time.monotonic() + LOCK_SECONDS
        _lock_file(mailbox, deadline)
        lock = _dot_lock(path + b".lock", deadline)
        return _append(mailbox, path, from_line + lines, contents)
    except _Locked:
        return temporary(b"4.2.1", b"the mailbox is locked by another program")
    except OSError as error:
        return of_error(b"lock the mailbox", error)
    finally:
        if lock:
            with contextlib.suppress(OSError):  # its user removed it
                os.unlink(lock)
        os.close(mailbox)


def _lock_file(mailbox: int, deadline: float) -> None:
    while True:
        try:
            fcntl.lockf(mailbox, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno == errno.ENOLCK:
                return  # a file system without locks: as qmail, go on with the other lock alone
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
        _wait(deadline)


def _dot_lock(lock: bytes, deadline: float) -> bytes:
    """Make the lock file and return its path; empty if the folder does not let us."""
    while True:
        try:
            descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            _break_stale(lock)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                return b""
            raise
        else:
            os.write(descriptor, b"0")  # no process to look for: liblockfile then goes by age alone
            os.close(descriptor)
            return lock
        _wait(deadline)


def _break_stale(lock: bytes) -> None:
    with contextlib.suppress(OSError):  # gone by itself, or not ours to remove
        if time.time() - os.lstat(lock).st_mtime > STALE_SECONDS:
            os.unlink(lock)


def _wait(deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise _Locked
    time.sleep(min(POLL_SECONDS, left))


def _append(mailbox: int, path: bytes, above: bytes, contents: Contents) -> Outcome:
    size = os.fstat(mailbox).st_size
    try:
        write_all(mailbox, above)
        _write_quoted(mailbox, contents)
        os.fsync(mailbox)
        if size == 0:
            sync_folder(os.path.dirname(path) or b".")
        return DELIVERED
    except OSError as error:
        os.ftruncate(mailbox, size)
        return of_error(b"write to the mailbox", error)


def _write_quoted(mailbox: int, contents: Contents) -> None:
    """Write the message with From_ lines quoted (mboxrd), a last newline if it has none, and the empty line."""
    kept, is_inside = b"", False
    ended = True
    for chunk in contents.chunks():
        if not chunk:
            continue
        ended = chunk.endswith(b"\n")
        if is_inside:  # of a line whose beginning is written
            rest, newline, chunk = chunk.partition(b"\n")
            write_all(mailbox, rest + newline)
            is_inside = not newline
        lines, newline, rest = (kept + chunk).rpartition(b"\n")
        kept = b""
        if newline:
            write_all(mailbox, _FROM.sub(rb">\1", lines + newline))
        if len(rest) > MAX_KEPT:
            write_all(mailbox, _FROM.sub(rb">\1", rest))
            is_inside = True
        else:
            kept = rest
    write_all(mailbox, _FROM.sub(rb">\1", kept) + (b"\n" if ended else b"\n\n"))
