"""`qmaild COMMAND ...`, and the programs that have a name of their own: by that name, or as `qmaild NAME ...`.

A link to `qmaild` (or, which is faster, to the package's libexec/qmaild/program) that is named like one of PROGRAMS is that
program. Each has a module with main(arguments) -> exit status, of which nothing is loaded before its turn.
"""

from __future__ import annotations

import sys

COMMANDS = {
    "standalone": ("qmaild.commands.standalone", "run the whole server below one directory, without systemd"),
    "ctl": ("qmaild.commands.qmailctl", "qmailctl: look at the server and steer it"),
}
PROGRAMS = {
    "bouncesaying": ("qmaild.commands.bouncesaying", "in .qmail: fail with a text, if a program says so"),
    "condredirect": ("qmaild.commands.condredirect", "in .qmail: forward and stop, if a program says so"),
    "except": ("qmaild.commands.except_program", "in .qmail: succeed if a program does not"),
    "forward": ("qmaild.commands.forward", "in .qmail: forward to addresses"),
    "maildirmake": ("qmaild.commands.maildirmake", "make a maildir"),
    "qmail-getpw": ("qmaild.commands.qmail_getpw", "print the account that a local part belongs to by its name"),
    "qmail-newmrh": ("qmaild.commands.qmail_newmrh", "make control/morercpthosts.cdb of control/morercpthosts"),
    "qmail-newu": ("qmaild.commands.qmail_newu", "make users/cdb of users/assign"),
    "qmail-pw2u": ("qmaild.commands.qmail_pw2u", "make lines of users/assign from a passwd file"),
    "tcprules": ("qmaild.commands.tcprules", "make a cdb of client rules"),
}


def main() -> int:
    """Run one of them. Exit status: its own, 100 when it is not one of ours."""
    name, arguments = sys.argv[0].rpartition("/")[2], sys.argv[1:]
    if name not in PROGRAMS:
        name, *arguments = arguments or [""]
    known = COMMANDS | PROGRAMS
    if name in known:
        module = __import__(known[name][0], fromlist=["main"])
        result: int = module.main(arguments)
        return result
    print("usage: qmaild COMMAND ...\n", file=sys.stderr)
    for command, (_, text) in known.items():
        print(f"  {command:<14}{text}", file=sys.stderr)
    return 0 if name in ("-h", "--help") else 100


if __name__ == "__main__":
    sys.exit(main())
