"""What the small programs of dot-qmail lines have in common: their exit codes, a program asked for its own, forwarding."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from qmaild.commands import queueing

DONE, STOP, FAILED, LATER = 0, 99, 100, 111
SIGPIPE = queueing.SIGPIPE

# Starting a program failed for a reason that may pass; any other is the line's own fault.
_PASSING = frozenset({
    errno.EINTR, errno.ENOMEM, errno.ETXTBSY, errno.EIO, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.ENFILE, errno.EMFILE,
    errno.EFBIG, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNREFUSED,
})  # fmt: skip


class Ended(Exception):
    """The program is over with this exit code; text, if any, says why."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(text)
        self.code = code


def run(name: str, work: Callable[[list[str]], None], arguments: Sequence[str] | None) -> int:
    """Call work(words) and return the exit code; what it has to say goes to standard error, and so into the report."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["--"]:
        del words[0]
    try:
        work(words)
    except Ended as end:
        if str(end):
            print(f"{name}: {end}", file=sys.stderr)
        return end.code
    except OSError as error:
        print(f"{name}: {error.strerror}", file=sys.stderr)
        return LATER
    return DONE


def is_so(words: Sequence[str]) -> bool:
    """Run a program and return whether it exits 0. Ended: it says 111, or was ended by a signal, so that nobody knows."""
    try:
        process = os.posix_spawnp(words[0], list(words), os.environ, setsigdef=[SIGPIPE])
    except OSError as error:
        if error.errno in _PASSING:
            raise Ended(LATER, f"{words[0]} cannot be run: {error.strerror}") from None
        return False  # as if it had said 100
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status < 0:
        raise Ended(LATER, f"{words[0]} was ended by signal {-status}")
    if status == LATER:
        raise Ended(LATER, f"{words[0]} cannot tell now")
    return status == 0


def forward(sender: str, recipients: Sequence[str]) -> None:
    """Queue the message on descriptor 0 for these, with the sender that the variable has; say which process has done it."""
    values = {}
    for variable in (sender, "DTLINE"):
        value = os.environb.get(variable.encode())
        if value is None:
            raise Ended(FAILED, f"{variable} is not set: this is for lines of .qmail files")
        values[variable] = value
    try:
        process = queueing.send(_below(values["DTLINE"]), values[sender], map(os.fsencode, recipients))
    except queueing.Refused as refused:
        raise Ended(FAILED if refused.is_permanent else LATER, str(refused)) from None
    raise Ended(DONE, f"qp {process}")


def _below(line: bytes) -> Iterator[bytes]:
    yield line
    yield from queueing.rest_of(0)
