"""qmail-newmrh: make control/morercpthosts.cdb of control/morercpthosts.

Exit status: 0, 100 wrong call, 111 it was not made and the old one stands.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from qmaild.commands import compiling
from qmaild.control import kinds
from qmaild.runtime import paths


def records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield one record a name; it has no value. ValueProblem: a line cannot be used."""
    for _, line in kinds.lines_of(content):
        yield line.lower(), b""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the file. The SMTP door goes by it from the next recipient on."""
    if sys.argv[1:] if arguments is None else arguments:
        print("qmail-newmrh: usage: qmail-newmrh", file=sys.stderr)
        return 100
    source = f"{paths.CONTROL}/morercpthosts"
    return compiling.compile_file("qmail-newmrh", source, f"{source}.cdb", records)


if __name__ == "__main__":
    sys.exit(main())
