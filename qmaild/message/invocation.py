"""What a caller of sendmail and its kin asked for: arguments and variables as one value."""

from __future__ import annotations

import dataclasses
import enum
from typing import NamedTuple

MAX_VARIABLE = 1000  # bytes of a name or host from the environment: longer ones make no address
LETTERS = frozenset(b"cfirms")  # of QMAILINJECT


class UsageError(ValueError):
    """The program was called wrongly; the text says how."""


class Kind(enum.Enum):
    """What is to be done."""

    MESSAGE = "qmail-inject's work"
    RAW = "qmail-queue's work"
    LIST = "mailq"
    ALIASES = "newaliases"
    DIALOGUE = "SMTP on standard input and output"
    VERIFY = "whether recipients exist"
    NOTHING = "nothing is left to do"


@dataclasses.dataclass(frozen=True, slots=True)
class Invocation:
    """sender None: none was given. arguments: recipients as given. shows: print the message, queue nothing.

    header_recipients: the message's recipient fields count too.
    """

    program: str
    kind: Kind
    arguments: tuple[bytes, ...] = ()
    header_recipients: bool = False
    sender: bytes | None = None
    shows: bool = False
    variables: dict[str, bytes] = dataclasses.field(default_factory=dict)

    @property
    def letters(self) -> frozenset[int]:
        """QMAILINJECT's letters that mean something."""
        return LETTERS & frozenset(self.variables.get("QMAILINJECT", b""))

    def variable(self, *names: str) -> bytes:
        """Return the first of these variables that is set and not empty."""
        return next((self.variables[name] for name in names if self.variables.get(name)), b"")


class Failures(NamedTuple):
    """A program's exit codes: called wrongly, message at fault, refused for good, refused for now."""

    usage: int
    unacceptable: int
    permanent: int
    temporary: int


EXIT_CODES = {
    # sysexits: EX_USAGE, EX_DATAERR, EX_UNAVAILABLE, EX_TEMPFAIL
    "sendmail": Failures(64, 65, 69, 75),
    "mailq": Failures(64, 65, 69, 75),
    "newaliases": Failures(64, 65, 69, 75),
    "qmail-inject": Failures(100, 100, 100, 111),
    "qmail-queue": Failures(100, 31, 31, 71),
}

# sendmail's options by how they take an argument; the rest of what it accepts stands alone.
_WITH_ARGUMENT = frozenset(b"fFrBNRVXOohLCDpMe")
_ARGUMENT_ATTACHED = frozenset(b"bqdAEJ")
_ALONE = frozenset(b"tivmxnUGI")
_MODES = {
    b"m": Kind.MESSAGE, b"": Kind.MESSAGE, b"p": Kind.LIST, b"i": Kind.ALIASES, b"s": Kind.DIALOGUE,
    b"v": Kind.VERIFY,
}  # fmt: skip
_MODES_REFUSED = {
    b"d": "-bd: the server is started by systemd (qmaild.target)",
    b"t": "-bt: addresses are not tested here",
}


def variables_of(environment: list[bytes]) -> dict[str, bytes]:
    """Return NAME=value strings as a table. UsageError for a value that is too long."""
    found: dict[str, bytes] = {}
    for text in environment:
        name, _, value = text.partition(b"=")
        shown = name.decode("ascii", "replace")
        if len(value) > MAX_VARIABLE and name != b"QMAILMFTFILE":
            raise UsageError(f"the variable {shown[:40]} is longer than {MAX_VARIABLE} bytes")
        found[shown] = value
    return found


