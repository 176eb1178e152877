"""The accounts of this machine, asked for off the event loop and remembered for seconds. Three answers: found, absent, trouble.

They are asked for by name, or by uid (an int).
Standalone, accounts are the lines of DIR/users: every name has the home DIR/home/name and our own uid.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from qmaild.policy.users import ALIAS_USER
from qmaild.runtime import paths, system
from qmaild.runtime.system import Absent, Account, Answer, Found, Trouble

Done = Callable[[Answer], None]
Key = bytes | int

FOUND_SECONDS = 10.0  # an account that was changed is known anew after this
ABSENT_SECONDS = 1.0  # short: the account may just have been made
MAX_REMEMBERED = 10_000
THREADS = 4  # a slow directory holds up this many lookups, and never the loop
MAX_USERS_BYTES = 1 << 20


class Accounts:
    """Looks up accounts. What is asked for several times at once is looked up once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._known: dict[Key, tuple[float, Answer]] = {}
        self._asked: dict[Key, list[Done]] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._ask: Callable[[Key], Answer] = _standalone if paths.STANDALONE else _of_the_machine

    @property
    def outstanding(self) -> int:
        return len(self._asked)

    def find(self, key: Key, done: Done) -> None:
        """Call done with the answer: at once if it is remembered, else later."""
        known = self._known.get(key)
        if known and known[0] > self._loop.time():
            done(known[1])
            return
        waiting = self._asked.setdefault(key, [])
        waiting.append(done)
        if len(waiting) == 1:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(THREADS, "accounts")
            future = self._threads.submit(self._ask, key)
            future.add_done_callback(lambda future: self._loop.call_soon_threadsafe(self._answered, key, future))

    def forget(self) -> None:
        """The settings changed: ask anew."""
        self._known.clear()

    def close(self) -> None:
        if self._threads:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    def _answered(self, key: Key, future: Future[Answer]) -> None:
        answer = future.result()
        if not isinstance(answer, Trouble):
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()  # rare, and cheaper than keeping an order
            seconds = FOUND_SECONDS if isinstance(answer, Found) else ABSENT_SECONDS
            self._known[key] = (self._loop.time() + seconds, answer)
        for done in self._asked.pop(key, []):
            done(answer)


def _of_the_machine(key: Key) -> Answer:
    return system.account_by_uid(key) if isinstance(key, int) else system.account_by_name(key)


def _standalone(name: Key) -> Answer:
    """Answer from DIR/users. The alias user is always there; its home is DIR/alias."""
    top = os.fsencode(paths.STANDALONE)
    if isinstance(name, int):
        return _ours(b"", top) if name == os.geteuid() else Absent()
    if name == ALIAS_USER:
        return _ours(name, top + b"/alias")
    try:
        with open(top + b"/users", "rb") as file:
            names = file.read(MAX_USERS_BYTES).split()
    except FileNotFoundError:
        return Absent()
    except OSError as error:
        return Trouble(error.errno or 0)
    if name in names and b"/" not in name:
        return _ours(name, top + b"/home/" + name)
    return Absent()


def _ours(name: bytes, home: bytes) -> Found:
    return Found(Account(name, os.geteuid(), os.getegid(), home, b"/bin/sh"))
