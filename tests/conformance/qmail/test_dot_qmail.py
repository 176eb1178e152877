"""Which dot-qmail file counts, what its lines mean, when it is not followed, what programs are told, and whose forwards are."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from qmaild.commands.dumping import Reading
from qmaild.protocol.frames import PERMANENT, SUCCESS, TEMPORARY
from qmaild.queue.segments import MESSAGE, Message, Record
from tests.unit.smtp_peer import Seen

from .host import Host

ANN = b"ann@test.example"


@pytest.fixture
def home(host: Host) -> Path:
    """The home of ann, who has nothing."""
    return host.home("ann")


def write(home: Path, name: str, content: str, mode: int = 0o600) -> None:
    (home / name).write_text(content)
    (home / name).chmod(mode)


def letters(home: Path) -> list[bytes]:
    """What stands in the Maildir below this home."""
    new = home / "Maildir/new"
    return [path.read_bytes() for path in new.iterdir()] if new.exists() else []


def reverse_path(seen: Seen) -> str:
    """Of a message as the peer was told it."""
    return seen.sender.partition("<")[2].rpartition(">")[0]


def said(host: Host, address: bytes) -> str:
    """What the program of the file that counts for the address has printed."""
    delivery = host.deliver(address)
    assert delivery.outcome == SUCCESS, delivery
    return delivery.text.decode().partition("\ndid ")[0]


def variables(host: Host, home: Path, address: bytes, sender: bytes = b"s@far.test") -> dict[str, str]:
    """The environment of a program line of .qmail-env-default."""
    write(home, ".qmail-env-default", "|env -0 >env\n")
    assert host.deliver(address, sender=sender).outcome == SUCCESS
    return dict(line.split("=", 1) for line in (home / "env").read_text().split("\0") if line)


def test_f082_without_a_file_an_address_without_extension_has_the_default_delivery(host: Host, home: Path) -> None:
    assert host.deliver(ANN) == (SUCCESS, b"2.0.0", b"did 1+0+0")
    assert len(letters(home)) == 1


def test_f083_an_extension_without_a_file_is_no_mailbox(host: Host, home: Path) -> None:
    assert host.deliver(b"ann-x@test.example")[:2] == (PERMANENT, b"5.1.1")


def test_f084_the_longest_name_is_tried_first_and_default_last(host: Host, home: Path) -> None:
    for name in ("default", "a-default", "a-b"):
        write(home, f".qmail-{name}", f"|echo {name}\n")
        assert said(host, b"ann-a-b@test.example") == name
    assert said(host, b"ann-a-c@test.example") == "a-default"
    assert said(host, b"ann-c-b@test.example") == "default"


def test_f085_default_keeps_case_and_dots(host: Host, home: Path) -> None:
    assert variables(host, home, b"ann-env-A.B-c-d@test.example")["DEFAULT"] == "A.B-c-d"
    write(home, ".qmail-x-default", '|echo "$DEFAULT"\n')
    assert said(host, b"ann-X-Default@test.example") == "Default"
    write(home, ".qmail-y", '|echo "${DEFAULT-none}"\n')
    assert said(host, b"ann-y@test.example") == "none"


def test_f086_a_dot_of_the_extension_is_a_colon_of_the_name(host: Host, home: Path) -> None:
    write(home, ".qmail-first:last", "|echo colon\n")
    write(home, ".qmail-first.last", "|echo dot\n")
    assert said(host, b"ann-First.Last@test.example") == "colon"


def test_f087_ext2_to_ext4_are_what_follows_each_hyphen(host: Host, home: Path) -> None:
    found = variables(host, home, b"ann-env-A.B-c-d@test.example")
    assert [found[name] for name in ("EXT", "EXT2", "EXT3", "EXT4")] == ["env-A.B-c-d", "A.B-c-d", "c-d", "d"]


def test_f088_host2_to_host4_lose_a_component_each_while_there_is_a_dot(host: Host, home: Path) -> None:
    found = variables(host, home, b"ann-env-x@test.example")
    assert [found[name] for name in ("HOST", "HOST2", "HOST3", "HOST4")] == ["test.example", "test", "test", "test"]
    others = {name: found[name] for name in ("LOCAL", "RECIPIENT", "USER", "HOME", "SENDER", "NEWSENDER", "DTLINE", "RPLINE")}
    assert others == {
        "LOCAL": "ann-env-x", "RECIPIENT": "ann-env-x@test.example", "USER": "ann", "HOME": str(home), "SENDER": "s@far.test",
        "NEWSENDER": "s@far.test", "DTLINE": "Delivered-To: ann-env-x@test.example\n", "RPLINE": "Return-Path: <s@far.test>\n",
    }  # fmt: skip
    year = time.gmtime().tm_year
    assert found["UFLINE"].startswith("From s@far.test ") and found["UFLINE"].endswith(f" {year}\n")


def test_f089_exits_0_and_99_succeed_and_99_ends_the_file(host: Host, home: Path) -> None:
    write(home, ".qmail", "|echo one; exit 0\n|echo two; exit 99\n|echo three\n./Maildir/\n")
    assert host.deliver(ANN) == (SUCCESS, b"2.0.0", b"one\ntwo\ndid 0+0+2")
    assert letters(home) == []


@pytest.mark.parametrize("status", [100, 64, 65, 70, 76, 77, 78, 112])
def test_f090_these_exits_are_failures(host: Host, home: Path, status: int) -> None:
    write(home, ".qmail", f"|echo no; exit {status}\n|touch ran\n")
    delivery = host.deliver(ANN)
    assert (delivery.outcome, delivery.text) == (PERMANENT, b"no") and delivery.enhanced.startswith(b"5.")
    assert not (home / "ran").exists()


@pytest.mark.parametrize("status", [1, 2, 71, 74, 75, 98, 101, 111, 126, 127, 255])
def test_f091_any_other_exit_is_a_deferral(host: Host, home: Path, status: int) -> None:
    write(home, ".qmail", f"|echo later; exit {status}\n|touch ran\n")
    delivery = host.deliver(ANN)
    assert (delivery.outcome, delivery.text) == (TEMPORARY, b"later") and delivery.enhanced.startswith(b"4.")
    assert not (home / "ran").exists()


def test_f092_a_program_that_a_signal_ends_is_a_deferral(host: Host, home: Path) -> None:
    write(home, ".qmail", "|kill -9 $$\n")
    assert host.deliver(ANN)[:2] == (TEMPORARY, b"4.3.0")


def test_f093_a_failure_below_a_forward_forwards_nothing(host: Host, home: Path) -> None:
    write(home, ".qmail", "&lost@far.test\n|exit 100\n")
    assert host.deliver(ANN).outcome == PERMANENT
    write(home, ".qmail", "&kept@far.test\n")
    assert host.deliver(ANN).outcome == SUCCESS
    assert host.forwarded().recipients == ["kept@far.test"]


def test_f094_a_forward_above_exit_99_is_made(host: Host, home: Path) -> None:
    write(home, ".qmail", "&above@far.test\n|exit 99\n&below@far.test\n")
    assert host.deliver(ANN).text.startswith(b"did 0+1+1\nqp ")
    seen = host.forwarded()
    assert (reverse_path(seen), seen.recipients) == ("sender@far.test", ["above@far.test"])
    assert b"Delivered-To: ann@test.example\r\n" in seen.content and b"Return-Path:" not in seen.content


FIFTY = [f"s{number}@far.test" for number in range(50)]


def test_f094_a_forward_to_fifty_is_one_record_and_the_mark_of_its_delivery_too(host: Host, home: Path) -> None:
    write(home, ".qmail", "".join(f"&{each}\n" for each in FIFTY))
    host.queue(ANN)
    found: list[str] = []
    while len(found) < len(FIFTY):
        found += host.forwarded().recipients
    assert sorted(found) == sorted(FIFTY)
    reading = Reading(str(host.top / "queue"))
    records = [each for segment in reading.order() for each in reading.items(segment) if isinstance(each, Record)]
    messages = {each.number: each.body for each in records if isinstance(each.body, Message)}
    (forward,) = [body for body in messages.values() if len(body.recipients) == len(FIFTY)]
    assert [os.fsdecode(each) for each in forward.recipients] == FIFTY
    served, index = forward.serves
    assert (messages[served].recipients, index) == ((ANN,), 0)
    assert [each.kind for each in records if each.number == served] == [MESSAGE]


def test_f095_a_blank_first_line_is_a_deferral_that_names_it(host: Host, home: Path) -> None:
    for first in ("", " \t"):
        write(home, ".qmail", f"{first}\n./Maildir/\n")
        delivery = host.deliver(ANN)
        assert delivery[:2] == (TEMPORARY, b"4.2.1") and delivery.text.startswith(b".qmail:1: ")
    assert letters(home) == []


def test_f096_later_blank_lines_and_comments_mean_nothing(host: Host, home: Path) -> None:
    write(home, ".qmail", "# first\n\n \t\n#|touch ran\n./Maildir/\n\n")
    maildir(home)
    assert host.deliver(ANN).text == b"did 1+0+0"
    assert len(letters(home)) == 1 and not (home / "ran").exists()


def test_f097_below_list_only_forwards_may_stand_and_an_unknown_plus_means_nothing(host: Host, home: Path) -> None:
    write(home, ".qmail", "&a@far.test\n+list\n./Maildir/\n")
    delivery = host.deliver(ANN)
    assert delivery[:2] == (TEMPORARY, b"4.7.0") and delivery.text.startswith(b".qmail:3: ")
    write(home, ".qmail", "+foo\n+listen\n./Maildir/\n")
    maildir(home)
    assert host.deliver(ANN).text == b"did 1+0+0"


def test_f098_a_file_with_its_owners_x_bit_may_not_run_programs(host: Host, home: Path) -> None:
    write(home, ".qmail", "|touch ran\n", 0o700)
    delivery = host.deliver(ANN)
    assert delivery[:2] == (TEMPORARY, b"4.7.0") and delivery.text.startswith(b".qmail:1: ")
    assert not (home / "ran").exists()


def test_f099_a_file_that_everybody_may_write_is_not_followed_one_of_its_group_is(host: Host, home: Path) -> None:
    maildir(home)
    write(home, ".qmail", "./Maildir/\n", 0o602)
    delivery = host.deliver(ANN)
    assert delivery[:2] == (TEMPORARY, b"4.7.0") and delivery.text.startswith(b".qmail: ")
    write(home, ".qmail", "./Maildir/\n", 0o660)
    assert host.deliver(ANN).outcome == SUCCESS


@pytest.mark.parametrize("mode", [0o702, 0o1700])
def test_f100_a_home_that_everybody_may_write_or_that_is_sticky_holds_its_mail(host: Host, home: Path, mode: int) -> None:
    home.chmod(mode)
    assert host.deliver(ANN).outcome == TEMPORARY
    home.chmod(0o770)
    assert host.deliver(ANN).outcome == SUCCESS


def test_f100_a_dry_run_in_a_sticky_home_only_warns(host: Host, home: Path) -> None:
    write(home, ".qmail", "./Maildir/\n")
    home.chmod(0o1700)
    done = host.program("ctl", "explain", ANN.decode())
    assert done.returncode == 0 and b"\nwarning    the home directory is sticky" in done.stdout
    assert host.program("ctl", "explain", "-n", ANN.decode()).stdout == b"maildir ./Maildir/\ndid 1+0+0\n"
    home.chmod(0o702)
    done = host.program("ctl", "explain", "-n", ANN.decode())
    assert (done.returncode, done.stdout) == (111, b"") and b"writable by everybody" in done.stderr


def test_f101_an_empty_file_is_the_default_delivery_even_with_its_x_bit(host: Host, home: Path) -> None:
    write(home, ".qmail-list", "", 0o700)
    assert host.deliver(b"ann-list@test.example").text == b"did 1+0+0"
    assert len(letters(home)) == 1


def test_f103_what_is_no_regular_file_is_not_there(host: Host, home: Path) -> None:
    (home / ".qmail-x").mkdir()
    assert host.deliver(b"ann-x@test.example")[:2] == (PERMANENT, b"5.1.1")
    os.mkfifo(home / ".qmail-y-default")
    write(home, ".qmail-default", "|echo default\n")
    assert said(host, b"ann-x@test.example") == said(host, b"ann-y-z@test.example") == "default"


def test_f104_a_message_with_our_delivered_to_line_loops_unless_its_case_differs(host: Host, home: Path) -> None:
    line = b"Delivered-To: ann@test.example\n"
    assert host.deliver(ANN, b"Subject: x\n" + line + b"\nhi\n")[:2] == (PERMANENT, b"5.4.6")
    assert host.deliver(ANN, line.replace(b"ann", b"Ann") + b"\nhi\n").outcome == SUCCESS
    assert host.deliver(ANN, line.replace(b"example", b"example.org") + b"\nhi\n").outcome == SUCCESS


def test_f105_that_line_in_the_body_is_no_loop(host: Host, home: Path) -> None:
    assert host.deliver(ANN, b"Subject: x\n\nDelivered-To: ann@test.example\n").outcome == SUCCESS


def test_f114_owner_files_make_the_sender_of_forwards_and_each_recipient_its_own(host: Host, home: Path) -> None:
    write(home, ".qmail-list", "&r@far.test\n&q@a.far.test\n")
    write(home, ".qmail-list-owner", "")
    host.queue(b"ann-list@test.example")
    seen = host.forwarded()
    assert (reverse_path(seen), seen.recipients) == ("ann-list-owner@test.example", ["r@far.test", "q@a.far.test"])
    write(home, ".qmail-list-owner-default", "")
    host.queue(b"ann-list@test.example")
    found = {(reverse_path(each), *each.recipients) for each in (host.forwarded(), host.forwarded())}
    assert found == {("ann-list-owner-r=far.test@test.example", "r@far.test"),
                     ("ann-list-owner-q=a.far.test@test.example", "q@a.far.test")}  # fmt: skip
    write(home, ".qmail-list", '|echo "$SENDER $NEWSENDER"\n')
    assert said(host, b"ann-list@test.example") == "sender@far.test ann-list-owner-@test.example-@[]"


def test_f113_a_dry_run_prints_the_instructions_and_their_counts_and_does_nothing(host: Host, home: Path) -> None:
    write(home, ".qmail-x", "# c\n./Maildir/ \t\n|touch ran  \n./mbox\n&a@far.test \nb@far.test\n")
    done = host.program("ctl", "explain", "-n", "ann-x@test.example")
    assert (done.returncode, done.stdout) == (
        0, b"maildir ./Maildir/\nprogram touch ran\nmbox ./mbox\nforward a@far.test\nforward b@far.test\ndid 2+2+1\n")
    assert [path.name for path in home.iterdir()] == [".qmail-x"]
    told = host.program("ctl", "explain", "ann-x@test.example").stdout.decode()
    assert f"\nfile       {home}/.qmail-x\nline 2     maildir ./Maildir/\nline 3     program touch ran\n" in told


@pytest.mark.parametrize("sender", [b"", b"#@[]"])
def test_f115_the_sender_of_a_bounce_is_kept_whatever_owner_files_there_are(host: Host, home: Path, sender: bytes) -> None:
    write(home, ".qmail-list", '|echo "=$NEWSENDER"\n&r@far.test\n')
    for name in ("owner", "owner-default"):
        write(home, f".qmail-list-{name}", "")
    delivery = host.deliver(b"ann-list@test.example", sender=sender)
    assert delivery.text.startswith(b"=" + sender + b"\ndid 0+1+1")
    assert reverse_path(host.forwarded()).encode() == sender


def maildir(home: Path) -> None:
    for name in ("", "tmp", "new", "cur"):
        (home / "Maildir" / name).mkdir(mode=0o700)
