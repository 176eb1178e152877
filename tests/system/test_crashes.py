"""Things are killed, stopped and upgraded while mail flows: nothing that was accepted is lost."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from qmaild.runtime.running import SERVICES

from .hosts import LOAD, RELAYED, USERS, Host, host
from .machines import RELEASES, Network
from .packages import build_packages

# Of the load, so that every service has work: ann has a program, strange.test is somebody else's.
RECIPIENTS = ("joe", "sendmail:sue", "ann", "x@strange.test", "qmqp:joe", "sendmail:x@strange.test")
KEEP = "|mkdir -p copies; f=copies/$$-$(date +%N); cat >.new-$$ && mv .new-$$ $f\n"


@pytest.fixture(scope="module", params=RELEASES)
def one(request: pytest.FixtureRequest) -> Iterator[Host]:
    with Network() as network, host("one", request.param, network) as machine:
        yield machine


class Load:
    """A sender that runs inside a machine; the report says which messages were accepted, refused or failed."""

    def __init__(self, machine: Host, seconds: float, pause: float = 0.005, recipients: Sequence[str] = USERS) -> None:
        machine.write("/root/load.py", LOAD)
        self._machine = machine
        self._printed = machine.root.folder / "load"
        with self._printed.open("wb") as out:
            self._process = machine.popen(["python3", "/root/load.py", str(seconds), ",".join(recipients), str(pause)],
                                          stdout=out, stdin=subprocess.DEVNULL)  # fmt: skip

    def _found(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {"accepted": [], "refused": [], "trouble": []}
        for outcome, number in re.findall(r"^(\w+) (\d+)\b.*\n", self._printed.read_text(), re.M):
            found[outcome].append(int(number))
        return found

    def until_accepted(self, count: int) -> None:
        """Wait until it has been told so often that a message was accepted."""
        self._machine.wait_for(lambda: len(self._found()["accepted"]) >= count, 60, f"{count} accepted messages")

    def report(self, timeout: float = 120) -> dict[str, list[int]]:
        self._process.wait(timeout)
        return self._found()


def drain(machine: Host, timeout: float = 120) -> None:
    """Wait until nothing is under way any more, not even what no sender heard an answer about."""

    def empty() -> bool:
        machine.run(["qmailctl", "queue", "retry", "all"])
        return machine.queue() == []

    machine.wait_for(empty, timeout, "an empty queue")


def clear(machine: Host) -> None:
    """Take away what has come, and what an earlier test still had under way."""
    drain(machine)
    machine.run(f"rm -rf /home/*/Maildir /home/*/copies {RELAYED}")


def assert_all_arrive(machine: Host, accepted: list[int], timeout: float = 200) -> None:
    machine.wait_for(lambda: set(accepted) <= set(machine.subjects()), timeout, f"{len(accepted)} accepted messages")


def test_killing_each_component_in_turn_under_load_loses_nothing(one: Host) -> None:
    clear(one)
    one.serve_strangers()
    one.write("/home/ann/.qmail", KEEP, owner="ann", mode=0o600)
    one.control(smtproutes="strange.test:127.0.0.1:2525\n", qmqpclients="127.0.0.1\n")
    one.run(["qmailctl", "reload"])
    one.run(["systemctl", "start", "qmaild-qmqpd.socket"])
    load = Load(one, 30, recipients=RECIPIENTS)
    killed: Counter[str] = Counter()
    for service in SERVICES * 2:
        time.sleep(1.2)  # the load itself is a matter of time: each kill meets some of it
        pid = one.main_pid(service)
        if pid:
            killed[service] += one.run(["kill", "-9", str(pid)], check=False).returncode == 0
    report = load.report()
    assert set(+killed) == set(SERVICES)
    assert len(report["accepted"]) > 100 and report["refused"] == []
    one.run(["qmailctl", "queue", "retry", "all"])
    assert_all_arrive(one, report["accepted"])
    drain(one)
    one.run("rm /home/ann/.qmail /etc/qmaild/control/smtproutes /etc/qmaild/control/qmqpclients")
    one.run("qmailctl reload; systemctl stop qmaild-qmqpd.socket qmaild-qmqpd.service stranger.service")


def test_twenty_kills_in_ten_seconds_do_not_close_the_door(one: Host) -> None:
    patience = time.monotonic() + 90  # a quiet machine takes less than ten seconds
    kills = 0
    while kills < 20 and time.monotonic() < patience:
        pid = one.main_pid("smtpd")
        if pid:
            kills += one.run(["kill", "-9", str(pid)], check=False).returncode == 0
        else:
            one.run("timeout 0.2 bash -c 'exec 3<>/dev/tcp/127.0.0.1/25; head -c1 <&3' || true")
        time.sleep(0.1)
    assert kills == 20
    assert one.wait_for(lambda: one.smtp("NOOP")[0].startswith("220"), what="a greeting")
    assert one.run(["systemctl", "is-active", "qmaild-smtpd-loopback.socket"]).stdout.strip() in ("active", "running")


def test_a_service_that_hangs_is_replaced_by_its_watchdog(one: Host) -> None:
    one.smtp("NOOP")
    hung = one.main_pid("smtpd")
    one.run(["kill", "-STOP", str(hung)])
    # 30 s until the watchdog sees it, 15 s more until systemd stops waiting for it to obey.
    one.wait_for(lambda: one.main_pid("smtpd") not in (0, hung), 90, "another smtpd")
    assert one.smtp("NOOP")[1].startswith("250")


def test_a_machine_that_dies_keeps_what_it_accepted(one: Host) -> None:
    clear(one)
    load = Load(one, 60)
    load.until_accepted(200)
    one.kill()
    report = load.report()
    assert len(report["accepted"]) >= 200
    one.boot()
    one.run(["qmailctl", "queue", "retry", "all"])
    assert_all_arrive(one, report["accepted"])


def test_an_upgrade_while_mail_flows_refuses_no_connection_and_loses_nothing(one: Host) -> None:
    later = build_packages(one.release, "+1")
    clear(one)
    one.run("echo hi | mail -s start joe", user="sue")
    assert one.wait_for_mail("joe", "Subject: start")
    before = {service: one.main_pid(service) for service in ("queue", "send", "local")}
    load = Load(one, 30, pause=0.02)
    load.until_accepted(10)
    one.install(later)
    version = one.run(["dpkg-query", "-W", "-f", "${Version}", "qmaild"]).stdout
    assert version.endswith("+1")
    report = load.report()
    assert report["refused"] == []
    assert len(report["accepted"]) > 100
    after = {service: one.main_pid(service) for service in before}
    assert all(after[service] != before[service] for service in before), "every service runs the new code"
    one.run(["qmailctl", "queue", "retry", "all"])
    assert_all_arrive(one, report["accepted"])


@contextlib.contextmanager
def queue_on_a_disk_of_its_own(one: Host, mebibytes: int, *options: str) -> Iterator[None]:
    """The queue lies on a small ext4, and joe's mail stays in it until his .qmail is removed."""
    one.run("systemctl stop qmaild-queue.service; cd /var/lib/qmaild; mv queue aside; mkdir queue")
    one.mount_disk("/var/lib/qmaild/queue", mebibytes, "qmaild-queue", *options)
    one.write("/home/joe/.qmail", "|exit 111\n", owner="joe", mode=0o600)
    try:
        yield
    finally:
        one.run("rm -f /home/joe/.qmail; systemctl stop qmaild-queue.service; cd /var/lib/qmaild; umount queue; "
                "rmdir queue; mv aside queue", check=False)  # fmt: skip


