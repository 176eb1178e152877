"""What came of one delivery, and what an error of the system means for it."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from qmaild.protocol.frames import PERMANENT, SUCCESS, TEMPORARY


class Outcome(NamedTuple):
    """outcome: SUCCESS, TEMPORARY or PERMANENT; enhanced: the status code; text: for the report and the bounce."""

    outcome: bytes
    enhanced: bytes
    text: bytes


DELIVERED = Outcome(SUCCESS, b"2.0.0", b"")

_ENHANCED = {
    errno.ENOSPC: b"4.3.1", errno.EDQUOT: b"4.2.2", errno.EFBIG: b"4.2.2", errno.ENOENT: b"4.2.1",
    errno.ENOTDIR: b"4.2.1", errno.EACCES: b"4.2.1", errno.EPERM: b"4.2.1", errno.EROFS: b"4.3.0",
}  # fmt: skip


def temporary(enhanced: bytes, text: bytes) -> Outcome:
    return Outcome(TEMPORARY, enhanced, text)


def permanent(enhanced: bytes, text: bytes) -> Outcome:
    return Outcome(PERMANENT, enhanced, text)


def of_error(doing: bytes, error: OSError) -> Outcome:
    """Return the temporary outcome that a system call's error means; doing says what was under way."""
    reason = os.strerror(error.errno).encode() if error.errno else b"trouble"
    return temporary(_ENHANCED.get(error.errno or 0, b"4.3.0"), b"unable to %b: %b" % (doing, reason))
