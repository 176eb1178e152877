"""Whether a local recipient exists: asked of local, remembered for seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from qmaild.protocol import frames
from qmaild.runtime.caller import Caller

REMEMBERED_SECONDS = 5.0  # a new user is not refused for longer than this
MAX_REMEMBERED = 10_000

Found = Callable[[frames.Is | None], None]


class Lookup:
    """Questions of one process. Sure answers, yes or no, are kept for a short while; trouble is not."""

    def __init__(self, loop: asyncio.AbstractEventLoop, caller: Caller) -> None:
        self._loop = loop
        self._caller = caller
        self._known: dict[bytes, tuple[float, frames.Is]] = {}

    def known(self, address: bytes) -> frames.Is | None:
        """Return the answer if it is fresh in memory."""
        found = self._known.get(address)
        if found is None or found[0] < self._loop.time():
            return None
        return found[1]

    def ask(self, address: bytes, done: Found) -> None:
        """Call done later with the answer; None if there was none."""

        def answered(answer: Any, descriptor: int) -> None:
            if isinstance(answer, frames.Is) and answer.outcome != frames.TEMPORARY:
                if len(self._known) >= MAX_REMEMBERED:
                    self._known.clear()  # rare, and cheaper than keeping an order
                self._known[address] = (self._loop.time() + REMEMBERED_SECONDS, answer)
            done(answer)

        self._caller.ask(answered, frames.Who, address)

    def forget(self) -> None:
        """The settings changed: ask anew."""
        self._known.clear()
