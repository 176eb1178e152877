"""A delivery as its recipient: dot-qmail looked up and followed. Runs in the child that has become that user.

Plain Maildir deliveries of one read are one batch; everything else goes one by one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from qmaild.delivery import dotfile, maildir, mbox, program, questions
from qmaild.delivery.contents import Contents
from qmaild.delivery.outcome import DELIVERED, Outcome, of_error, permanent, temporary
from qmaild.message.dates import from_line_date
from qmaild.policy import aliases, dotqmail
from qmaild.policy.dotqmail import Envelope, Instruction, Kind
from qmaild.protocol import frames
from qmaild.protocol.frames import SUCCESS

NULL_FILE = b"/dev/null"  # Differs: as a file line it throws away, as it does in /etc/aliases everywhere

LOOPING = permanent(b"5.4.6", b"this message is looping: it already has my Delivered-To line")


class Plan(NamedTuple):
    """One delivery with its instructions. is_default: they are the default's; is_fixed: an alias's own lines."""

    tag: int
    envelope: Envelope
    contents: Contents
    instructions: tuple[Instruction, ...]
    default: bytes | None
    is_default: bool
    is_fixed: bool


class Deliverer:
    """Follows orders of local. has_programs: whether this unit runs program lines."""

    def __init__(self, host: bytes, has_programs: bool) -> None:
        self._maildirs = maildir.Maildirs(host)
        self._has_programs = has_programs
        self.lifeline = -1  # see program.run
        self._parsed: tuple[bytes, tuple[Instruction, ...]] = (b"", ())

    def answer(self, orders: Sequence[tuple[Any, int]]) -> Iterator[list[frames.Frame]]:
        """Yield the answers to all (order or question, descriptor), as soon as they are known; the descriptors are closed."""
        try:
            slow: list[Plan] = []
            yield self._quick(orders, slow)
            for plan in slow:  # a mailbox that is locked holds up none of the others
                try:
                    yield [self._follow(plan)]
                except Exception as error:
                    yield [_delivered(plan.tag, _failed(error))]
        finally:
            for _, descriptor in orders:
                if descriptor >= 0:
                    os.close(descriptor)

    def _quick(self, orders: Sequence[tuple[Any, int]], slow: list[Plan]) -> list[frames.Frame]:
        """Answer what needs no more than Maildirs; what remains is added to slow."""
        answers: list[frames.Frame] = []
        plain: list[tuple[Plan, maildir.Letter]] = []
        files: dict[tuple[bytes, ...], Any] = {}  # within one batch a dot-qmail file is read once
        for order, descriptor in orders:
            if not isinstance(order, frames.Deliver):
                answers.append(questions.answer(order))
                continue
            try:
                plan = self._plan(order, descriptor, files)
            except Exception as error:
                plan = _failed(error)
            if isinstance(plan, Outcome):
                answers.append(_delivered(order.tag, plan))
            elif not isinstance(plan, Plan):
                answers.append(plan)
            elif len(plan.instructions) == 1 and plan.instructions[0].kind is Kind.MAILDIR:
                plain.append((plan, _letter(plan, plan.instructions[0])))
            else:
                slow.append(plan)
        for (plan, _), outcome in zip(plain, self._maildirs.deliver([letter for _, letter in plain]), strict=True):
            answers.append(_delivered(plan.tag, outcome._replace(text=outcome.text or b"did 1+0+0")))
        return answers

    def _plan(self, order: Any, descriptor: int, files: dict[tuple[bytes, ...], Any]) -> Plan | Outcome | frames.NeedsProgram:
        envelope = Envelope(order.user, order.home, order.local, order.dash, order.extension, order.domain, order.sender)
        if any(b"\0" in part for part in envelope):
            return permanent(b"5.1.3", b"a NUL byte in an address")
        try:
            contents = Contents(order.content, descriptor)
            if contents.has_line(dotqmail.delivered_to(order.local, order.domain)):
                return LOOPING
        except OSError as error:
            return of_error(b"read the message", error)
        source = b"the alias"
        try:
            if order.fixed:
                plan = Plan(order.tag, envelope, contents, dotqmail.parse(order.instructions, False, True), None, False, True)
            else:
                found = self._found(envelope, files)
                if isinstance(found, Outcome):
                    return found
                source = found.name if found and found.content else b"defaultdelivery"
                plan = self._with_instructions(order, envelope, contents, found)
        except dotqmail.InstructionError as error:
            return temporary(error.enhanced, b"%b:%d: %b" % (source, error.line, error.text))
        if not self._has_programs and any(each.kind is Kind.PROGRAM for each in plan.instructions):
            return frames.NeedsProgram(order.tag)
        return plan

    def _found(self, envelope: Envelope, files: dict[tuple[bytes, ...], Any]) -> dotfile.Found | Outcome | None:
        key = (envelope.home, envelope.dash, envelope.extension)
        if key not in files:
            home = (envelope.home,)
            if home not in files:
                files[home] = dotfile.judge_home(envelope.home)
            files[key] = files[home] or dotfile.look(*key)
        found: dotfile.Found | Outcome | None = files[key]
        return found

    def _with_instructions(self, order: Any, envelope: Envelope, contents: Contents, found: dotfile.Found | None) -> Plan:
        if found and found.content:
            lines = dotqmail.parse(found.content, found.forward_only)
            return Plan(order.tag, envelope, contents, lines, found.default, False, False)
        # No file, or an empty one, which means the default delivery and nothing about the x bit.
        if order.instructions != self._parsed[0]:
            self._parsed = (order.instructions, dotqmail.parse(order.instructions, False))
        return Plan(order.tag, envelope, contents, self._parsed[1], found.default if found else None, True, False)

    def _follow(self, plan: Plan) -> frames.Delivered:
        """Follow the instructions from top to bottom; forwards are only collected, so that they happen last."""
        did = {Kind.MAILDIR: 0, Kind.MBOX: 0, Kind.PROGRAM: 0}
        said: list[bytes] = []
        forwards: list[bytes] = []
        sender = _forward_sender(plan)
        deadline = time.monotonic() + dotqmail.PROGRAM_SECONDS
        for instruction in plan.instructions:
            is_last = False
            if instruction.kind is Kind.FORWARD:
                forwards.append(instruction.value)
                continue
            if instruction.kind is Kind.INCLUDE:
                outcome = _include(instruction.value, forwards)
            elif instruction.kind is Kind.PROGRAM:
                outcome, is_last = self._run(plan, instruction.value, sender, deadline)
                said.append(outcome.text)
            else:
                outcome = self._file(plan, instruction)
            if outcome.outcome != SUCCESS:
                said = said if instruction.kind is Kind.PROGRAM else [*said, outcome.text]
                return _delivered(plan.tag, outcome._replace(text=_join(said)))
            if instruction.kind in did:
                did[instruction.kind] += 1
            if is_last:
                break
        counts = (did[Kind.MAILDIR] + did[Kind.MBOX], len(forwards), did[Kind.PROGRAM])
        said.append(b"did %d+%d+%d" % counts)
        return frames.Delivered(plan.tag, SUCCESS, b"2.0.0", _join(said), sender, forwards)

    def _file(self, plan: Plan, instruction: Instruction) -> Outcome:
        if instruction.kind is Kind.MAILDIR:
            return self._maildirs.deliver([_letter(plan, instruction)])[0]
        if instruction.value == NULL_FILE:
            return DELIVERED
        path = _path(plan, instruction)
        from_line = dotqmail.from_line(plan.envelope.sender, from_line_date(int(time.time())))
        return mbox.deliver(path, from_line, _lines(plan.envelope), plan.contents)

    def _run(self, plan: Plan, command: bytes, sender: bytes, deadline: float) -> tuple[Outcome, bool]:
        """Run one program line. The flag says that no line below it is followed."""
        date = from_line_date(int(time.time()))
        variables = dotqmail.environment(plan.envelope, sender, plan.default, date)
        try:
            message = program.message_file(plan.contents)
            try:
                left = deadline - time.monotonic()
                ended = program.run(command, plan.envelope.home, message, variables, left, self.lifeline)
            finally:
                os.close(message)
        except OSError as error:
            return of_error(b"run the program", error), False
        if ended.is_late:
            return temporary(b"4.3.0", ended.output + b"the program took too long and was ended"), False
        outcome = dotqmail.outcome_of_exit(ended.status)
        text = ended.output
        if ended.status < 0:
            text += b"the program was ended by signal %d" % -ended.status
        enhanced = {SUCCESS: b"2.0.0", frames.TEMPORARY: b"4.3.0"}.get(outcome, b"5.3.0")
        return Outcome(outcome, enhanced, text), ended.status == dotqmail.EXIT_STOP


def _delivered(tag: int, outcome: Outcome) -> frames.Delivered:
    """The answer of a delivery that forwards nothing."""
    return frames.Delivered(tag, outcome.outcome, outcome.enhanced, outcome.text, b"", [])


def _failed(error: Exception) -> Outcome:
    """What a fault of our own means: temporary, and for this delivery alone, not for all that came with it."""
    return temporary(b"4.3.0", b"the deliverer failed: " + type(error).__name__.encode())


def _lines(envelope: Envelope) -> bytes:
    return dotqmail.return_path(envelope.sender) + dotqmail.delivered_to(envelope.local, envelope.domain)


def _path(plan: Plan, instruction: Instruction) -> bytes:
    return os.path.join(plan.envelope.home, instruction.value)


def _letter(plan: Plan, instruction: Instruction) -> maildir.Letter:
    # Differs: the default's Maildir is made when it is missing: a fresh account receives without configuration.
    return maildir.Letter(_path(plan, instruction), _lines(plan.envelope), plan.contents, plan.is_default)


def _forward_sender(plan: Plan) -> bytes:
    """Return the sender of forwards, asking the disk for -owner files only where the answer is of use."""
    envelope = plan.envelope
    if plan.is_fixed or all(each.kind in (Kind.MAILDIR, Kind.MBOX) for each in plan.instructions):
        return envelope.sender
    return dotqmail.new_sender(envelope, *dotfile.owners(envelope.home, envelope.dash, envelope.extension))


def _include(path: bytes, forwards: list[bytes]) -> Outcome:
    """Add the addresses of an :include: file, read as the alias user and with no more than its rights."""
    try:
        with open(path, "rb") as file:
            content = file.read(dotfile.MAX_FILE_BYTES + 1)
    except OSError as error:
        return of_error(b"read the included list", error)
    if len(content) > dotfile.MAX_FILE_BYTES:
        return temporary(b"4.2.1", b"the included list is too long")
    try:
        forwards += aliases.parse_list(content)
    except aliases.AliasError as error:
        return temporary(b"4.2.1", b"the included list %b: %b" % (path, str(error).encode()))
    return DELIVERED


def _join(said: list[bytes]) -> bytes:
    """Return the report's text, bounded as qmail-lspawn does it."""
    text = b"\n".join([part.rstrip(b"\n") for part in said if part.strip()])
    return text if len(text) <= program.MAX_OUTPUT + 100 else text[: program.MAX_OUTPUT] + b"..."
