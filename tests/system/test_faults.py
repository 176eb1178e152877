"""The journal stands still, the queue's folder is not ours to use: mail goes on, or waits until somebody has repaired it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from .hosts import Host, host
from .machines import RELEASES, Network

JOURNAL_UNITS = "systemd-journald.socket systemd-journald-dev-log.socket systemd-journald-audit.socket systemd-journald.service"


@pytest.fixture(scope="module", params=RELEASES)
def one(request: pytest.FixtureRequest) -> Iterator[Host]:
    with Network() as network, host("one", request.param, network) as machine:
        machine.control(idleexit="0\n")
        yield machine


def send_some(one: Host, count: int) -> None:
    """Send messages to joe in one session each and wait until all have arrived."""
    one.run("rm -rf /home/joe/Maildir")
    script = (
        "import smtplib, sys\n"
        "for n in range(int(sys.argv[1])):\n"
        "    with smtplib.SMTP('127.0.0.1', timeout=60) as s: s.sendmail('a@b.test', ['joe'], f'Subject: load {n}\\n\\nx\\n')\n"
    )
    one.run(["python3", "-c", script, str(count)])
    one.wait_for(lambda: one.subjects("joe"), what="the first message")
    one.wait_for(lambda: sorted(one.subjects("joe")) == list(range(count)), what="every message once")


def test_mail_goes_on_while_the_journal_stands_still_and_what_was_lost_is_counted(one: Host) -> None:
    send_some(one, 1)
    journald = one.run("systemctl show --property=MainPID --value systemd-journald.service").stdout.strip()
    one.run(["kill", "-STOP", journald])
    try:
        send_some(one, 400)
    finally:
        one.run(["kill", "-CONT", journald])
    send_some(one, 1)
    one.wait_for_record(where=lambda record: "records before this one were lost" in str(record.get("MESSAGE")))


def test_mail_goes_on_while_the_journal_is_gone_and_it_is_found_again(one: Host) -> None:
    send_some(one, 1)
    before = {service: one.main_pid(service) for service in ("smtpd", "queue", "send", "local")}
    one.run(f"systemctl stop {JOURNAL_UNITS}; rm -f /run/systemd/journal/socket", check=False)
    try:
        send_some(one, 20)
    finally:
        one.run("systemctl start systemd-journald.socket systemd-journald-dev-log.socket systemd-journald.service")
    since = time.time()

    def is_found_again() -> bool:
        """A service looks for the journal once a second at most, when it has something to say."""
        send_some(one, 1)
        records = one.journal("QMAILD_EVENT=delivery", f"--since=@{since:.0f}")
        return any(int(record["__REALTIME_TIMESTAMP"]) > since * 1e6 for record in records)

    one.wait_for(is_found_again, what="a delivery in the journal that is back")
    assert {service: one.main_pid(service) for service in before} == before


@pytest.mark.parametrize(("spoil", "repair", "said"), [
    # The folder itself is systemd's to repair (StateDirectory=), and it does; not what is in it.
    ("chown -R root queue/segments", "chown -R qmaild-queue queue/segments", "belongs to uid"),
    ("mv queue/format format; echo qmaild queue 99 >queue/format", "mv format queue/format", "qmaild queue 99"),
])  # fmt: skip
def test_a_queue_that_is_not_ours_is_refused_clearly_and_taken_once_repaired(
    one: Host, spoil: str, repair: str, said: str
) -> None:
    one.run(f"systemctl stop qmaild-queue.service; cd /var/lib/qmaild; {spoil}")
    client = one.popen("echo hi | /usr/sbin/sendmail joe", stdin=subprocess.DEVNULL)
    try:
        one.wait_for(lambda: said in _property(one, "StatusText"), what="a status that says why")
        record = one.wait_for_record("SYSLOG_IDENTIFIER=qmaild-queue", where=lambda record: "cannot serve" in record["MESSAGE"]
                                     and said in record["MESSAGE"])  # fmt: skip
        assert record["PRIORITY"] == "3"
        before, begun = int(_property(one, "NRestarts")), time.monotonic()
        one.wait_for(lambda: int(_property(one, "NRestarts")) >= before + 2, what="it goes on trying")
        assert time.monotonic() - begun > 0.5, "slowly"
    finally:
        one.run(f"cd /var/lib/qmaild; {repair}")
    assert client.wait(30) in (0, 75)
    one.wait_for(lambda: "messages" in _property(one, "StatusText"), what="it serves")
    one.wait_for(lambda: one.queue() == [], what="the client's message is out of the way, if it was taken")
    send_some(one, 1)


def _property(one: Host, name: str) -> str:
    return one.run(["systemctl", "show", f"--property={name}", "--value", "qmaild-queue.service"]).stdout.strip()
