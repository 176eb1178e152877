"""One host as a fresh Debian has it: what a local user sends arrives with no configuration, or comes back."""

from __future__ import annotations

import email
import time
from collections.abc import Iterator

import pytest

from qmaild.runtime.running import SERVICES

from .hosts import Host, host
from .machines import RELEASES, Network


@pytest.fixture(scope="module", params=RELEASES)
def one(request: pytest.FixtureRequest) -> Iterator[Host]:
    with Network() as network, host("one", request.param, network) as machine:
        yield machine


def test_mail_of_a_local_user_arrives_with_no_configuration(one: Host) -> None:
    one.run("echo hi | mail -s first joe", user="sue")
    message = one.wait_for_mail("joe", "Subject: first")
    assert message.startswith("Return-Path: <sue@one.test>\nDelivered-To: joe@one.test\nReceived: ")
    assert message.endswith("\n\nhi\n")


def test_sendmail_works_in_a_sandbox_where_set_id_programs_do_not(one: Host) -> None:
    one.run(
        ["systemd-run", "--wait", "--pipe", "--quiet", "--property=DynamicUser=yes", "--property=NoNewPrivileges=yes",
         "--property=PrivateNetwork=yes", "/usr/sbin/sendmail", "-t"],
        input="To: joe\nSubject: sandboxed\n\nhi\n",
    )  # fmt: skip
    assert one.wait_for_mail("joe", "Subject: sandboxed")


def test_the_sendmail_client_costs_less_than_two_milliseconds(one: Host) -> None:
    script = (
        "import resource, subprocess\n"
        "def spent(): u = resource.getrusage(resource.RUSAGE_CHILDREN); return u.ru_utime + u.ru_stime\n"
        "def run(*argv): subprocess.run(argv, input=b'Subject: cheap\\n\\nhi\\n', check=True)\n"
        "start = spent()\nfor _ in range(20): run('/bin/true')\nbase = spent() - start\n"
        "start = spent()\nfor _ in range(20): run('/usr/sbin/sendmail', 'ann')\n"
        "print((spent() - start - base) / 20)\n"
    )
    assert float(one.run(["python3", "-c", script]).stdout) < 0.002


def test_mail_to_root_goes_to_the_alias_account_and_nothing_runs_as_root(one: Host) -> None:
    one.run("echo hi | mail -s to-root root", user="sue")
    one.wait_for(lambda: "to-root" in one.run("cat /var/lib/qmaild/alias/Maildir/new/* 2>/dev/null", check=False).stdout,
                 what="root's mail")  # fmt: skip
    printed = one.run("ps -eo uid,args | grep '[q]maild' || true").stdout
    assert printed and not [line for line in printed.splitlines() if line.split()[0] == "0" and "services" in line]


def test_f080_accounts_of_the_system_leave_their_mail_to_the_alias_user_under_its_whole_name(one: Host) -> None:
    for local in ("root", "daemon", "www-data"):
        one.write(f"/var/lib/qmaild/alias/.qmail-{local}-box", "./Maildir/\n", owner="qmaild-alias")
        one.run(["/usr/sbin/sendmail", f"{local}-Box"], user="sue", input=f"Subject: for {local}\n\nhi\n")
        read = "cat /var/lib/qmaild/alias/Maildir/new/* 2>/dev/null"
        one.wait_for(lambda: f"Subject: for {local}" in one.run(read, check=False).stdout, what=f"mail to {local}")  # noqa: B023
        assert f"Delivered-To: {local}-Box@one.test" in one.run(read).stdout