def _options(arguments: list[bytes], with_argument: frozenset[int], attached: frozenset[int],
             alone: frozenset[int]) -> tuple[list[tuple[int, bytes]], tuple[bytes, ...]]:  # fmt: skip
    """Return the options with their arguments, and what stands behind them."""
    options: list[tuple[int, bytes]] = []
    place = 0
    while place < len(arguments):
        word = arguments[place]
        if not word.startswith(b"-") or word == b"-":
            break
        place += 1
        if word == b"--":
            break
        for at, letter in enumerate(word[1:], 2):
            rest = word[at:]
            if letter in alone:
                options.append((letter, b""))
                continue
            if letter in with_argument and not rest:
                if place == len(arguments):
                    raise UsageError(f"expected an argument behind -{chr(letter)}")
                rest = arguments[place]
                place += 1
            elif letter not in with_argument and letter not in attached:
                raise UsageError(f"the option -{chr(letter) if 32 < letter < 127 else '?'} is not known")
            options.append((letter, rest))
            break
    return options, tuple(arguments[place:])


def _sendmail(arguments: list[bytes], variables: dict[str, bytes]) -> Invocation:
    options, rest = _options(arguments, _WITH_ARGUMENT, _ARGUMENT_ATTACHED, _ALONE)
    kind, from_header, sender, name = Kind.MESSAGE, False, None, None
    for letter, argument in options:
        if letter == ord("t"):
            from_header = True
        elif letter in b"fr":
            sender = argument
        elif letter == ord("F"):
            name = argument
        elif letter == ord("I"):
            kind = Kind.ALIASES
        elif letter == ord("q") and kind is Kind.MESSAGE:
            kind = Kind.NOTHING  # the queue is run by its own clock
        elif letter == ord("b"):
            if argument not in _MODES:
                raise UsageError(_MODES_REFUSED.get(argument[:1], "expected -bm, -bp, -bs, -bi or -bv"))
            kind = _MODES[argument]
    if sender is not None:
        variables = _with_identity(variables, sender)
    elif name is not None:
        # Differs: qmail lets QMAILNAME win over -F; who writes -F means it.
        variables = {**variables, "QMAILNAME": name[:MAX_VARIABLE]}
    if kind is Kind.MESSAGE and not from_header and not rest:
        raise UsageError("expected recipients, or -t to take them from the message")
    if kind is Kind.VERIFY and not rest:
        raise UsageError("expected recipients behind -bv")
    return Invocation("sendmail", kind, rest, from_header, sender, False, variables)


def _with_identity(variables: dict[str, bytes], sender: bytes) -> dict[str, bytes]:
    """-f says who the author is too: a From that is missing is made of it, without a name."""
    hidden = ("QMAILNAME", "MAILNAME", "NAME", "QMAILHOST", "MAILHOST")
    kept = {name: value for name, value in variables.items() if name not in hidden}
    if sender in (b"", b"<>"):
        return kept
    local, at, host = sender.rpartition(b"@")
    kept["QMAILUSER"] = local if at else host
    if at:
        kept["QMAILHOST"] = host
    return kept


def _qmail_inject(arguments: list[bytes], variables: dict[str, bytes]) -> Invocation:
    options, rest = _options(arguments, frozenset(b"f"), frozenset(), frozenset(b"aAhHnN"))
    recipients, shows, sender = ord("A"), False, None
    for letter, argument in options:
        if letter in b"aAhH":
            recipients = letter
        elif letter in b"nN":
            shows = letter == ord("n")
        else:
            sender = argument
    from_header = recipients in b"hH" or (recipients == ord("A") and not rest)
    named = () if recipients == ord("h") else rest
    return Invocation("qmail-inject", Kind.MESSAGE, named, from_header, sender, shows, variables)


def parse(program: bytes, arguments: list[bytes], environment: list[bytes]) -> Invocation:
    """Return what was asked for. UsageError if the program does not take these arguments."""
    name = program.decode("ascii", "replace")
    if name == "qmail-queue":  # takes no arguments and reads no variable
        return Invocation(name, Kind.RAW)
    if name == "mailq":
        return Invocation(name, Kind.LIST)
    if name == "newaliases":
        return Invocation(name, Kind.ALIASES)
    if name == "qmail-inject":
        return _qmail_inject(arguments, variables_of(environment))
    if name == "sendmail":
        return _sendmail(arguments, variables_of(environment))
    raise UsageError("this program is not known to the mail service")
