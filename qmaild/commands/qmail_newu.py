"""qmail-newu: make users/cdb of users/assign. Exit status: 0, 100 wrong call, 111 it was not made and the old one stands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from qmaild.commands import compiling
from qmaild.policy import assign
from qmaild.runtime import paths


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the file. Local deliveries go by it from the next one on."""
    if sys.argv[1:] if arguments is None else arguments:
        print("qmail-newu: usage: qmail-newu", file=sys.stderr)
        return 100
    return compiling.compile_file("qmail-newu", f"{paths.USERS}/assign", f"{paths.USERS}/cdb", assign.records)


if __name__ == "__main__":
    sys.exit(main())