def test_users_assign_moves_mail_between_uids_and_its_damage_makes_it_wait(one: Host) -> None:
    # The names that a package of qmail's programs brings are links.
    one.run("for each in qmail-pw2u qmail-newu; do ln -s /usr/libexec/qmaild/program /usr/local/sbin/$each; done")
    one.run("getent passwd | qmail-pw2u >/etc/qmaild/users/assign && qmail-newu")
    assign = one.read("/etc/qmaild/users/assign")
    assert "=joe:joe:" in assign and assign.endswith("\n.\n") and "root" not in assign and "daemon" not in assign
    one.run("test -d /home/sue/Maildir || maildirmake /home/sue/Maildir", user="sue")
    one.write("/home/sue/.qmail-desk", "./Maildir/\n", owner="sue", mode=0o600)
    number = one.run(["id", "-u", "sue"]).stdout.strip()
    one.write("/etc/qmaild/users/assign", f"=help:sue:{number}:{number}:/home/sue:-:desk:\n{assign}")
    one.run(["qmail-newu"])
    one.run("echo hi | mail -s assigned help; echo hi | mail -s as-before joe", user="ann")
    assert "Delivered-To: help@one.test" in one.wait_for_mail("sue", "Subject: assigned")
    assert one.wait_for_mail("joe", "Subject: as-before")
    one.run("truncate --size=-1 /etc/qmaild/users/cdb")
    said = one.smtp("EHLO x", "MAIL FROM:<a@b.test>", "RCPT TO:<help@one.test>", "RCPT TO:<joe@one.test>")
    assert [reply[:3] for reply in said] == ["220", "250", "250", "451", "451"]
    one.run("echo hi | mail -s waited joe", user="ann")
    one.wait_for(lambda: "/etc/qmaild/users/cdb: " in one.run("journalctl -u qmaild-local --no-pager").stdout, what="a record")
    assert not [message for message in one.mailbox("joe") if "Subject: waited" in message]
    one.run(["qmaild", "qmail-newu"])
    one.run(["qmailctl", "queue", "retry", "all"])
    assert one.wait_for_mail("joe", "Subject: waited")
    one.run("rm /etc/qmaild/users/assign /etc/qmaild/users/cdb /usr/local/sbin/qmail-*")


def test_aliases_are_honoured_and_an_error_in_them_keeps_the_old_ones(one: Host) -> None:
    before = one.read("/etc/aliases")
    one.write("/etc/aliases", before + "staff: joe, sue\n")
    one.run(["newaliases"])
    one.run("echo hi | mail -s to-staff staff", user="ann")
    assert one.wait_for_mail("joe", "Subject: to-staff") and one.wait_for_mail("sue", "Subject: to-staff")
    one.write("/etc/aliases", before + "staff: joe, sue\n broken line without a name\n: x\n")
    assert one.run(["newaliases"], check=False).returncode != 0
    one.write("/etc/aliases", before)


def test_a_dot_qmail_file_with_all_kinds_of_lines_is_obeyed(one: Host) -> None:
    one.run("test -d /home/sue/Maildir || maildirmake /home/sue/Maildir", user="sue")
    one.write("/home/sue/.qmail", "# a comment\n./Maildir/\n./mbox\n|cat >out\n&ann\n", owner="sue", mode=0o600)
    one.run("echo hi | mail -s all-kinds sue", user="joe")
    assert one.wait_for_mail("ann", "Subject: all-kinds")
    assert one.wait_for_mail("sue", "Subject: all-kinds")
    assert "Subject: all-kinds" in one.read("/home/sue/out")
    mbox = one.read("/home/sue/mbox")
    assert mbox.startswith("From joe@one.test ") and "Subject: all-kinds" in mbox
    assert one.run("stat -c %U:%a /home/sue/mbox").stdout == "sue:600\n"
    one.run("rm /home/sue/.qmail")


def test_an_unknown_recipient_is_refused_by_smtp_and_bounced_to_a_local_sender(one: Host) -> None:
    replies = one.smtp("EHLO x", "MAIL FROM:<a@b.test>", "RCPT TO:<nobody-here@one.test>", "RCPT TO:<joe@one.test>")
    assert [reply[:3] for reply in replies] == ["220", "250", "250", "550", "250"]
    assert "5.1.1" in replies[3]
    one.run("echo hi | mail -s lost nobody-here", user="joe")
    bounce = email.message_from_string(one.wait_for_mail("joe", "failure notice"))
    assert bounce["Return-Path"] == "<>"
    assert bounce.get_content_type() == "multipart/report"
    text, status, original = bounce.get_payload()
    assert text.get_payload().startswith("Hi. This is the") and "<nobody-here@one.test>:" in text.get_payload()
    assert status.get_content_type() == "message/delivery-status"
    assert "Subject: lost" in original.as_string()


