"""What is out at send, and what there is room for. Knows numbers and bytes; no store, no connection, no time."""

from __future__ import annotations

import dataclasses

WINDOW_MESSAGES = 10_000  # out at send at a time
WINDOW_BYTES = 64 << 20  # their contents, as far as they are in memory
# What was deferred before has a part of the window, so that new mail finds room however much is due: of what send
# keeps for remote lanes half the messages and a third of the bytes.
RETRY_MESSAGES = 4_000
RETRY_BYTES = 8 << 20
NOTED_BYTES = 256 << 10  # of one message while it is out: above it a note keeps its beginning only
SHORT_NOTE = 80


@dataclasses.dataclass(slots=True)
class Out:
    """A message that send has. left: recipients not answered yet; held: bytes of its content; noted: of the notes about it."""

    left: int
    held: int
    is_retry: bool
    noted: int = 0

    def bounded(self, note: bytes) -> bytes:
        """Return what is kept of one more note about the message."""
        return note if self.noted < NOTED_BYTES else note[:SHORT_NOTE]


class Window:
    """The messages that are out, by number."""

    def __init__(self) -> None:
        self._out: dict[int, Out] = {}
        self._bytes = 0
        self._retries = self._retry_bytes = 0  # of these, what was deferred before

    def __len__(self) -> int:
        return len(self._out)

    def __contains__(self, number: int) -> bool:
        return number in self._out

    def __getitem__(self, number: int) -> Out:
        return self._out[number]

    @property
    def has_room(self) -> bool:
        """Whether one more message may go out."""
        return len(self._out) < WINDOW_MESSAGES and self._bytes < WINDOW_BYTES

    @property
    def has_room_for_retries(self) -> bool:
        """Whether one more that was deferred before may."""
        return self._retries < RETRY_MESSAGES and self._retry_bytes < RETRY_BYTES and self.has_room

    def add(self, number: int, recipients: int, held: int, is_retry: bool) -> None:
        """So many recipients of this message are out now; others of it may have been out before."""
        out = self._out.get(number)
        if out is None:
            out = self._out[number] = Out(0, 0, is_retry)
            self._retries += is_retry
        out.left += recipients
        out.held += held
        self._bytes += held
        self._retry_bytes += held * out.is_retry

    def settle(self, number: int, recipients: int) -> None:
        """So many recipients of this message are answered; with the last one it is out no more."""
        out = self._out[number]
        out.left -= recipients
        if out.left > 0:
            return
        del self._out[number]
        self._bytes -= out.held
        self._retries -= out.is_retry
        self._retry_bytes -= out.held * out.is_retry

    def clear(self) -> list[int]:
        """Return the numbers of all that was out; nothing is."""
        numbers = list(self._out)
        self._out.clear()
        self._bytes = self._retries = self._retry_bytes = 0
        return numbers
