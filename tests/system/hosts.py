"""Mail hosts for the system tests: a machine with our packages installed, and questions about its mail."""

from __future__ import annotations

import json
import re
from typing import Any

from .machines import Machine, Network
from .packages import build_packages

USERS = ("joe", "sue", "ann")
RELAYED = "/root/relayed"  # what a stranger's server inside the machine has got (Host.serve_strangers)

# A sender inside a machine: says on standard output which messages were accepted, one number a line. Recipients take
# turns; DOOR:RECIPIENT goes through that door instead of SMTP's.
LOAD = """
import smtplib, socket, subprocess, sys, time
seconds, users, pause = float(sys.argv[1]), sys.argv[2].split(","), float(sys.argv[3])
def smtp(user, message):
    with smtplib.SMTP("127.0.0.1", 25, timeout=60) as session:
        session.sendmail("load@test", [user], message.replace("\\n", "\\r\\n"))
def sendmail(user, message):
    done = subprocess.run(["/usr/sbin/sendmail", "-f", "load@test", user], input=message.encode(), capture_output=True)
    if done.returncode:
        raise OSError(done.returncode, done.stderr.decode())
def netstring(content):
    return b"%d:%b," % (len(content), content)
def qmqp(user, message):
    with socket.create_connection(("127.0.0.1", 628), timeout=60) as sock:
        sock.sendall(netstring(b"".join(map(netstring, (message.encode(), b"load@test", user.encode())))))
        answer = sock.recv(1000)
    if answer.partition(b":")[2][:1] != b"K":
        raise OSError(answer)
end, number = time.monotonic() + seconds, 0
while time.monotonic() < end:
    number += 1
    door, _, user = users[number % len(users)].rpartition(":")
    try:
        {"": smtp, "sendmail": sendmail, "qmqp": qmqp}[door](user, f"Subject: load {number}\\n\\n" + ("x" * 60 + "\\n") * 33)
        print("accepted", number, flush=True)
    except ConnectionRefusedError:
        print("refused", number, flush=True)
    except (OSError, smtplib.SMTPException) as error:
        print("trouble", number, type(error).__name__, error, flush=True)
    time.sleep(pause)
"""


class Host(Machine):
    """A machine with qmaild-mta installed and users joe, sue and ann."""

    def prepare(self) -> Host:
        """Boot, make the users, install the packages as an administrator would."""
        self.boot()
        for user in USERS:
            self.run(["useradd", "--create-home", "--shell", "/bin/sh", user])
        self.install(build_packages(self.release))
        return self

    def control(self, **files: str) -> None:
        """Write control files; they take effect with the next start or `qmailctl reload`."""
        for name, content in files.items():
            self.write(f"/etc/qmaild/control/{name}", content)

    def mailbox(self, user: str) -> list[str]:
        """The messages in a user's Maildir, whole."""
        script = 'for f in "$0"/new/*; do [ -e "$f" ] && cat "$f" && printf "\\001"; done; true'
        printed = self.run(["sh", "-c", script, f"/home/{user}/Maildir"]).stdout
        return printed.split("\1")[:-1]

    def wait_for_mail(self, user: str, text: str, timeout: float = 30) -> str:
        """The first message of a user that contains `text`."""

        def found() -> str:
            return next((message for message in self.mailbox(user) if text in message), "")

        return self.wait_for(found, timeout, f"a message to {user} with {text!r}")

    def subjects(self, *users: str) -> list[int]:
        """The numbers of the load messages that have arrived: in Maildirs, as copies of a program, at RELAYED."""
        script = f"cat /home/*/Maildir/new/* /home/*/copies/* {RELAYED}/new/* 2>/dev/null | grep -a '^Subject: load '"
        printed = self.run(["sh", "-c", script], check=False).stdout
        return [int(number) for number in re.findall(r"^Subject: load (\d+)", printed, re.M)]

    def serve_strangers(self) -> None:
        """Start a mail server of somebody else on port 2525, which keeps what it gets at RELAYED."""
        self.run(["systemd-run", "--quiet", "--unit=stranger", "python3", "-m", "aiosmtpd", "-n", "-l", "127.0.0.1:2525",
                  "-c", "aiosmtpd.handlers.Mailbox", RELAYED])  # fmt: skip
        self.wait_for(lambda: "127.0.0.1:2525" in self.run("ss -Hltn").stdout, what="the stranger's server")

    def queue(self) -> list[dict[str, Any]]:
        """The queue as qmailctl lists it."""
        printed = self.run(["qmailctl", "queue", "list", "--json"]).stdout
        return [json.loads(line) for line in printed.splitlines()]

    def processes(self) -> list[str]:
        """The services of ours that run now."""
        printed = self.run("ps -eo args | grep -o '[q]maild[.]services[.][a-z]*' || true").stdout
        return sorted({line.rpartition(".")[2] for line in printed.split()})

    def main_pid(self, service: str) -> int:
        return int(self.run(["systemctl", "show", "--property=MainPID", "--value", f"qmaild-{service}.service"]).stdout)

    def smtp(self, *lines: str, host: str = "127.0.0.1") -> list[str]:
        """Say these lines one after the other to port 25 and return the first line of each reply, the greeting first."""
        script = (
            "import smtplib, sys, json\n"
            "session = smtplib.SMTP()\n"
            f"replies = [session.connect({host!r}, 25)]\n"
            "replies += [session.docmd(line) for line in json.load(sys.stdin)]\n"
            "for code, text in replies: print(code, text.decode(errors='replace').splitlines()[0])\n"
        )
        return self.run(["python3", "-c", script], input=json.dumps(lines)).stdout.splitlines()


def host(name: str, release: str, network: Network) -> Host:
    """A prepared host on the network."""
    return Host(name, release, network).prepare()