def test_sendmail_bv_tells_any_user_who_exists(one: Host) -> None:
    done = one.run(["/usr/sbin/sendmail", "-bv", "joe", "nobody-here", "root", "x@elsewhere.test"], user="sue", check=False)
    assert done.returncode == 67
    assert done.stdout.splitlines() == [
        "joe@one.test has a mailbox here", "nobody-here@one.test is not known here", "root@one.test has a mailbox here",
        "x@elsewhere.test goes to elsewhere.test",
    ]  # fmt: skip


def test_the_life_of_a_message_is_told_by_the_journal(one: Host) -> None:
    one.run(["/usr/sbin/sendmail", "-f", "traced@one.test", "joe"], user="sue", input="Subject: traced\n\nhi\n")
    accepted = one.wait_for_record("QMAILD_EVENT=accepted", "QMAILD_SENDER=traced@one.test")
    assert accepted["QMAILD_RECIPIENTS"] == "1"
    assert accepted["MESSAGE_ID"] and accepted["_SYSTEMD_UNIT"] == "qmaild-inject.service"
    number = accepted["QMAILD_MESSAGE"]
    one.wait_for_record("QMAILD_EVENT=delivery", f"QMAILD_MESSAGE={number}")
    told = one.run(["qmailctl", "trace", number]).stdout
    assert "accepted from <traced@one.test>" in told and "success for joe@one.test" in told
    explained = one.run(["journalctl", "--catalog", "--no-pager", f"QMAILD_MESSAGE={number}"]).stdout
    assert "it is on disk" in explained


MEMORY = """
import glob, os, pwd
ours = {entry.pw_uid for entry in pwd.getpwall() if entry.pw_name.startswith("qmaild-")}
total = 0
for path in glob.glob("/proc/[0-9]*/smaps_rollup"):
    try:
        if os.stat(path).st_uid in ours:
            lines = open(path).read().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    except OSError:
        continue
print(total)
"""
MEMORY_KIB = 130_000_000 // 1024  # all ten services, and a deliverer


def test_all_services_together_take_at_most_130_mb(one: Host) -> None:
    units = [f"qmaild-{name}.service" for name in SERVICES]
    one.run(["systemctl", "start", *units])
    one.run("echo hi | mail -s weighed joe", user="sue")
    assert one.wait_for_mail("joe", "Subject: weighed")
    assert set(one.processes()) == set(SERVICES)
    used = int(one.run(["python3", "-c", MEMORY]).stdout)
    assert 0 < used <= MEMORY_KIB


HOSTILE = """#!/usr/bin/python3
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, does):
    try:
        print(name, does(), flush=True)
    except OSError as error:
        print(name, "refused", error.errno, flush=True)
attempt("setresuid0", lambda: os.setresuid(0, 0, 0))
attempt("setresuid-other", lambda: os.setresuid({other}, {other}, {other}))
attempt("setgroups", lambda: os.setgroups([0]))
for pid in [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]:
    try:
        owner = os.stat("/proc/%d" % pid).st_uid
    except OSError:
        continue
    if owner != os.getuid():
        got = libc.ptrace(16, pid, 0, 0)
        print("ptrace", pid, got, flush=True)
attempt("queue", lambda: open("/var/lib/qmaild/queue/format").read())
for name in ("manage", "intake", "local", "remote", "dial", "spawn", "program", "lookup", "control/queue"):
    sock = socket.socket(socket.AF_UNIX)
    attempt("socket-" + name, lambda: sock.connect("/run/qmaild/%s.sock" % name))
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.sendto(b"MESSAGE=forged\\nQMAILD_EVENT=delivery\\nQMAILD_MESSAGE={number}\\nSYSLOG_IDENTIFIER=qmaild-send\\n",
           "/run/systemd/journal/socket")
print("status", open("/proc/self/status").read())
"""