def fill(one: Host, size: int) -> int:
    """Send messages of this size to joe until one is refused because the disk is full; return how many were taken."""
    script = (
        "import smtplib, sys\n"
        "body = 'Subject: big\\r\\n\\r\\n' + ('x' * 990 + '\\r\\n') * (int(sys.argv[1]) // 992)\n"
        "for n in range(400):\n"
        "    try:\n"
        "        with smtplib.SMTP('127.0.0.1') as s: s.sendmail('a@b.test', ['joe'], body)\n"
        "    except smtplib.SMTPDataError as e: print(n, e.smtp_code, e.smtp_error.decode()); break\n"
    )
    printed = one.run(["python3", "-c", script, str(size)], timeout=300).stdout
    taken, _, said = printed.partition(" ")
    assert said.startswith("452 4.3.1"), printed
    return int(taken)


def assert_it_drains(one: Host, taken: int) -> None:
    """What was taken arrives although the disk is full."""
    one.run("rm -rf /home/joe/.qmail /home/joe/Maildir")
    one.run(["qmailctl", "queue", "retry", "all"])
    one.wait_for(lambda: one.queue() == [], 60, "the queue drains although the disk is full")
    assert sum("Subject: big" in message for message in one.mailbox("joe")) == taken


def test_a_full_disk_is_answered_452_and_service_resumes(one: Host) -> None:
    with queue_on_a_disk_of_its_own(one, 80):
        taken = fill(one, 240_000)
        assert taken > 100
        assert_it_drains(one, taken)
        one.run("echo hi | mail -s room-again sue", user="joe")
        assert one.wait_for_mail("sue", "Subject: room-again")


def test_a_disk_without_a_free_inode_takes_small_messages_and_large_ones_again_later(one: Host) -> None:
    with queue_on_a_disk_of_its_own(one, 80, "-N", "32"):
        taken = fill(one, 300_000)
        assert taken > 3
        one.run("echo hi | mail -s room-for-small sue", user="joe")
        assert one.wait_for_mail("sue", "Subject: room-for-small")
        assert_it_drains(one, taken)
        one.run(["mail", "-s", "room-again", "sue"], user="joe", input="a line of text\n" * 25_000)
        assert one.wait_for_mail("sue", "Subject: room-again")
