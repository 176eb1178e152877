"""Dot-qmail: which file an extension leads to, what its lines mean, what a program is told. Knows no files and no clock."""

from __future__ import annotations

import enum
from typing import NamedTuple

from qmaild.message import address
from qmaild.protocol.frames import PERMANENT, SUCCESS, TEMPORARY

MAX_NAME = 255  # a longer file name cannot exist
NO_BOUNCE_SENDERS = (b"", b"#@[]")  # of a bounce and of a double bounce: never replaced by an -owner
PROGRAM_SECONDS = 3600.0  # for all program lines of one delivery. Differs: qmail lets them run for ever

EXIT_STOP = 99  # success, and the lines below are not run
EXITS_PERMANENT = frozenset({100, 64, 65, 70, 76, 77, 78, 112})  # what qmail-local and sysexits.h call hopeless


class Kind(enum.Enum):
    MAILDIR = enum.auto()
    MBOX = enum.auto()
    PROGRAM = enum.auto()
    FORWARD = enum.auto()
    INCLUDE = enum.auto()  # a list of addresses in a file; only in the fixed instructions of an alias


class Instruction(NamedTuple):
    """One line: value is the path (a Maildir's without its last slash), the command or the address."""

    kind: Kind
    value: bytes


class InstructionError(ValueError):
    """The instructions cannot be followed as they stand: a temporary failure, so that their owner can mend them.

    line counts from 1.
    """

    def __init__(self, line: int, enhanced: bytes, text: bytes) -> None:
        super().__init__(f"line {line}: {text.decode()}")
        self.line = line
        self.enhanced = enhanced
        self.text = text


class Envelope(NamedTuple):
    """What a delivery is about: the account it belongs to, the parts of its forward-path, the reverse-path."""

    user: bytes
    home: bytes
    local: bytes
    dash: bytes
    extension: bytes
    domain: bytes
    sender: bytes


def is_possible(extension: bytes) -> bool:
    """Return whether a file for this extension may exist. Differs: qmail lets / lead into a folder; we never leave the home."""
    return b"/" not in extension and b"\0" not in extension


def file_names(dash: bytes, extension: bytes) -> list[tuple[bytes, bytes | None]]:
    """Return (file name, what DEFAULT is then) in the order of search.

    Differs: for an address without extension qmail also tries `.qmaildefault`, an accident of its code.
    """
    safe = extension.lower().replace(b".", b":")
    stem = b".qmail" + dash
    default = extension[-7:] if safe.endswith(b"default") else None
    found: list[tuple[bytes, bytes | None]] = [(stem + safe, default)]
    if dash:
        for place in range(len(safe), -1, -1):
            if place == 0 or safe[place - 1] == 0x2D:
                found.append((stem + safe[:place] + b"default", extension[place:]))
    return [(name, default) for name, default in found if len(name) <= MAX_NAME]


def owner_names(dash: bytes, extension: bytes) -> tuple[bytes, bytes]:
    """Return the names of the two files that change the sender of forwards: -owner and -owner-default."""
    stem = b".qmail" + dash + extension.lower().replace(b".", b":")
    return stem + b"-owner", stem + b"-owner-default"


def new_sender(envelope: Envelope, has_owner: bool, has_owner_default: bool) -> bytes:
    """Return the sender of forwards: the owner's address, a VERP template when bounces have a default of their own."""
    if envelope.sender in NO_BOUNCE_SENDERS or not has_owner:
        return envelope.sender
    if has_owner_default:
        return envelope.local + b"-owner-@" + envelope.domain + b"-@[]"
    return envelope.local + b"-owner@" + envelope.domain


def parse(content: bytes, forward_only: bool, fixed: bool = False) -> tuple[Instruction, ...]:
    """Return the instructions of a dot-qmail file, or raise InstructionError.

    forward_only: the file has its owner's x bit. fixed: the lines come from /etc/aliases, where :include: has a meaning.
    Differs: the whole file is judged before its first line is followed, so a bad line never makes duplicates.
    """
    return tuple([instruction for _, instruction in numbered(content, forward_only, fixed)])


