"""qmaild as a peer: this tree's own programs, run by `qmaild standalone`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .load import LOCAL_DOMAIN, SINK_DOMAIN, USERS, Workload
from .peer import Peer

TREE = Path(__file__).resolve().parents[2]
UID = 65025  # the account standalone takes when root starts it
MAILDIR = ("Maildir", "Maildir/tmp", "Maildir/new", "Maildir/cur")


def start_argv(folder: Path, port: int) -> list[str]:
    """`qmaild standalone` of this tree, whatever is installed: hence -I and the path by hand."""
    start = f"import sys; sys.path.insert(0, {str(TREE)!r}); import qmaild.__main__ as q; sys.exit(q.main())"
    return [sys.executable, "-I", "-c", start, "standalone", f"--user={UID}", f"--port=smtp={port}", "--port=qmqp=0", str(folder)]


class Qmaild(Peer):
    name = "qmaild"

    def configure(self, workload: Workload) -> None:
        control = {
            "me": "bench.test",
            "locals": LOCAL_DOMAIN,
            "smtproutes": f"{SINK_DOMAIN}:127.0.0.1:{self.sink.port}",
            "destinationconcurrency": "50",  # as Postfix is set
        }
        if workload.held:
            control["queueonly"] = "1"
        (self.folder / "control").mkdir()
        for name, value in control.items():
            (self.folder / "control" / name).write_text(value + "\n")
        (self.folder / "users").write_text("".join(f"{user}\n" for user in USERS))
        for user in USERS:
            home = self.folder / "home" / user
            home.mkdir(parents=True)
            for part in MAILDIR:
                (home / part).mkdir()
                os.chown(home / part, UID, UID)
            os.chown(home, UID, UID)
        os.chown(self.folder, UID, UID)

    def argv(self) -> list[str]:
        return start_argv(self.folder, self.port)

    def maildirs(self) -> list[Path]:
        return [self.folder / "home" / user / "Maildir/new" for user in USERS]
