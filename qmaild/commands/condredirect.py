"""condredirect ADDRESS PROGRAM...: forward the message, and end the file, if the program exits 0.

Exit status: 99 forwarded, 0 not, so that the lines below count; 100 never, 111 not now.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from qmaild.commands import conditions
from qmaild.commands.conditions import DONE, FAILED, STOP, Ended


def _redirect(words: list[str]) -> None:
    if len(words) < 2:
        raise Ended(FAILED, "usage: condredirect ADDRESS PROGRAM [ARGUMENT...]")
    if not conditions.is_so(words[1:]):
        return
    os.lseek(0, 0, os.SEEK_SET)  # the program has read it, perhaps
    try:
        conditions.forward("SENDER", words[:1])
    except Ended as end:
        raise Ended(STOP if end.code == DONE else end.code, str(end)) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask the program; forward with the sender as it is."""
    return conditions.run("condredirect", _redirect, arguments)


if __name__ == "__main__":
    sys.exit(main())
