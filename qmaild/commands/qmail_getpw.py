"""qmail-getpw LOCAL: print the account that a local part belongs to by its name, as six fields with a NUL behind each.

Exit status: 0, 100 wrong call, 111 the settings cannot be read, 116 there is no alias account, 118 the accounts cannot be asked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from qmaild.policy import users
from qmaild.policy.users import ALIAS_USER, Candidate
from qmaild.runtime import controls, system

NO_ALIAS, TROUBLE = 116, 118


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the fields: user, uid, gid, home, dash, extension."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["--"]:
        del words[0]
    if len(words) != 1:
        print("qmail-getpw: usage: qmail-getpw LOCAL", file=sys.stderr)
        return 100
    try:
        system_users = controls.read().systemusers
    except controls.ControlError as error:
        print(f"qmail-getpw: {error}", file=sys.stderr)
        return 111
    local = os.fsencode(words[0])
    for name, dash, extension in (*users.candidates(local), Candidate(ALIAS_USER, b"-", local)):
        answer = system.account_by_name(name)
        if isinstance(answer, system.Trouble):
            print("qmail-getpw: the accounts of this host cannot be looked up now", file=sys.stderr)
            return TROUBLE
        if isinstance(answer, system.Found) and users.may_receive(name, answer.account.uid, system_users):
            account = answer.account
            fields = (account.name, b"%d" % account.uid, b"%d" % account.gid, account.home, dash, extension)
            sys.stdout.buffer.write(b"".join([field + b"\0" for field in fields]))
            sys.stdout.buffer.flush()
            return 0
    print(f"qmail-getpw: there is no account {ALIAS_USER.decode()}", file=sys.stderr)
    return NO_ALIAS


if __name__ == "__main__":
    sys.exit(main())
