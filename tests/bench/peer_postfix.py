"""Debian's Postfix as a peer: its own root, default durability, no limit that would only slow it down."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.system.roots import base_root

from .load import LOCAL_DOMAIN, SINK_DOMAIN, USERS, Sink, Workload, await_count
from .peer import Peer

RELEASE = "bookworm"
PACKAGES = ("postfix", "procps")
ADD_USERS = "".join(f'chroot "$1" useradd --create-home {user}\n' for user in USERS)

MAIN_CF = """
compatibility_level = 3.6
queue_directory = /var/spool/postfix
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
data_directory = /var/lib/postfix
mail_owner = postfix
setgid_group = postdrop
myhostname = bench.test
mydestination = {local}
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtp_tls_security_level = none
smtpd_tls_security_level = none
# As many processes as the load can use, and no brake.
default_process_limit = 200
in_flow_delay = 0
smtpd_client_connection_count_limit = 0
local_destination_concurrency_limit = 20
default_destination_concurrency_limit = 50
initial_destination_concurrency = 20
# No names to look up: neither side has a DNS server here.
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
transport_maps = inline:{{{sink}=smtp:[127.0.0.1]:{sink_port}}}
alias_maps =
alias_database =
home_mailbox = Maildir/
biff = no
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions = {restrictions}
"""

# In mount and process namespaces of its own: PID 1 there is master, and its end is the end of all the others.
RUN = """
set -eu
root=$1 run=$2
mount --bind "$root" "$root"
for part in etc/postfix:etc var/spool/postfix:spool var/lib/postfix:lib home:home
do mount --bind "$run/${part#*:}" "$root/${part%:*}"; done
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero random urandom log; do : >"$root/dev/$device"; done
for device in null zero random urandom; do mount --bind "/dev/$device" "$root/dev/$device"; done
mount --bind "$run/log.socket" "$root/dev/log"
exec chroot "$root" /usr/sbin/postfix start-fg
"""


def postfix_root() -> Path:
    """A root with Postfix, its smtp-source and the users u1 to u4; never changed by a run."""
    return base_root(RELEASE, PACKAGES, purpose="postfix", hook=ADD_USERS)


def postfix_version() -> str:
    argv = ["chroot", str(postfix_root()), "dpkg-query", "-Wf", "${Version}", "postfix"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


class Postfix(Peer):
    name = "postfix"

    def __init__(self, folder: Path, sink: Sink, sink_program: Path) -> None:
        super().__init__(folder, sink)
        self._root = postfix_root()
        self._sink_program = sink_program
        self._log: subprocess.Popen[str] | None = None

    def configure(self, workload: Workload) -> None:
        for source, name in (("etc/postfix", "etc"), ("var/spool/postfix", "spool"),
                             ("var/lib/postfix", "lib"), ("home", "home")):  # fmt: skip
            subprocess.run(["cp", "-a", self._root / source, self.folder / name], check=True)
        restrictions = "permit_mynetworks, reject"
        if workload.held:
            restrictions = f"check_recipient_access static:HOLD, {restrictions}"
        main_cf = MAIN_CF.format(
            local=LOCAL_DOMAIN, sink=SINK_DOMAIN, sink_port=self.sink.port, restrictions=restrictions
        )
        (self.folder / "etc/main.cf").write_text(main_cf)
        master_cf = self.folder / "etc/master.cf"
        master_cf.write_text(self._master_cf(master_cf.read_text()))
        # Something reads the log, as on every host; what that costs is not the server's.
        self._log = subprocess.Popen(
            [self._sink_program, "log", self.folder / "log.socket"], stdout=subprocess.PIPE, text=True
        )
        assert self._log.stdout is not None and self._log.stdout.readline() == "ready\n"

    def _master_cf(self, shipped: str) -> str:
        """Debian's services without their chroots, with smtpd on our port."""
        lines = []
        for line in shipped.splitlines():
            words = line.split()
            if line[:1] in ("", "#", " ", "\t") or len(words) < 8:
                lines.append(line)
                continue
            if words[:2] == ["smtp", "inet"]:
                words[0] = f"127.0.0.1:{self.port}"
            words[4] = "n"
            lines.append(" ".join(words))
        return "\n".join(lines) + "\n"

    def argv(self) -> list[str]:
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private",
                "sh", "-c", RUN, "sh", str(self._root), str(self.folder)]  # fmt: skip

    def maildirs(self) -> list[Path]:
        return [self.folder / "home" / user / "Maildir/new" for user in USERS]

    def await_held(self, messages: int) -> None:
        hold = self.folder / "spool/hold"
        await_count(lambda: sum(1 for path in hold.rglob("*") if path.is_file()), messages, "postfix: held")

    def stop(self) -> None:
        super().stop()
        if self._log is not None:
            self._log.kill()
            self._log.wait()
            assert self._log.stdout is not None
            self._log.stdout.close()
            self._log = None
