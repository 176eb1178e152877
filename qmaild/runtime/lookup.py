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
        """Call done with the answer, later or at once; None if there was none.

        When somebody has waited for local in vain nobody else does: all are told so at once, while one question of ours
        waits for it, until it is heard of again. A session with a hundred recipients would wait for each of them.
        """

        def answered(answer: Any, descriptor: int) -> None:
            if isinstance(answer, frames.Is) and answer.outcome != frames.TEMPORARY:
                if len(self._known) >= MAX_REMEMBERED:
                    self._known.clear()  # rare, and cheaper than keeping an order
                self._known[address] = (self._loop.time() + REMEMBERED_SECONDS, answer)
            if not is_away:
                done(answer)

        is_away = self._caller.is_away
        if not is_away or not self._caller.outstanding:
            self._caller.ask(answered, frames.Who, address)
        if is_away:
            done(None)

    def forget(self) -> None:
        """The settings changed: ask anew."""
        self._known.clear()
