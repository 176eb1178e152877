"""What can be asked of a user's files without a delivery: whether there is one for an extension, what an order would do."""

from __future__ import annotations

from qmaild.delivery import dotfile
from qmaild.delivery.outcome import Outcome, temporary
from qmaild.policy import dotqmail
from qmaild.policy.dotqmail import Instruction, Kind
from qmaild.protocol import frames
from qmaild.protocol.frames import SUCCESS

MAX_LINES = 1000  # of one answer; nobody reads more
MAX_LINE = 1000

Question = frames.Exists | frames.Explain


def answer(question: Question) -> frames.Frame:
    """Answer one question. A fault of our own is a temporary failure, as it is of a delivery."""
    try:
        return _exists(question) if isinstance(question, frames.Exists) else _explain(question)
    except Exception as error:
        text = b"the deliverer failed: " + type(error).__name__.encode()
        if isinstance(question, frames.Exists):
            return frames.Is(question.tag, frames.TEMPORARY, text)
        return _refused(question.tag, temporary(b"4.3.0", text))


def _exists(question: frames.Exists) -> frames.Is:
    found = dotfile.judge_home(question.home) or dotfile.look(question.home, question.dash, question.extension)
    if isinstance(found, Outcome):
        return frames.Is(question.tag, found.outcome, found.text)
    return frames.Is(question.tag, SUCCESS, b"")


def _explain(question: frames.Explain) -> frames.Explained:
    """Look where a delivery looks, in its order, and tell what it would find."""
    if question.fixed:
        return _told(question, b"", b"", True, b"", question.instructions, False)
    judged = dotfile.judge_home(question.home)
    if judged and judged is not dotfile.STICKY:
        return _refused(question.tag, judged)
    warning = judged.text if judged else b""
    found = dotfile.look(question.home, question.dash, question.extension)
    if isinstance(found, Outcome):
        return _refused(question.tag, found)
    if found and found.content:
        return _told(question, warning, found.name, False, found.default or b"", found.content, found.forward_only)
    default = (found.default if found else None) or b""
    return _told(question, warning, b"", False, default, question.instructions, False)


def _told(
    question: frames.Explain, warning: bytes, source: bytes, fixed: bool, default: bytes, content: bytes, forward_only: bool,
) -> frames.Explained:  # fmt: skip
    try:
        lines = dotqmail.numbered(content, forward_only, fixed)
    except dotqmail.InstructionError as error:
        where = source or (b"the alias" if fixed else b"defaultdelivery")
        refused = _refused(question.tag, temporary(error.enhanced, b"%b:%d: %b" % (where, error.line, error.text)))
        return refused._replace(source=source)
    kinds = [instruction.kind for _, instruction in lines]
    files = kinds.count(Kind.MAILDIR) + kinds.count(Kind.MBOX)
    return frames.Explained(
        question.tag, SUCCESS, b"2.0.0", warning, source, default, _new_sender(question),
        [number for number, _ in lines[:MAX_LINES]], [_line(each) for _, each in lines[:MAX_LINES]],
        files, kinds.count(Kind.FORWARD), kinds.count(Kind.PROGRAM),
    )  # fmt: skip


def _line(instruction: Instruction) -> bytes:
    return dotqmail.shown(instruction)[:MAX_LINE]


def _new_sender(question: frames.Explain) -> bytes:
    if question.fixed:
        return question.sender
    envelope = dotqmail.Envelope(*question[1:8])
    return dotqmail.new_sender(envelope, *dotfile.owners(question.home, question.dash, question.extension))


def _refused(tag: int, outcome: Outcome) -> frames.Explained:
    return frames.Explained(tag, *outcome, b"", b"", b"", [], [], 0, 0, 0)