def numbered(content: bytes, forward_only: bool, fixed: bool = False) -> list[tuple[int, Instruction]]:
    """Return the same, each with the number of its line."""
    found: list[tuple[int, Instruction]] = []
    for number, line in enumerate(content.split(b"\n"), 1):
        line = line.rstrip(b" \t")
        if not line:
            if number == 1:
                raise InstructionError(1, b"4.2.1", b"the first line is blank")
            continue
        if line.startswith(b"+"):
            forward_only = forward_only or line == b"+list"
            continue
        if line.startswith(b"#"):
            continue
        instruction = _instruction(line, fixed)
        if forward_only and instruction.kind in _NOT_IN_LISTS:
            raise InstructionError(number, b"4.7.0", b"a file or program line where only forwards may stand")
        if b"\0" in instruction.value:
            raise InstructionError(number, b"4.2.1", b"a NUL byte")
        found.append((number, instruction))
    return found


_WORDS = {
    Kind.MAILDIR: b"maildir %b/", Kind.MBOX: b"mbox %b", Kind.PROGRAM: b"program %b", Kind.FORWARD: b"forward %b",
    Kind.INCLUDE: b"include %b",
}  # fmt: skip


def shown(instruction: Instruction) -> bytes:
    """Return the instruction as `qmail-local -n` prints it."""
    return _WORDS[instruction.kind] % instruction.value


_NOT_IN_LISTS = (Kind.MAILDIR, Kind.MBOX, Kind.PROGRAM)


def _instruction(line: bytes, fixed: bool) -> Instruction:
    first = line[:1]
    if first == b"|":
        return Instruction(Kind.PROGRAM, line[1:])
    if first in (b"/", b"."):
        if line.endswith(b"/"):
            return Instruction(Kind.MAILDIR, line.rstrip(b"/") or b"/")
        return Instruction(Kind.MBOX, line)
    if fixed and line.startswith(b":include:"):
        return Instruction(Kind.INCLUDE, line[9:])
    return Instruction(Kind.FORWARD, line[1:] if first == b"&" else line)


def delivered_to(local: bytes, domain: bytes) -> bytes:
    """Return the Delivered-To line: one line whatever the address holds."""
    return b"Delivered-To: %b@%b\n" % (local.replace(b"\n", b"_"), domain.replace(b"\n", b"_"))


def return_path(sender: bytes) -> bytes:
    """Return the Return-Path line."""
    return b"Return-Path: <%b>\n" % address.quote(sender).replace(b"\n", b"_")


_BLANKS = bytes.maketrans(b" \t\n", b"---")


def from_line(sender: bytes, date: bytes) -> bytes:
    """Return the From_ line of an mbox; date as message.dates.from_line_date writes it."""
    return b"From %b %b\n" % (sender.translate(_BLANKS) or b"MAILER-DAEMON", date)


def environment(envelope: Envelope, forward_sender: bytes, default: bytes | None, date: bytes) -> dict[bytes, bytes]:
    """Return the variables a program line gets. Their values are a stranger's: programs must quote them."""
    local, domain, extension = envelope.local, envelope.domain, envelope.extension
    values = {
        b"SENDER": envelope.sender, b"NEWSENDER": forward_sender, b"RECIPIENT": local + b"@" + domain,
        b"USER": envelope.user, b"HOME": envelope.home, b"LOCAL": local, b"HOST": domain, b"EXT": extension,
        b"DTLINE": delivered_to(local, domain), b"RPLINE": return_path(envelope.sender),
        b"UFLINE": from_line(envelope.sender, date),
    }  # fmt: skip
    for name in (b"EXT2", b"EXT3", b"EXT4"):
        extension = extension.partition(b"-")[2]
        values[name] = extension
    for name in (b"HOST2", b"HOST3", b"HOST4"):
        domain = domain.rpartition(b".")[0] or domain
        values[name] = domain
    if default is not None:
        values[b"DEFAULT"] = default
    return values


def outcome_of_exit(status: int) -> bytes:
    """Return the outcome that a program's exit status means; negative (a signal) and unknown ones are temporary."""
    if status in (0, EXIT_STOP):
        return SUCCESS
    return PERMANENT if status in EXITS_PERMANENT else TEMPORARY
