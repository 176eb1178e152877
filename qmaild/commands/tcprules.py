"""tcprules CDB TEMPORARY: make a cdb of the client rules on standard input.

Exit status: 0; 100 wrong call, or a rule that is none; 111 it cannot be made. The old file stands unless a new one was made.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from qmaild.commands import compiling
from qmaild.policy import clientrules


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the file that the first argument names, by way of the second."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["--"]:
        del words[0]
    if len(words) != 2:
        print("tcprules: usage: tcprules CDB TEMPORARY", file=sys.stderr)
        return 100
    try:
        compiling.replace(words[0], words[1], clientrules.records(sys.stdin.buffer.read()))
    except OSError as error:
        print(f"tcprules: {error.filename or words[0]}: {error.strerror}", file=sys.stderr)
        return 111
    except ValueError as error:
        print(f"tcprules: the input: {error}", file=sys.stderr)
        return 100
    return 0


if __name__ == "__main__":
    sys.exit(main())
