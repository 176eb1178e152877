"""forward ADDRESS...: a dot-qmail line that queues its message for others. Exit status: 0 queued, 100 never, 111 not now."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from qmaild.commands import conditions


def main(arguments: Sequence[str] | None = None) -> int:
    """Queue the message with the sender that forwards have (NEWSENDER)."""
    return conditions.run("forward", lambda words: conditions.forward("NEWSENDER", words), arguments)


if __name__ == "__main__":
    sys.exit(main())
