"""How many messages a queue holds that no service has open. For the package's scripts: a queue is not thrown away."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from qmaild.queue.store import Store
from qmaild.queue.values import StoreError
from qmaild.runtime import paths


def main(arguments: Sequence[str]) -> int:
    """Print the number. Exit status 111 if the queue cannot be opened: then nobody knows."""
    try:
        store = Store.open(arguments[0] if arguments else paths.queue_directory(), create=False)
    except StoreError as error:
        print(f"qmaild: {error}", file=sys.stderr)
        return 111
    print(store.counts().messages)
    store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
