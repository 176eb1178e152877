"""maildirmake DIR: make a maildir. Exit status: 0, 100 wrong call, 111 it cannot be made."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def make(directory: str) -> None:
    """Make directory with tmp, new and cur, for its owner only. OSError if any of it cannot be made."""
    os.mkdir(directory, 0o700)
    for name in ("tmp", "new", "cur"):
        os.mkdir(os.path.join(directory, name), 0o700)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the maildir that the one argument names."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["--"]:
        del words[0]
    elif words and words[0].startswith("-"):
        words = []
    if len(words) != 1:
        print("maildirmake: usage: maildirmake DIRECTORY", file=sys.stderr)
        return 100
    try:
        make(words[0])
    except OSError as error:
        print(f"maildirmake: {error.filename or words[0]} cannot be made: {error.strerror}", file=sys.stderr)
        return 111
    return 0


if __name__ == "__main__":
    sys.exit(main())
