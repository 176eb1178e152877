"""What would become of a message to an address, step by step in words: nothing is delivered, nothing runs.

Knows the rules' order; the files are looked at by the account's own child, whose words are told as what they are: hostile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qmaild.control.settings import Settings
from qmaild.message import address
from qmaild.message.address import MAX_ADDRESS
from qmaild.policy import aliases, recipients, routes
from qmaild.protocol import frames
from qmaild.protocol.frames import PERMANENT, SUCCESS, TEMPORARY
from qmaild.runtime.children import Children
from qmaild.runtime.resolver import Mailbox, Resolver, Target, Unsure

FULL, LINES = b"full", b"lines"  # what is asked for: the whole way, or the instructions as `qmail-local -n` prints them
MAX_QUESTIONS = 20  # at a time: people ask
MAX_NAMES = 100  # of one alias; a longer list is not followed to its end
MAX_LINES = 2000
MAX_TEXT = 2000

DONE, FAILED, WRONG, LATER = 0, 1, 100, 111
_CODES = {SUCCESS: DONE, PERMANENT: FAILED, TEMPORARY: LATER}
_WORDS = {PERMANENT: b"failure", TEMPORARY: b"deferral"}
_CONTROLS = bytes([*range(32), 127])
_TAMED = bytes.maketrans(_CONTROLS, b"?" * len(_CONTROLS))

Told = Callable[[int, bytes], None]


class Explanations:
    """Answers an administrator's questions. mailboxes: the children that run no programs."""

    def __init__(self, resolver: Resolver, mailboxes: Children, settings: Callable[[], Settings]) -> None:
        self.resolver = resolver
        self.mailboxes = mailboxes
        self.settings = settings
        self.outstanding = 0

    def ask(self, words: list[bytes], told: Told) -> None:
        """Answer `full|lines SENDER ADDRESS`; told gets exit status and text, once."""
        if len(words) != 3 or words[0] not in (FULL, LINES) or any(map(_is_unsound, words[1:])) or not words[2]:
            told(WRONG, b"expected full or lines, a sender and an address")
        elif self.outstanding >= MAX_QUESTIONS:
            told(LATER, b"too many questions at this moment")
        else:
            self.outstanding += 1
            _Explanation(self, words[0] == LINES, words[1], words[2], self._finished(told)).start()

    def _finished(self, told: Told) -> Told:
        def finished(code: int, text: bytes) -> None:
            self.outstanding -= 1
            told(code, text)

        return finished


def _is_unsound(part: bytes) -> bool:
    return len(part) > MAX_ADDRESS or part.translate(None, _CONTROLS) != part


