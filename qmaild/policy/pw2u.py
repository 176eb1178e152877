"""qmail-pw2u's rules: which accounts of a passwd file become which lines of users/assign. Knows no file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from qmaild.policy.users import ALIAS_USER

MISSING_STOPS, ANY_HOME = b"h", b"H"  # options about homes; without one a missing home skips its account
_FIELDS = 7

OwnerOf = Callable[[bytes], int | None]
MayReceive = Callable[[bytes, int], bool]


class CannotConvert(ValueError):
    """There is no use in lines from this input; the text says why."""


class Options(NamedTuple):
    """What was asked for: homes is one of the above or empty, delimiter is what stands before an extension."""

    homes: bytes = b""
    has_upper_case: bool = False
    has_extensions: bool = True
    delimiter: bytes = b"-"
    dash: bytes = b"-"


class Lists(NamedTuple):
    """The control files of users/, as text lines; None: there is no such file."""

    include: tuple[bytes, ...] | None = None
    exclude: tuple[bytes, ...] = ()
    mailnames: tuple[bytes, ...] = ()
    subusers: tuple[bytes, ...] = ()
    append: bytes = b""


def lines(passwd: bytes, lists: Lists, options: Options, owner_of: OwnerOf, may_receive: MayReceive) -> Iterator[bytes]:
    """Yield the lines of an assign file, the last of which is the dot. CannotConvert: it must not be used.

    owner_of: the uid that has this folder, None if there is none. may_receive: whether the account ever gets mail here.
    """
    names = _mailnames(lists.mailnames)
    included = None if lists.include is None else {name.lower() for name in lists.include}
    excluded = {name.lower() for name in lists.exclude}
    accounts: dict[bytes, bytes] = {}
    for line in passwd.split(b"\n"):
        fields = line.split(b":")
        # Differs: qmail writes lines for accounts of the system that have their home; they get no mail here.
        if len(fields) != _FIELDS or not fields[2].isdigit() or not may_receive(fields[0], int(fields[2])):
            continue
        user, _, uid, gid, _, home, _ = fields
        if not options.has_upper_case and user != user.lower():
            continue
        if (included is not None and user.lower() not in included) or user.lower() in excluded:
            continue
        if options.homes != ANY_HOME and not _has_home(user, int(uid), home, options, owner_of):
            continue
        account = b"%b:%b:%b:%b:" % (user, uid, gid, home)
        accounts.setdefault(user.lower(), account)
        if user == ALIAS_USER:
            yield b"+:%b-::\n" % account
        for name in names.get(user.lower(), (user,)):
            yield from _pair(name, account, b"", options)
    if ALIAS_USER not in accounts:
        raise CannotConvert(f"there is no account {ALIAS_USER.decode()} in the input")
    yield from _of_subusers(lists.subusers, accounts, options)
    yield lists.append
    yield b".\n"


def _has_home(user: bytes, uid: int, home: bytes, options: Options, owner_of: OwnerOf) -> bool:
    owner = owner_of(home)
    if owner is None and options.homes == MISSING_STOPS:
        raise CannotConvert(f"the home of {user.decode(errors='replace')} is missing: {home.decode(errors='replace')}")
    return owner == uid


def _mailnames(given: tuple[bytes, ...]) -> dict[bytes, tuple[bytes, ...]]:
    found = {}
    for line in given:
        user, _, rest = line.partition(b":")
        found[user.lower()] = tuple(name for name in rest.split(b":") if name)
    return found


def _pair(name: bytes, account: bytes, prefix: bytes, options: Options) -> Iterator[bytes]:
    """Yield the line of a name, and that of its extensions. prefix: what the account has this name's files under."""
    yield b"=%b:%b%b:%b:\n" % (name, account, options.dash if prefix else b"", prefix)
    if options.has_extensions:
        yield b"+%b%b:%b%b:%b:\n" % (name, options.delimiter, account, options.dash, prefix + b"-" if prefix else b"")


def _of_subusers(given: tuple[bytes, ...], accounts: dict[bytes, bytes], options: Options) -> Iterator[bytes]:
    for line in given:
        name, user, prefix, *_ = [*line.split(b":"), b"", b""]
        account = accounts.get(user.lower())
        if account is None or not prefix:
            raise CannotConvert(f"subusers: no account for the line {line.decode(errors='replace')!r}")
        yield from _pair(name, account, prefix, options)
