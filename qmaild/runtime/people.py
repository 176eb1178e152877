"""Who a local client is, beyond its uid: its account's name, and whether it administers the server."""

from __future__ import annotations

import asyncio
import grp
import os
import time

from qmaild.policy import aliases
from qmaild.runtime import paths, system

ADMINISTRATORS = "qmaild-admin"
KNOWN_SECONDS = 60.0
MAX_KNOWN = 1000
MAX_ALIASES_BYTES = 64 << 20


def _ask(uid: int, gid: int) -> tuple[bytes, bool]:
    """Ask the system. An account that is absent or in trouble has no name and no rights: the safe reading."""
    answer = system.account_by_uid(uid)
    account = answer.account if isinstance(answer, system.Found) else None
    name = account.name if account else b""
    if uid == 0 or (paths.STANDALONE and uid == os.geteuid()):
        return name, True
    try:
        administrators = grp.getgrnam(ADMINISTRATORS).gr_gid
        is_member = account is not None and administrators in system.groups_of(account.name, account.gid)
        return name, administrators == gid or is_member
    except (KeyError, OSError):
        return name, False


class People:
    """Remembers answers for a minute: a program that sends a thousand messages is looked up once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[float, tuple[bytes, bool]]] = {}

    async def of(self, uid: int, gid: int) -> tuple[bytes, bool]:
        """Return (account name or empty, is administrator). The system is asked beside the loop."""
        now = time.monotonic()
        known = self._known.get((uid, gid))
        if known and now - known[0] < KNOWN_SECONDS:
            return known[1]
        answer = await asyncio.to_thread(_ask, uid, gid)
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[uid, gid] = (now, answer)
        return answer


def read_aliases() -> list[str]:
    """Return what is wrong in the aliases file, as file, line and what was expected. Waits for the disk."""
    try:
        with open(paths.ALIASES, "rb") as file:
            content = file.read(MAX_ALIASES_BYTES + 1)
        if len(content) > MAX_ALIASES_BYTES:
            return [f"{paths.ALIASES}:0: expected at most {MAX_ALIASES_BYTES} bytes"]
        aliases.parse(content)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{paths.ALIASES}:0: expected a readable file ({error.strerror})"]
    except aliases.AliasError as error:
        return [f"{paths.ALIASES}:{error.line}: expected {error.expected}"]
    return []


async def check_aliases() -> list[str]:
    """The same beside the loop."""
    return await asyncio.to_thread(read_aliases)
