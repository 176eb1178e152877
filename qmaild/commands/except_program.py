"""except PROGRAM...: the other way round. Exit status: 100 if the program exits 0, 111 if it does, else 0."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from qmaild.commands import conditions
from qmaild.commands.conditions import FAILED, Ended


def _reverse(words: list[str]) -> None:
    if not words:
        raise Ended(FAILED, "usage: except PROGRAM [ARGUMENT...]")
    if conditions.is_so(words):
        raise Ended(FAILED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and say the opposite."""
    return conditions.run("except", _reverse, arguments)


if __name__ == "__main__":
    sys.exit(main())
