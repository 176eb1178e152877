"""Program lines: how one is run, bounded in time and output, and ended with all it started in its process group."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from typing import NamedTuple

from qmaild.delivery.contents import Contents

MAX_OUTPUT = 3000  # of a report, as in qmail; what a program says beyond is dropped with a note
PATH = b"/usr/local/bin:/usr/bin:/bin"


class Ended(NamedTuple):
    """status: the exit status, negative for a signal; output: what it said on both outputs; is_late: it was ended by us."""

    status: int
    output: bytes
    is_late: bool


def message_file(contents: Contents) -> int:
    """Return a descriptor of a file that holds the whole message. It is nobody else's: programs may seek it."""
    descriptor = os.memfd_create("message", os.MFD_CLOEXEC)
    try:
        contents.write_to(descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def run(
    command: bytes, home: bytes, message: int, variables: dict[bytes, bytes], seconds: float, lifeline: int = -1
) -> Ended:
    """Run the command by /bin/sh in home, for at most this many seconds. What it left running in its group ends with it.

    lifeline: a pipe whose other end is closed when nobody waits for the outcome any more; the program ends then too.
    """
    environment = {b"PATH": PATH, b"SHELL": b"/bin/sh", b"LOGNAME": variables[b"USER"], **variables}
    os.lseek(message, 0, os.SEEK_SET)
    process = subprocess.Popen(
        ["/bin/sh", "-c", command], stdin=message, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        cwd=home, env=environment, start_new_session=True, close_fds=True,
    )  # fmt: skip
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    watcher = os.pidfd_open(process.pid)
    try:
        output, is_late = _listen(process.stdout.fileno(), watcher, deadline, lifeline)
    finally:
        os.close(watcher)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # The group is still its own: the leader has not been waited for, so its number is not used again.
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
        process.stdout.close()
    return Ended(status, output, is_late)


def _listen(output: int, watcher: int, deadline: float, lifeline: int) -> tuple[bytes, bool]:
    """Collect the output until the program has exited (not: until all that it started has) or the time is up."""
    os.set_blocking(output, False)
    found = bytearray()
    poll = select.poll()
    poll.register(output, select.POLLIN)
    poll.register(watcher, select.POLLIN)
    if lifeline >= 0:
        poll.register(lifeline, select.POLLIN)
    while True:
        left = deadline - time.monotonic()
        ready = dict(poll.poll(max(0, left) * 1000))
        if output in ready and not _read(output, found):
            poll.unregister(output)
        if watcher in ready:
            _read(output, found)  # all that a pipe holds; a program it left behind may write for ever
            return _bounded(found), False
        if left <= 0 or lifeline in ready:
            return _bounded(found), True


def _read(output: int, found: bytearray) -> bool:
    """Take what is there. Return False at the end of the output, or when nothing more waits."""
    try:
        data = os.read(output, 65536)
    except BlockingIOError:
        return False
    if len(found) <= MAX_OUTPUT:
        found += data[: MAX_OUTPUT + 1 - len(found)]
    return bool(data)


def _bounded(found: bytearray) -> bytes:
    if len(found) > MAX_OUTPUT:
        return bytes(found[:MAX_OUTPUT]) + b"\n(the rest of the output was dropped)\n"
    return bytes(found)
