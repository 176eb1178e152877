"""`qmaild COMMAND ...`: the programs that are not services. Knows their names."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "standalone": ("qmaild.commands.standalone", "run the whole server below one directory, without systemd"),
    "ctl": ("qmaild.commands.qmailctl", "qmailctl: look at the server and steer it"),
}


def main() -> int:
    """Run one command. Exit status: the command's, 100 when it is not one of ours."""
    name, *arguments = sys.argv[1:] or [""]
    if name in COMMANDS:
        command = importlib.import_module(COMMANDS[name][0])
        result: int = command.main(arguments)
        return result
    print("usage: qmaild COMMAND ...\n", file=sys.stderr)
    for known, (_, text) in COMMANDS.items():
        print(f"  {known:<12}{text}", file=sys.stderr)
    return 0 if name in ("-h", "--help") else 100


if __name__ == "__main__":
    sys.exit(main())
