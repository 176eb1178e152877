"""qmail-pw2u: make lines of users/assign from a passwd file. Exit status: 0, 100 wrong call, 111 the lines must not be used."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence

from qmaild.commands import flags
from qmaild.control import kinds
from qmaild.policy import pw2u, users
from qmaild.policy.pw2u import ANY_HOME, MISSING_STOPS, Lists, Options
from qmaild.runtime import controls, paths

_HOMES = {"o": b"", "h": MISSING_STOPS, "H": ANY_HOME}


def main(arguments: Sequence[str] | None = None) -> int:
    """Read standard input, print the lines; all of them, or none and a word why."""
    try:
        given, rest = flags.parse(sys.argv[1:] if arguments is None else arguments, "ohHuUC/", "c")
        if rest:
            raise flags.Usage(f"there is no use for {rest[0]}")
    except flags.Usage as error:
        print(f"qmail-pw2u: {error}\nusage: qmail-pw2u [-ohHuUC/] [-cCHARACTER] < passwd", file=sys.stderr)
        return 100
    try:
        system_users = controls.read().systemusers
        may_receive = functools.partial(users.may_receive, system_users=system_users)
        lines = list(pw2u.lines(sys.stdin.buffer.read(), _lists(), _options(given), _owner_of, may_receive))
    except OSError as error:
        print(f"qmail-pw2u: {error.filename}: {error.strerror}", file=sys.stderr)
        return 111
    except ValueError as error:
        print(f"qmail-pw2u: {error}", file=sys.stderr)
        return 111
    sys.stdout.buffer.writelines(lines)
    sys.stdout.buffer.flush()
    return 0


def _options(given: list[tuple[str, str]]) -> Options:
    found = Options()
    for letter, value in given:
        if letter in _HOMES:
            found = found._replace(homes=_HOMES[letter])
        elif letter in "uU":
            found = found._replace(has_upper_case=letter == "u")
        elif letter == "C":
            found = found._replace(has_extensions=False)
        elif letter == "/":
            found = found._replace(dash=b"-/")
        else:
            found = found._replace(delimiter=os.fsencode(value)[:1])
    return found


def _lists() -> Lists:
    include, exclude, mailnames, subusers = (_list(name) for name in ("include", "exclude", "mailnames", "subusers"))
    return Lists(include, exclude or (), mailnames or (), subusers or (), _content("append") or b"")


def _list(name: str) -> tuple[bytes, ...] | None:
    content = _content(name)
    return None if content is None else tuple(line for _, line in kinds.lines_of(content))


def _content(name: str) -> bytes | None:
    try:
        with open(f"{paths.USERS}/{name}", "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _owner_of(home: bytes) -> int | None:
    try:
        return os.stat(home).st_uid
    except (FileNotFoundError, NotADirectoryError):
        return None


if __name__ == "__main__":
    sys.exit(main())
