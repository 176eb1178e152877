"""Dot-qmail files of real users: what their own rights allow, and that `qmailctl explain` looks with these and no others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .hosts import Host, host
from .machines import RELEASES, Network


@pytest.fixture(scope="module", params=RELEASES)
def one(request: pytest.FixtureRequest) -> Iterator[Host]:
    with Network() as network, host("one", request.param, network) as machine:
        yield machine


def waiting(one: Host) -> list[str]:
    """The recipients that wait for another attempt."""
    return [part["address"] for message in one.queue() for part in message["recipients"] if part["state"] == "waiting"]


def test_f102_a_file_that_its_user_may_not_read_defers_and_is_not_taken_for_missing(one: Host) -> None:
    one.write("/home/joe/.qmail", "./Maildir/\n", owner="root", mode=0o600)
    one.run("echo hi | mail -s unreadable joe", user="sue")
    one.wait_for(lambda: waiting(one) == ["joe@one.test"], what="the deferral")
    deferral = one.wait_for_record("QMAILD_EVENT=delivery", "QMAILD_OUTCOME=temporary")
    assert "read .qmail: Permission denied" in deferral["MESSAGE"]
    told = one.run(["qmailctl", "explain", "joe"], check=False)
    assert (told.returncode, told.stdout.splitlines()[-1]) == (111, "deferral (4.2.1) unable to read .qmail: Permission denied")
    assert one.mailbox("joe") == []
    one.run(["chown", "joe:", "/home/joe/.qmail"])
    one.run("maildirmake /home/joe/Maildir", user="joe")
    one.run(["qmailctl", "queue", "retry", "all"])
    assert one.wait_for_mail("joe", "Subject: unreadable")


def test_programs_of_lines_run_in_the_sandbox_as_the_user_and_forward_through_the_queue(one: Host) -> None:
    one.write("/home/sue/.qmail-on", "|qmaild except qmaild bouncesaying x true\n|id -un >who; echo $HOME >>who\n"
              "|qmaild condredirect ann grep -q 'Subject: go on'\n|touch not-redirected\n", owner="sue", mode=0o600)  # fmt: skip
    one.run("echo hi | mail -s 'go on' sue-on", user="joe")
    message = one.wait_for_mail("ann", "Subject: go on")
    assert message.startswith("Return-Path: <joe@one.test>\nDelivered-To: ann@one.test\n")
    assert "\nDelivered-To: sue-on@one.test\n" in message
    assert one.read("/home/sue/who") == "sue\n/home/sue\n"
    assert one.run(["test", "-e", "/home/sue/not-redirected"], check=False).returncode == 1


def test_explain_looks_as_the_user_and_is_for_administrators(one: Host) -> None:
    one.run(["chmod", "700", "/home/sue"])
    one.write("/home/sue/.qmail-list", "# mine\n|touch ran\n&ann\n", owner="sue", mode=0o600)
    one.run(["usermod", "--append", "--groups", "qmaild-admin", "ann"])
    for user in ("root", "ann"):
        told = one.run(["qmailctl", "explain", "sue-list@one.test"], user=user).stdout.splitlines()
        assert told[-4:] == [
            "file       /home/sue/.qmail-list", "line 2     program touch ran", "line 3     forward ann", "would do   0+1+1"]
        uid = one.run(["id", "-u", "sue"]).stdout.strip()
        assert f"user       sue, uid {uid}, home /home/sue" in told
    refused = one.run(["qmailctl", "explain", "sue-list@one.test"], user="joe", check=False)
    assert refused.returncode == 1 and "qmaild-admin" in refused.stderr and not refused.stdout
    assert one.run(["test", "-e", "/home/sue/ran"], check=False).returncode == 1
    assert one.queue() == []
    told = one.run(["qmailctl", "explain", "root"]).stdout
    assert "\nrule       locals has one.test\n" in told and "\nuser       qmaild-alias, uid " in told
    # A link to what only root may read shows nothing of it.
    one.run(["ln", "-s", "/etc/shadow", "/home/sue/.qmail-shadow"])
    told = one.run(["qmailctl", "explain", "sue-shadow"], check=False)
    assert told.returncode == 111 and "root" not in told.stdout and "Permission denied" in told.stdout
