"""The proof that a 250 follows the sync of its message. Knows strace's words and sender.c's marks; starts nothing.

The tracer holds every thread at each call until it has written it down, so a call that another one waited for stands
before it in the trace. Positions are line numbers: of a call that stands in two parts, the first is where it began and
the second where it returned.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

CALLS = ("fdatasync", "fsync", "write", "writev", "pwrite64", "pwritev", "pwritev2",
         "sendto", "sendmsg", "sendmmsg", "openat", "rename", "renameat2")  # fmt: skip
SYNCS = ("fdatasync", "fsync")
MARK = re.compile(r"(sender|begin|end)-([a-z0-9]+-\d{6})")
MARK_BYTES = 64  # more than a mark has: one may lie across two writes
_LINE = re.compile(r"(\d+) +[\d:.]+ (.*)", re.DOTALL)
_PART = re.compile(r"<\.\.\. (\w+) resumed>(.*)", re.DOTALL)
_CALL = re.compile(r"(\w+)\((.*)", re.DOTALL)
_FILE = re.compile(r"\d+<(/[^>]*)>")
_PEER = re.compile(r"\w+\(\d+<TCP(?:v6)?:\[[^>]*->[^>]*:(\d+)\]>")
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
_UNFINISHED = " <unfinished ...>"


@dataclass(frozen=True, slots=True)
class Sent:
    """One line of sender.c: a message, the client's port, the reply's code; when it began, was answered, was there (us)."""

    name: str
    port: int
    code: int
    begun: int
    replied: int
    placed: int

    @classmethod
    def of(cls, line: str) -> Sent:
        name, *numbers = line.split()
        return cls(name, *map(int, numbers))


@dataclass(slots=True)
class Span:
    """When a call began and when it had returned."""

    begun: int
    ended: int


@dataclass(slots=True)
class _File:
    """What happened to one file or folder of the queue: the last write, its making, every sync that returned 0."""

    written: Span | None = None
    made: Span | None = None
    syncs: list[Span] = field(default_factory=list)
    tail: str = ""

    def synced_after(self, position: int) -> int | None:
        """Where the first sync that began after this position had returned."""
        return min((sync.ended for sync in self.syncs if sync.begun > position), default=None)


class Trace:
    """What a trace says of the queue's files and of SMTP replies. Feed it line by line, then ask what is wrong."""

    def __init__(self) -> None:
        self._position = 0
        self._unfinished: dict[str, tuple[int, str]] = {}
        self._files: dict[str, _File] = {}
        self._marks: dict[tuple[str, str], tuple[str, Span]] = {}
        self._after_354: set[int] = set()
        self._replies: dict[int, list[tuple[str, int]]] = {}

    @property
    def syncs(self) -> int:
        """How many syncs of the queue's files returned 0."""
        return sum(len(file.syncs) for file in self._files.values())

    def feed(self, line: str) -> None:
        self._position += 1
        if not (found := _LINE.match(line)):
            return
        thread, text = found.groups()
        if text.rstrip("\n").endswith(_UNFINISHED):
            text = text.rstrip("\n").removesuffix(_UNFINISHED)
            self._unfinished[thread] = self._position, text
            self._reply(text, self._position)
        elif part := _PART.match(text):
            begun, first = self._unfinished.pop(thread, (0, ""))
            if first:  # else it began before we looked
                self._call(first + part[2], Span(begun, self._position))
        else:
            self._reply(text, self._position)
            self._call(text, Span(self._position, self._position))

    def _reply(self, text: str, begun: int) -> None:
        """A reply is a promise from the moment its write began, whenever that returned."""
        if not (peer := _PEER.match(text)):
            return
        port = int(peer[1])
        for line in "".join(_TEXT.findall(text)).split(r"\r\n"):
            if line.startswith("354"):
                self._after_354.add(port)
            elif port in self._after_354 and re.match(r"\d{3}(?!-)", line):
                self._after_354.discard(port)
                self._replies.setdefault(port, []).append((line[:3], begun))

    def _call(self, text: str, span: Span) -> None:
        if not (call := _CALL.match(text)):
            return
        arguments, _, answer = text.rpartition(") = ")
        if answer.startswith(("-", "?")) or "INJECTED" in answer:
            return
        if call[1] == "openat":
            if "O_CREAT" in arguments and (made := _FILE.match(answer)) and _is_queue(made[1]):
                self._file(made[1]).made = span
            return
        if not (on := _FILE.match(call[2])) or not _is_queue(on[1]):
            return
        if call[1] in SYNCS:
            self._file(on[1]).syncs.append(span)
        elif "write" in call[1]:
            self._written(on[1], arguments, span)

    def _written(self, path: str, arguments: str, span: Span) -> None:
        file = self._file(path)
        file.written = span
        # What strace prints behind the bytes (how many, and where) is no part of them.
        text = file.tail + "".join(_TEXT.findall(arguments)).replace(r"\n", "\n")
        for mark in MARK.finditer(text):
            self._marks.setdefault((mark[1], mark[2]), (path, span))  # later ones are copies
        file.tail = text[-MARK_BYTES:]

    def _file(self, path: str) -> _File:
        return self._files.setdefault(path, _File())

    # --- verdicts

    def faults(self, sent: Iterable[Sent]) -> list[str]:
        """One text for each message whose 250 is not covered; none for those that kept the promise."""
        found = []
        taken: dict[int, int] = {}
        for message in sorted(sent, key=lambda each: each.begun):
            nth = taken[message.port] = taken.get(message.port, -1) + 1
            replies = self._replies.get(message.port, [])
            if message.code != 250 or len(replies) <= nth or replies[nth][0] != "250":
                found.append(f"{message.name}: no 250 (the client saw {message.code})")
            elif fault := self._fault(message.name, replies[nth][1]):
                found.append(f"{message.name}: {fault}")
        return found

    def _fault(self, name: str, promised: int) -> str:
        record = self._marks.get(("sender", name))
        if record is None or not _is_segment(record[0]):
            return "its record was never written"
        path, span = record
        if fault := self._uncovered(path, span.ended, promised, "its record"):
            return fault
        for kind in ("begin", "end"):
            part = self._marks.get((kind, name))
            if part is None:
                return f"the {kind} of its body was never written"
            if _is_segment(part[0]):
                fault = self._uncovered(part[0], part[1].ended, promised, f"the {kind} of its body")
            else:
                fault = self._large_fault(part[0], span.begun)
            if fault:
                return fault
        return ""

    def _large_fault(self, path: str, recorded: int) -> str:
        """A file of its own, and its name in the folder, are durable before a record names it."""
        file = self._files[path]
        if file.made is None or file.written is None:
            return "its file was not made while we looked"
        folder = path.rpartition("/")[0]
        return self._uncovered(path, file.written.ended, recorded, "its file") or self._uncovered(
            folder, file.made.ended, recorded, "the name of its file"
        )

    def _uncovered(self, path: str, written: int, before: int, what: str) -> str:
        synced = self._file(path).synced_after(written)
        if synced is None:
            return f"{what} was never synced"
        return "" if synced < before else f"the sync of {what} had not returned"


def _is_segment(path: str) -> bool:
    return "/segments/" in path


def _is_queue(path: str) -> bool:
    return _is_segment(path) or "/large/" in path or path.endswith(("/large", "/segments"))
