"""The administrator's commands to the queue: words in, (exit code, text) out. Knows the store; not who asks.

A queue may be a million messages deep, and a message have a hundred thousand recipients, and the loop that answers here
serves all others, too. So what is about many goes in slices. About messages each answer begins with a line "NEXT COUNT",
and the asker goes on after message NEXT until that is 0; about one message's recipients it begins with a line "NEXT", and
the asker goes on from recipient NEXT. In a list as JSON a line that is a number stands for a message with too many
recipients for a line: the asker has it shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable

from qmaild.control import events
from qmaild.policy import lane_names
from qmaild.queue import listing
from qmaild.queue.commits import Commits
from qmaild.queue.store import Store
from qmaild.queue.values import Search, StoreError
from qmaild.runtime import journal

SLICE_SECONDS = 0.01  # of the loop's time for one answer: about a thousand lines
SLICE_MESSAGES = 1000
SLICE_RECIPIENTS = 500  # of one message, in one answer or in a list
MAX_DOMAIN = 1000  # a longer one is no lane's

Answer = tuple[int, bytes]
Act = Callable[[int], str | None]


class Administration:
    """wake: something was made due."""

    def __init__(self, loop: asyncio.AbstractEventLoop, store: Store, commits: Commits, wake: Callable[[], None]) -> None:
        self._loop = loop
        self._store = store
        self._commits = commits
        self._wake = wake
        self.commands: dict[bytes, Callable[[list[bytes]], Answer]] = {
            b"show": self._show, b"retry": self._retry, b"delete": self._delete, b"sweep": self._sweep,
        }  # fmt: skip

    # --- one message

    def _show(self, words: list[bytes]) -> Answer:
        """NUMBER FROM [json]: recipients of a message from this index on; from 0 on the message itself stands before them."""
        try:
            number, first = int(words[0]), int(words[1])
            summary = self._store.summary(number, first, SLICE_RECIPIENTS)
        except (IndexError, ValueError):
            return 100, b"show NUMBER FROM [json]"
        except (OverflowError, StoreError) as error:
            return _not_there(words[0], error)
        is_json = words[2:] == [b"json"]
        shown = len(summary.recipients)
        lines = [str(first + shown if shown == SLICE_RECIPIENTS else 0)]
        if not first:
            lines.append(listing.json_head(summary) if is_json else listing.head(summary))
        lines += map(listing.json_part if is_json else listing.part_line, summary.recipients)
        return 0, "\n".join(lines).encode()

    def _retry(self, words: list[bytes]) -> Answer:
        if words == [b"all"]:
            self.retry_all()
            return 0, b"all waiting messages are due now"
        try:
            self._store.retry(int(words[0]))
        except (IndexError, ValueError):
            return 100, b"retry NUMBER|all"
        except (OverflowError, StoreError) as error:
            return _not_there(words[0], error)
        self._wake()
        return 0, b"message %b is due now" % words[0]

    def _delete(self, words: list[bytes]) -> Answer:
        try:
            self._end(int(words[0]))
        except (IndexError, ValueError):
            return 100, b"delete NUMBER"
        except (OverflowError, StoreError) as error:
            return _not_there(words[0], error)
        self._commits.kick()
        return 0, b"message %b is deleted" % words[0]

    def _end(self, number: int) -> None:
        sender = self._store.brief(number).sender
        self._store.end(number)
        journal.record(events.ENDED, message=number, sender=sender)

    # --- many

    def _sweep(self, words: list[bytes]) -> Answer:
        """VERB AFTER [DOMAIN]: for all messages above AFTER, or those with undone recipients at the domain."""
        try:
            verb, after, *rest = words
            cursor, (domain,) = int(after), rest or [b""]
            act = self._acts(domain)[verb]
            numbers, following = self._store.find(search_for(domain) if domain else None, cursor, SLICE_MESSAGES)
        except (KeyError, ValueError, OverflowError):
            return 100, b"sweep list|json|retry|delete|verify AFTER [DOMAIN]"
        deadline = time.monotonic() + SLICE_SECONDS
        found: list[str] = []
        for place, number in enumerate(numbers):
            found += _tried(act, number)
            if time.monotonic() > deadline and place + 1 < len(numbers):
                following = number
                break
        if verb == b"retry":
            self._wake()
        self._commits.kick()
        return 0, "\n".join([f"{following} {len(found)}", *filter(None, found)]).encode()

    def retry_all(self, after: int = 0) -> None:
        """Everything that waits is due now, a slice in each turn of the loop."""
        numbers, following = self._store.find(None, after, SLICE_MESSAGES)
        for number in numbers:
            with contextlib.suppress(StoreError):  # it is not durable yet
                self._store.retry(number)
        self._wake()
        if following:
            self._loop.call_soon(self.retry_all, following)

    def _acts(self, domain: bytes) -> dict[bytes, Act]:
        """Return what to do with each message; a text is a line of the answer."""
        return {
            b"list": lambda number: listing.line(self._store.brief(number)),
            b"json": self._json,
            b"retry": lambda number: self._retry_at(number, domain),
            b"delete": lambda number: self._delete_at(number, domain),
            b"verify": self._verify,
        }

    def _json(self, number: int) -> str:
        summary = self._store.summary(number, most=SLICE_RECIPIENTS + 1)
        return str(number) if len(summary.recipients) > SLICE_RECIPIENTS else listing.as_json(summary)

    def _retry_at(self, number: int, domain: bytes) -> None:
        if domain:
            self._store.retry(number, self._store.match(number, search_for(domain)).indexes)
        else:
            self._store.retry(number)

    def _verify(self, number: int) -> str | None:
        try:
            self._store.verify(number)
        except StoreError as error:
            if error.reason not in ("unknown", "state"):  # those have just ended, or are not durable yet
                return f"message {number}: {error}"
        return None

    def _delete_at(self, number: int, domain: bytes) -> None:
        """Other domains' recipients of the message are left alone, and a bounce that it owes for some of them is sent."""
        if not domain:
            self._end(number)
            return
        found = self._store.match(number, search_for(domain))
        self._store.done(number, found.indexes)
        if len(found.indexes) == found.undone_count:
            journal.record(events.ENDED, message=number, sender=found.sender)
        else:
            journal.record(events.REMOVED, message=number, sender=found.sender, recipients=len(found.indexes),
                           text=listing.shown(domain))  # fmt: skip


def search_for(domain: bytes) -> Search:
    """Return what finds recipients at the domain: by their lane, and where that does not tell by their addresses."""
    if len(domain) > MAX_DOMAIN:
        raise ValueError(domain)
    return Search(lane_names.only_for(domain), lane_names.shared_by(domain), b"@" + domain)


def _tried(act: Act, number: int) -> Iterable[str]:
    """A message that cannot be read is passed over: it is in the journal, and another look may find it well."""
    try:
        return [act(number) or ""]
    except StoreError:
        return []


def _not_there(number: bytes, error: Exception) -> Answer:
    if isinstance(error, StoreError) and error.reason != "unknown":
        return 1, str(error).encode()
    return 1, b"no message %b is in the queue" % number
