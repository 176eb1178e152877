"""What Maildirs, mboxes and programs are given, and what is reported of them."""

from __future__ import annotations

import fcntl
import os
import re
import time
from pathlib import Path

from qmaild.protocol.frames import PERMANENT, SUCCESS, TEMPORARY

from .host import Host
from .test_dot_qmail import ANN, home, letters, maildir, write

__all__ = ["home"]

LINES = b"Return-Path: <sender@far.test>\nDelivered-To: ann@test.example\n"


def test_f106_an_mbox_has_from_lines_quoted_so_that_one_mark_can_be_taken_off(host: Host, home: Path) -> None:
    write(home, ".qmail", "./mbox\n")
    for _ in range(2):
        assert host.deliver(ANN, b"Subject: x\n\nFrom x\n>From y\n>>From z\nfrom w\n From v\n") == (
            SUCCESS, b"2.0.0", b"did 1+0+0")  # fmt: skip
    quoted = LINES + b"Subject: x\n\n>From x\n>>From y\n>>>From z\nfrom w\n From v\n\n"
    one = rb"From sender@far\.test [^\n]*\n" + re.escape(quoted)
    assert re.fullmatch(one * 2, (home / "mbox").read_bytes())
    assert (home / "mbox").stat().st_mode & 0o777 == 0o600


def test_f107_the_date_of_a_from_line_is_utc_with_two_digits_for_the_day(host: Host, home: Path) -> None:
    write(home, ".qmail", './mbox\n|printf %s "$UFLINE" >ufline\n')
    before = int(time.time())
    host.deliver(ANN)
    line = (home / "mbox").read_text().partition("\n")[0]
    dates = [time.strftime("%a %b %d %H:%M:%S %Y", time.gmtime(second)) for second in range(before, int(time.time()) + 1)]
    assert line in [f"From sender@far.test {date}" for date in dates]
    assert (home / "ufline").read_text() in [f"From sender@far.test {date}\n" for date in dates]


def test_f108_an_mbox_message_without_a_last_newline_gets_one(host: Host, home: Path) -> None:
    write(home, ".qmail", "./mbox\n")
    host.deliver(ANN, b"Subject: x\n\nno end")
    assert (home / "mbox").read_bytes().endswith(LINES + b"Subject: x\n\nno end\n\n")


def test_f109_an_mbox_that_somebody_holds_locked_defers_after_half_a_minute(host: Host, home: Path) -> None:
    write(home, ".qmail", "./mbox\n")
    mbox = os.open(home / "mbox", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.lockf(mbox, fcntl.LOCK_EX)
    begun = time.monotonic()
    assert host.deliver(ANN)[:2] == (TEMPORARY, b"4.2.1")
    assert 29 < time.monotonic() - begun < 45
    os.close(mbox)
    assert (home / "mbox").read_bytes() == b""
    assert host.deliver(ANN).outcome == SUCCESS


def test_f110_a_maildir_that_is_missing_defers(host: Host, home: Path) -> None:
    write(home, ".qmail", "./Elsewhere/\n")
    assert host.deliver(ANN)[:2] == (TEMPORARY, b"4.2.1")
    assert not (home / "Elsewhere").exists()


def test_f111_a_maildir_file_is_two_lines_and_the_message_and_its_name_has_three_parts(host: Host, home: Path) -> None:
    write(home, ".qmail", "./Maildir/\n")
    maildir(home)
    before = int(time.time())
    assert host.deliver(ANN, b"Subject: x\n\nFrom y\nno end").outcome == SUCCESS
    assert letters(home) == [LINES + b"Subject: x\n\nFrom y\nno end"]
    (path,) = (home / "Maildir/new").iterdir()
    seconds, unique, host_name = path.name.split(".", 2)
    assert before <= int(seconds) <= time.time() and host_name == "test.example"
    assert re.fullmatch(r"M\d{6}P\d+Q\d+", unique)
    assert list((home / "Maildir/tmp").iterdir()) == [] and path.stat().st_mode & 0o777 == 0o600


def test_f112_a_program_reads_the_message_from_its_first_line_and_may_seek(host: Host, home: Path) -> None:
    write(home, ".qmail", "|cat >first; cat <&0 >nothing\n|cat >second\n")
    content = b"Subject: x\n\nFrom y\nno end"
    assert host.deliver(ANN, content).text == b"did 0+0+2"
    assert (home / "first").read_bytes() == (home / "second").read_bytes() == content
    assert (home / "nothing").read_bytes() == b""


def test_f120_an_empty_local_part_of_ours_is_delivered_to_nobody(host: Host, home: Path) -> None:
    assert host.deliver(b"@test.example").outcome == SUCCESS
    client = host.smtp()
    client.ask(b"MAIL FROM:<sender@far.test>")
    assert client.ask(b'RCPT TO:<""@test.example>').startswith(b"550 5.1.1")  # who can be told is told
    client.close()


def test_f121_output_beyond_3000_bytes_is_dropped_with_a_note(host: Host, home: Path) -> None:
    write(home, ".qmail", "|head -c 100000 /dev/zero | tr '\\0' x; exit 100\n")
    delivery = host.deliver(ANN)
    assert delivery.outcome == PERMANENT
    assert re.fullmatch(rb"x{3000}\n[^\n]{10,80}", delivery.text)