class _Explanation:
    """One address: lines as they become known, then what it comes to."""

    __slots__ = ("_address", "_code", "_counts", "_domain", "_house", "_is_brief", "_lines", "_local", "_names", "_sender",
                 "_told", "_why")  # fmt: skip

    def __init__(self, house: Explanations, is_brief: bool, sender: bytes, address: bytes, told: Told) -> None:
        self._house = house
        self._is_brief = is_brief
        self._sender = sender
        self._address = address
        self._told = told
        self._code = DONE
        self._why: list[bytes] = []
        self._lines: list[bytes] = []
        self._counts = [0, 0, 0]
        self._names: list[tuple[bytes, bytes]] = []  # accounts and lines that an alias leads to, still to be looked at

    def start(self) -> None:
        settings = self._house.settings()
        target = recipients.rewrite(self._address, settings)
        self._say(b"address", self._address)
        self._say(b"rule", recipients.rule_of(self._address, settings))
        if target.address != self._address:
            self._say(b"becomes", target.address)
        self._local, self._domain = address.split(target.address)
        if not target.is_local:
            self._remote(target, settings)
        elif not self._local:
            self._say(b"nobody", b"an empty local part is delivered to nobody, and nothing is done")
            self._finish()
        else:
            self._house.resolver.resolve(self._local, self._resolved)

    def _remote(self, target: recipients.Target, settings: Settings) -> None:
        route = routes.find(target.domain, settings.smtproutes)
        if route:
            self._say(b"remote", b"smtproutes has %b:%b" % route)
        else:
            self._say(b"remote", b"the mail hosts of %b" % target.domain)
        self._finish()

    def _resolved(self, target: Target) -> None:
        if isinstance(target, Mailbox):
            self._account(target, self._local, b"")
        elif isinstance(target, Unsure):
            self._stopped(TEMPORARY, b"4.3.0", target.text)
        else:
            self._alias(target)

    def _alias(self, expansion: aliases.Expansion) -> None:
        self._say(b"alias", self._local.lower())
        sender = aliases.new_sender(self._sender, self._local, self._domain, expansion.has_owner)
        if sender != self._sender:
            self._say(b"sender", sender)
        for each in expansion.forwards:
            self._counts[1] += 1
            self._instruction(0, b"forward " + each)
        self._names = [(name, b"") for name in expansion.names[:MAX_NAMES]]
        if expansion.instructions:
            self._names.append((b"", b"\n".join(expansion.instructions)))
        self._next()

    def _next(self) -> None:
        """Look at the next part of an alias, or be done."""
        if not self._names or self._code:
            self._finish()
            return
        name, lines = self._names.pop(0)
        resolver = self._house.resolver
        if lines:
            resolver.alias_user(b"-", self._local, lambda target: self._part(target, self._local, lines))
        else:
            resolver.mailbox(name, lambda target: self._part(target, name, b""))

    def _part(self, target: Target, local: bytes, lines: bytes) -> None:
        if isinstance(target, Mailbox):
            self._account(target, local, lines)
        else:
            self._stopped(TEMPORARY, b"4.3.0", target.text if isinstance(target, Unsure) else b"an alias in an alias")

    def _account(self, mailbox: Mailbox, local: bytes, lines: bytes) -> None:
        account = mailbox.account
        self._say(b"found by", mailbox.rule)
        self._say(b"user", b"%b, uid %d, home %b" % (account.name, account.uid, account.home))
        if mailbox.dash:
            self._say(b"extension", mailbox.extension)
        instructions = lines or self._house.settings().defaultdelivery
        self._house.mailboxes.ask(
            account.uid, lambda answer: self._explained(answer, account.home, bool(lines)), frames.Explain, account.name,
            account.home, local, mailbox.dash, mailbox.extension, self._domain, self._sender, instructions, int(bool(lines)),
        )  # fmt: skip

    def _explained(self, answer: Any, home: bytes, is_fixed: bool) -> None:
        if not isinstance(answer, frames.Explained) or answer.outcome not in _CODES or len(answer.numbers) != len(answer.lines):
            self._stopped(TEMPORARY, b"4.3.0", b"the deliverer of this user gave no sensible answer")
            return
        if answer.source:
            self._say(b"file", home + b"/" + answer.source)
        elif not is_fixed and answer.outcome == SUCCESS:
            self._say(b"file", b"none, or an empty one: control/defaultdelivery counts")
        if answer.outcome != SUCCESS:
            self._stopped(answer.outcome, answer.enhanced, answer.text)
            return
        for word, value in ((b"DEFAULT", answer.default), (b"warning", answer.text)):
            if value:
                self._say(word, value)
        if answer.new_sender != self._sender:
            self._say(b"sender", answer.new_sender)
        for number, line in zip(answer.numbers, answer.lines, strict=True):
            self._instruction(number, line)
        for place, count in enumerate((answer.files, answer.forwards, answer.programs)):
            self._counts[place] += count
        self._next()

    def _say(self, word: bytes, text: bytes) -> None:
        if not self._is_brief:
            self._add(b"%-11b%b" % (word, text))

    def _instruction(self, number: int, text: bytes) -> None:
        if self._is_brief:
            self._add(text)
        else:
            self._say(b"line %d" % number if number else b"entry", text)

    def _add(self, line: bytes) -> None:
        if len(self._lines) < MAX_LINES:
            self._lines.append(line[:MAX_TEXT].translate(_TAMED))

    def _stopped(self, outcome: bytes, enhanced: bytes, text: bytes) -> None:
        """Nothing is done: for now, or for good."""
        self._code = _CODES[outcome]
        if self._is_brief:
            self._lines.clear()
        self._add(b"%b %b" % (_WORDS[outcome], b"(%b) %b" % (enhanced, text)))
        self._finish()

    def _finish(self) -> None:
        if not self._code:
            self._add(b"did %d+%d+%d" % tuple(self._counts) if self._is_brief else b"would do   %d+%d+%d" % tuple(self._counts))
        self._told(self._code, b"\n".join(self._lines))
