"""bouncesaying TEXT [PROGRAM...]: a dot-qmail line that fails with this text, if the program exits 0.

Exit status: 100 it fails; 0 it does not, and the lines below count; 111 nobody knows now.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from qmaild.commands import conditions
from qmaild.commands.conditions import FAILED, Ended


def _bounce(words: list[str]) -> None:
    if not words:
        raise Ended(FAILED, "usage: bouncesaying TEXT [PROGRAM [ARGUMENT...]]")
    if not words[1:] or conditions.is_so(words[1:]):
        print(words[0], file=sys.stderr)
        raise Ended(FAILED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask the program, if there is one."""
    return conditions.run("bouncesaying", _bounce, arguments)


if __name__ == "__main__":
    sys.exit(main())