def test_a_hostile_program_of_a_user_gets_nowhere(one: Host) -> None:
    number = one.journal("QMAILD_EVENT=accepted")[-1]["QMAILD_MESSAGE"]
    other = one.run(["id", "-u", "sue"]).stdout.strip()
    one.write("/home/joe/hostile", HOSTILE.replace("{other}", other).replace("{number}", number), owner="joe", mode=0o700)
    one.write("/home/joe/.qmail", "|./hostile >out 2>&1\n", owner="joe", mode=0o600)
    one.run("echo hi | mail -s hostile joe", user="sue")
    one.wait_for(lambda: "CapEff" in one.run(["cat", "/home/joe/out"], check=False).stdout, what="the program's report")
    one.run("rm /home/joe/.qmail")
    report = one.read("/home/joe/out").splitlines()
    attempts = [line.split() for line in report[: next(i for i, line in enumerate(report) if line.startswith("status"))]]
    assert {words[0] for words in attempts} >= {"setresuid0", "setresuid-other", "setgroups", "queue", "socket-spawn"}
    for words in attempts:
        assert words[-1] == "-1" if words[0] == "ptrace" else words[1] == "refused", words
    capabilities = [line.split()[1] for line in report if line.startswith(("CapEff", "CapPrm", "CapInh", "CapAmb"))]
    assert capabilities == ["0000000000000000"] * 4
    one.wait_for_record(f"QMAILD_MESSAGE={number}", where=lambda record: record["MESSAGE"] == "forged")
    assert "forged" not in one.run(["qmailctl", "trace", number]).stdout


def test_a_control_file_with_an_error_is_named_and_changes_nothing(one: Host) -> None:
    one.run("echo hi | mail -s before joe", user="sue")
    one.wait_for_mail("joe", "Subject: before")
    one.control(databytes="many\n")
    failed = one.run(["qmailctl", "reload"], check=False)
    assert failed.returncode == 1
    assert "/etc/qmaild/control/databytes:1: expected a whole number" in failed.stdout + failed.stderr
    assert one.run(["qmailctl", "config"], check=False).returncode == 1
    one.run("echo hi | mail -s meanwhile joe", user="sue")
    assert one.wait_for_mail("joe", "Subject: meanwhile")
    one.run("rm /etc/qmaild/control/databytes")
    assert one.run(["qmailctl", "reload"]).returncode == 0


def test_a_deferred_message_survives_idle_exits_and_a_reboot_and_goes_out_with_nobody_connecting(one: Host) -> None:
    one.control(idleexit="2\n")
    one.run(["qmailctl", "reload"])
    one.run("test -d /home/ann/Maildir || maildirmake /home/ann/Maildir", user="ann")
    one.write("/home/ann/.qmail", "|test -e ready || exit 111\n./Maildir/\n", owner="ann", mode=0o600)
    one.run("echo hi | mail -s patient ann", user="sue")
    one.wait_for(lambda: any(part["state"] == "waiting" for entry in one.queue() for part in entry["recipients"]),
                 what="the deferral")  # fmt: skip
    one.wait_for(lambda: one.processes() == ["queue"], 60, "idle exits of all but the queue")
    one.run("touch /home/ann/ready")
    begun = time.time()
    one.reboot()
    # qmail's second attempt at a local recipient is 100 s after the first, plus jitter.
    assert one.wait_for_mail("ann", "Subject: patient", timeout=160)
    delivered = one.run("stat -c %Y $(grep -l 'Subject: patient' /home/ann/Maildir/new/*)").stdout
    assert int(delivered) >= begun, "not before the reboot"
    one.run("rm /home/ann/.qmail /home/ann/ready")


def test_idle_services_leave_no_process_and_the_next_message_still_arrives(one: Host) -> None:
    one.wait_for(lambda: one.processes() == [], 60, "no process")
    one.run("echo hi | mail -s awake joe", user="sue")
    assert one.wait_for_mail("joe", "Subject: awake")
    one.wait_for(lambda: one.processes() == [], 60, "no process again")


def test_purge_leaves_nothing_behind_but_what_policy_says(one: Host) -> None:
    one.run(["apt-get", "purge", "-y", "qmaild", "qmaild-mta"])
    left = one.run("find /etc /usr /var/lib /run /lib/systemd -path '*qmaild*' -not -path '/var/lib/dpkg/*' "
                   "-not -path '*/deb-systemd-helper-*' 2>/dev/null || true").stdout.split()  # fmt: skip
    # sysusers.d accounts stay, as Debian has it; the alias account's mail is users' data.
    assert [path for path in left if not path.startswith("/var/lib/qmaild/alias") and path != "/var/lib/qmaild"] == []
    assert one.run("ss -Htlnx | grep -c qmaild || true").stdout.strip() == "0"
    assert one.run(["test", "-e", "/etc/aliases"]).returncode == 0
    assert one.processes() == []
