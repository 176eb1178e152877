"""Where a local part leads on this machine: an entry of /etc/aliases, the mailbox that users/assign or an account's name says,
or the alias user's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

from qmaild.control.cdb import CdbError
from qmaild.control.settings import Settings
from qmaild.policy import aliases, users
from qmaild.policy.assign import Assigned, Assignments
from qmaild.runtime import journal, paths
from qmaild.runtime.accounts import Accounts
from qmaild.runtime.cdb_file import CdbFile
from qmaild.runtime.system import Account, Answer, Found, Trouble

TROUBLE_SECONDS = 1.0  # a file that cannot be read is tried, and complained of, no more often
MAX_ALIASES_BYTES = 16 << 20


class Mailbox(NamedTuple):
    """Belongs to this account, by this dash and extension. rule: what says so."""

    account: Account
    dash: bytes
    extension: bytes
    rule: bytes = b""


BY_NAME = b"the account of this name"
BY_NOBODY = b"nobody has this name, so the alias user"
BY_ALIAS = b"lines of an alias are the alias user's"


class Unsure(NamedTuple):
    """It cannot be told now: a temporary failure."""

    text: bytes


Target = Mailbox | aliases.Expansion | Unsure
Done = Callable[[Target], None]


class AliasFile:
    """The table of /etc/aliases as the file stood when it was last whole. None: it never was."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._table: aliases.Table | None = None
        self._state: tuple[int, ...] | None = None
        self._look_at = 0.0

    def table(self) -> aliases.Table | None:
        """The entries as of now: a changed file counts from the next message on, with no command in between."""
        if time.monotonic() >= self._look_at:
            self._look()
        return self._table

    def _look(self) -> None:
        try:
            status = os.stat(self._path)
            state = (status.st_mtime_ns, status.st_ino, status.st_size)
            if state == self._state:
                return
            self._state = state
            with open(self._path, "rb") as file:
                content = file.read(MAX_ALIASES_BYTES + 1)
            if len(content) > MAX_ALIASES_BYTES:
                raise aliases.AliasError(0, f"at most {MAX_ALIASES_BYTES} bytes")
            self._table = aliases.parse(content)
        except FileNotFoundError:
            self._state, self._table = None, {}
        except OSError as error:
            journal.note(journal.ERROR, f"{self._path}: cannot be read: {error.strerror}; {self._consequence()}")
            self._state, self._look_at = None, time.monotonic() + TROUBLE_SECONDS
        except aliases.AliasError as error:
            where = f"{self._path}:{error.line}"
            journal.note(journal.ERROR, f"{where}: expected {error.expected}; {self._consequence()}")

    def _consequence(self) -> str:
        return "local mail waits" if self._table is None else "the entries of before are used"


class Resolver:
    """Answers for one process. settings() gives the control files as last read."""

    def __init__(self, accounts: Accounts, settings: Callable[[], Settings], alias_path: str = paths.ALIASES,
                 users_path: str = paths.USERS) -> None:  # fmt: skip
        self._accounts = accounts
        self._settings = settings
        self._file = AliasFile(alias_path)
        self._assigned = CdbFile(f"{users_path}/cdb", Assignments, "local mail waits")

    def resolve(self, local: bytes, done: Done) -> None:
        """Find where the local part leads: aliases before accounts. done is called once, perhaps at once."""
        table = self._file.table()
        if table is None:
            done(Unsure(b"the alias file cannot be used"))
            return
        expansion = aliases.expand(table, local, lambda domain: domain.lower() in self._settings().locals)
        if expansion:
            done(expansion)
        else:
            self.mailbox(local, done)

    def mailbox(self, local: bytes, done: Done) -> None:
        """Find the account the local part belongs to, whatever the aliases say: by users/assign, else by the accounts' names."""
        try:
            assigned = self._assigned.ask(lambda reader: reader.match(local))
        except CdbError:
            done(Unsure(b"the users of this host cannot be looked up now"))
            return
        if assigned:
            self._assign(*assigned, done)
        else:
            self._try(local, users.candidates(local), done)

    def _assign(self, line: bytes, assigned: Assigned, done: Done) -> None:
        """A line that names nobody who may receive mail is an error to mend: never somebody else's mail.

        Differs: the uid must be an account's, whose groups the delivery has; the gid of the line is not used.
        """

        def answered(answer: Answer) -> None:
            if isinstance(answer, Found) and self._may_receive(answer.account):
                account = answer.account._replace(name=assigned.user, home=assigned.home)
                done(Mailbox(account, assigned.dash, assigned.extension, b"users/assign has %b:" % line))
            elif isinstance(answer, Trouble):
                done(Unsure(b"the accounts of this host cannot be looked up now"))
            else:
                done(Unsure(b"users/assign names uid %d, which receives no mail here" % assigned.uid))

        self._accounts.find(assigned.uid, answered)

    def alias_user(self, dash: bytes, extension: bytes, done: Done, rule: bytes = BY_ALIAS) -> None:
        """Find the alias user, who receives what is nobody else's."""

        def answered(answer: Answer) -> None:
            if isinstance(answer, Found) and self._may_receive(answer.account):
                done(Mailbox(answer.account, dash, extension, rule))
            else:
                done(Unsure(b"there is no alias user"))

        self._accounts.find(users.ALIAS_USER, answered)

    def _try(self, local: bytes, candidates: list[users.Candidate], done: Done) -> None:
        if not candidates:
            self.alias_user(b"-", local, done, BY_NOBODY)
            return
        first = candidates[0]

        def answered(answer: Answer) -> None:
            if isinstance(answer, Trouble):
                done(Unsure(b"the accounts of this host cannot be looked up now"))
            elif isinstance(answer, Found) and self._may_receive(answer.account):
                done(Mailbox(answer.account, first.dash, first.extension, BY_NAME))
            else:
                self._try(local, candidates[1:], done)

        self._accounts.find(first.name, answered)

    def _may_receive(self, account: Account) -> bool:
        # Standalone, every account is our own uid, whatever its number.
        if paths.STANDALONE:
            return account.uid == os.geteuid()
        return users.may_receive(account.name, account.uid, self._settings().systemusers)
