"""local, spawn and program together, as real processes: what an order and a question come to."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from qmaild.delivery.child import MAX_WORKERS
from qmaild.protocol import frames
from qmaild.protocol.frames import PERMANENT, SUCCESS, TEMPORARY
from qmaild.runtime import system
from tests.unit.local_house import MESSAGE, House, Intake, files_in, house, intake
from tests.unit.processes import SECONDS, Client, Running

__all__ = ["house", "intake"]


def lines(recipient: bytes, sender: bytes = b"from@x.test") -> bytes:
    return b"Return-Path: <%b>\nDelivered-To: %b\n" % (sender, recipient)


def test_a_fresh_user_gets_mail_in_a_maildir_that_is_made(house: House) -> None:
    home = house.user("bob")
    with house.running() as (orders, _):
        report = house.order(orders, b"Bob@here.test")
    assert report[1:] == (b"K", [250], [b"2.0.0"], [b"did 1+0+0"], [b"bob"])
    assert files_in(home / "Maildir/new") == [lines(b"Bob@here.test") + MESSAGE]
    assert files_in(home / "Maildir/tmp") == [] and (home / "Maildir/cur").is_dir()


def test_every_recipient_of_an_order_has_its_own_outcome_in_its_place(house: House) -> None:
    bob, eve = house.user("bob"), house.user("eve")
    (eve / ".qmail").write_text("./absent/\n")
    (bob / ".qmail-list").write_text("./Maildir/\n")
    with house.running() as (orders, _):
        report = house.order(orders, b"bob@h", b"eve@h", b"nobody-here@h", b"bob-x@h", b"bob-list@h", b"BOB@h")
    assert report.outcomes == b"KZDDKK"
    assert report.codes == [250, 450, 550, 550, 250, 250]
    assert report.enhanced == [b"2.0.0", b"4.2.1", b"5.1.1", b"5.1.1", b"2.0.0", b"2.0.0"]
    assert report.peers == [b"bob", b"eve", b"qmaild-alias", b"bob", b"bob", b"bob"]
    assert len(files_in(bob / "Maildir/new")) == 3


def test_a_large_message_rides_as_a_descriptor_to_every_recipient(house: House) -> None:
    homes = [house.user(name) for name in ("bob", "eve")]
    body = os.urandom(200_000)
    descriptor = system.sealed_memfd(body)
    with house.running() as (orders, _):
        report = house.order(orders, b"bob@h", b"eve@h", content=b"Subject: x\n\n", body=descriptor)
    os.close(descriptor)
    assert report.outcomes == b"KK"
    for home, name in zip(homes, (b"bob@h", b"eve@h"), strict=True):
        assert files_in(home / "Maildir/new") == [lines(name) + b"Subject: x\n\n" + body]


def test_what_is_nobodys_goes_to_the_alias_user(house: House) -> None:
    (house.alias / ".qmail-postmaster").write_text("./box/\n")
    for part in ("cur", "new", "tmp"):
        (house.alias / "box" / part).mkdir(parents=True)
    with house.running() as (orders, _):
        assert house.order(orders, b"Postmaster@h", b"other@h").outcomes == b"KD"
    assert len(files_in(house.alias / "box/new")) == 1


def test_a_program_line_runs_in_the_program_unit(house: House) -> None:
    home = house.user("bob")
    (home / ".qmail-p-default").write_text('|echo "$EXT $DEFAULT $SENDER"; cat >out; exit 0\n./mbox\n')
    (home / ".qmail-no").write_text("|echo not today; exit 100\n")
    (home / ".qmail-later").write_text("|exit 111\n")
    with house.running(programs=True) as (orders, _):
        report = house.order(orders, b"bob-p-Q@h", b"bob-no@h", b"bob-later@h")
    assert report.outcomes == b"KDZ"
    assert report.texts[:2] == [b"p-Q Q from@x.test\ndid 1+0+1", b"not today"]
    assert report.enhanced == [b"2.0.0", b"5.3.0", b"4.3.0"]
    assert (home / "out").read_bytes() == MESSAGE


def test_a_program_that_hangs_does_not_hold_up_the_users_other_programs(house: House) -> None:
    home = house.user("bob")
    os.mkfifo(home / "fifo")
    (home / ".qmail-slow").write_text("|cat fifo\n")
    (home / ".qmail-fast").write_text("|echo fast\n")
    with house.running(programs=True) as (orders, _):
        slow = house.send_order(orders, b"bob-slow@h")
        assert house.order(orders, b"bob-fast@h").texts == [b"fast\ndid 0+0+1"]
        (home / "fifo").write_bytes(b"slow\n")
        report, _ = orders.receive()
        assert (report[0], report[4]) == (slow, [b"slow\ndid 0+0+1"])


def test_a_forward_is_injected_and_finishes_the_delivery_it_serves(house: House, intake: Intake) -> None:
    home = house.user("bob")
    (home / ".qmail").write_text("./Maildir/\n&copy@y.test\nlocal-name\n")
    (home / ".qmail-list").write_text("&a@b.test\n")
    (home / ".qmail-list-owner").touch()
    with house.running() as (orders, _):
        house.order(orders, b"bob@h")
        report = house.order(orders, b"eve@h", b"bob-list@h", number=9)
    assert report.outcomes == b"DK" and report.texts[1] == b"did 0+1+0\nqp 101"
    assert [message[1:] for message in intake.messages] == [
        (0, b"forward", b"bob-list-owner@h", [b"a@b.test"], b"Delivered-To: bob-list@h\n" + MESSAGE, 9, 1)]
    (record,) = map(json.loads, (house.top / "journal").read_text().splitlines())
    assert (record["QMAILD_EVENT"], record["QMAILD_MESSAGE"], record["QMAILD_PROTOCOL"]) == ("accepted", "101", "forward")
    assert (record["QMAILD_PEER"], record["QMAILD_SENDER"]) == ("message 9", "bob-list-owner@h")
    assert record["QMAILD_BYTES"] == str(len(b"Delivered-To: bob-list@h\n" + MESSAGE))


def test_a_file_that_also_forwards_needs_its_maildir_first(house: House, intake: Intake) -> None:
    home = house.user("bob")
    (home / ".qmail").write_text("./box/\n&copy@y.test\n")
    with house.running() as (orders, _):
        assert house.order(orders, b"bob@h").outcomes == b"Z"
        assert not intake.messages
        for part in ("cur", "new", "tmp"):
            (home / "box" / part).mkdir(parents=True)
        assert house.order(orders, b"bob@h").texts == [b"did 1+1+0\nqp 101"]
    assert intake.messages[0].recipients == [b"copy@y.test"] and len(files_in(home / "box/new")) == 1


def test_a_large_message_is_forwarded_whole(house: House, intake: Intake) -> None:
    (house.user("bob") / ".qmail").write_text("&a@b.test\n")
    body = os.urandom(3_000_000)
    descriptor = system.sealed_memfd(body)
    with house.running() as (orders, _):
        assert house.order(orders, b"bob@h", content=b"S: x\n\n", body=descriptor).outcomes == b"K"
    os.close(descriptor)
    assert intake.messages[0].content == b"Delivered-To: bob@h\nS: x\n\n" + body


@pytest.mark.parametrize("outcome", [TEMPORARY, PERMANENT])
def test_what_the_queue_refuses_is_the_outcome(house: House, intake: Intake, outcome: bytes) -> None:
    (house.user("bob") / ".qmail").write_text("&a@b.test\n")
    intake.refusal = frames.Refused(0, outcome, b"5.3.4" if outcome == PERMANENT else b"4.3.1", b"no")
    with house.running() as (orders, _):
        report = house.order(orders, b"bob@h")
    assert (report.outcomes, report.texts) == (outcome, [b"unable to forward: no"])


def test_without_the_queue_a_forward_defers(house: House) -> None:
    (house.user("bob") / ".qmail").write_text("&a@b.test\n")
    with house.running() as (orders, _):
        assert house.order(orders, b"bob@h").outcomes == b"Z"


def test_aliases_come_before_accounts_and_change_without_a_restart(house: House, intake: Intake) -> None:
    home = house.user("bob")
    house.aliases("root: admin\nadmin: a@x.test, b@x.test\nbob: bob, copy@x.test\nowner-root: me\n")
    with house.running() as (orders, _):
        assert house.order(orders, b"Root@h").texts == [b"did 0+2+0\nqp 101"]
        assert house.order(orders, b"bob@h").texts == [b"did 0+1+0\ndid 1+0+0\nqp 102"]
        house.aliases("root: other@x.test\n")
        deadline = time.monotonic() + 15
        while intake.messages[-1].recipients != [b"other@x.test"]:
            assert time.monotonic() < deadline
            house.order(orders, b"root@h")
        assert house.order(orders, b"bob@h").texts == [b"did 1+0+0"]
    first, second = intake.messages[:2]
    assert (first.recipients, first.sender) == ([b"a@x.test", b"b@x.test"], b"owner-Root@h")
    assert (second.recipients, second.sender) == ([b"copy@x.test"], b"from@x.test")
    assert first.content == b"Delivered-To: Root@h\n" + MESSAGE
    assert len(files_in(home / "Maildir/new")) == 2


def test_an_alias_runs_programs_files_and_lists_as_the_alias_user(house: House, intake: Intake) -> None:
    (house.top / "list").write_text("a@x.test\n")
    house.aliases(f'x: "|cat >{house.top}/out; echo $USER", {house.top}/mbox, :include:{house.top}/list, b@x.test, /dev/null\n')
    with house.running(programs=True) as (orders, _):
        report = house.order(orders, b"x@h")
    assert report.texts == [b"did 0+1+0\nqmaild-alias\ndid 2+1+1\nqp 101\nqp 102"]
    assert [(message.recipients, message.serves_number) for message in intake.messages] == [
        ([b"b@x.test"], 0), ([b"a@x.test"], 7)]
    assert (house.top / "out").read_bytes() == MESSAGE and (house.top / "mbox").exists()


def test_an_alias_that_loops_is_a_permanent_failure(house: House, intake: Intake) -> None:
    house.aliases("x: y@x.test\n")
    with house.running() as (orders, _):
        report = house.order(orders, b"x@h", content=b"Delivered-To: x@h\n\n")
    assert (report.outcomes, report.enhanced, intake.messages) == (b"D", [b"5.4.6"], [])


def test_a_broken_alias_file_defers_at_first_and_later_leaves_the_old_entries(house: House, intake: Intake) -> None:
    house.user("bob")
    house.aliases("root: a@x.test\nno colon\n")
    with house.running() as (orders, lookups):
        assert house.order(orders, b"bob@h").outcomes == b"Z"
        assert house.exists(lookups, b"bob@h")[0] == TEMPORARY
        house.aliases("root: a@x.test\n")
        deadline = time.monotonic() + 15
        while house.order(orders, b"root@h").outcomes != b"K":
            assert time.monotonic() < deadline
        house.aliases("root a@x.test\n")
        journal = house.top / "journal"
        while f"{house.top}/aliases:1: expected name: address" not in journal.read_text():
            assert time.monotonic() < deadline
            assert house.order(orders, b"root@h", b"bob@h").outcomes == b"KK"
    assert f"{house.top}/aliases:2: expected name: address, address; local mail waits" in journal.read_text()


def test_questions_are_answered_by_aliases_accounts_and_the_childs_files(house: House) -> None:
    home = house.user("bob")
    (home / ".qmail-list").touch()
    (house.alias / ".qmail-info").write_text("&x@y.test\n")
    house.aliases("root: a@x.test\n")
    with house.running() as (_, lookups):
        for address in (b"root@h", b"BOB@h", b"bob-list@h", b"Info@h"):
            assert house.exists(lookups, address) == (SUCCESS, b"")
        for address in (b"bob-other@h", b"eve@h", b"bob-../x@h", b"/etc/passwd@h", b"@h", b"bob/../eve@h"):
            outcome, text = house.exists(lookups, address)
            assert (outcome, bool(text)) == (PERMANENT, True)


def test_many_questions_about_one_user_are_answered_in_part_with_try_again(house: House) -> None:
    house.user("bob")
    with house.running() as (_, lookups):
        for n in range(200):
            lookups.send(frames.Who(n, b"bob-x%d@h" % n))
        answers = [lookups.receive()[0] for _ in range(200)]
        assert {answer.outcome for answer in answers} <= {PERMANENT, TEMPORARY}  # type: ignore[attr-defined]
        assert sorted(answer[0] for answer in answers) == list(range(200))
        assert house.exists(lookups, b"bob-x@h")[0] == PERMANENT


def test_a_child_that_is_killed_defers_what_it_had_and_the_next_order_gets_a_new_one(house: House) -> None:
    home = house.user("bob")
    os.mkfifo(home / "fifo")
    (home / ".qmail-slow").write_text("|echo $PPID >pid; cat fifo\n")
    with house.running(programs=True) as (orders, _):
        house.send_order(orders, b"bob-slow@h")
        worker = _number_in(home / "pid")
        os.kill(worker, signal.SIGKILL)
        report, _ = orders.receive()
        assert report.outcomes == b"Z" and report.enhanced == [b"4.3.0"]  # type: ignore[attr-defined]
        assert house.order(orders, b"bob@h").outcomes == b"K"
        (home / ".qmail-slow").write_text("|ps -o ppid= -p $PPID >pid2; cat fifo\n")
        house.send_order(orders, b"bob-slow@h")
        os.kill(_number_in(home / "pid2"), signal.SIGKILL)
        report, _ = orders.receive()
        assert report.outcomes == b"Z"  # type: ignore[attr-defined]
        (home / ".qmail-slow").write_text("|true\n")
        assert house.order(orders, b"bob-slow@h").outcomes == b"K"
        (home / "fifo").unlink()


def _number_in(path: Path) -> int:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if path.exists() and path.read_text().endswith("\n"):
            return int(path.read_text())
        time.sleep(0.01)  # the only sign of a program's start is the file it writes
    raise AssertionError(f"{path} was not written")


def test_without_a_spawner_everything_defers_and_it_is_asked_again_next_time(house: House) -> None:
    house.user("bob")
    with Running("local", ["local", "lookup"], house.top) as local:
        orders = local.client("local")
        assert house.order(orders, b"bob@h", b"bob@h").outcomes == b"ZZ"
        with Running("spawn", ["spawn"], house.top):
            assert house.order(orders, b"bob@h").outcomes == b"K"
        orders.close()


def test_a_peer_that_speaks_nonsense_costs_only_itself(house: House) -> None:
    house.user("bob")
    with house.running() as (orders, lookups):
        for name, nonsense in (
            ("local", frames.encode(frames.Who(1, b"x@h"))), ("lookup", frames.encode(frames.Command(1, []))),
            ("local", b"9999999999:"),
        ):  # fmt: skip
            client = Client(house.top / "run" / f"{name}.sock")
            client._sock.sendall(nonsense)
            assert client.is_closed_by_service()
            client.close()
        assert house.order(orders, b"bob@h").outcomes == b"K"
        assert house.exists(lookups, b"bob@h")[0] == SUCCESS


def test_a_lost_asker_costs_nothing(house: House) -> None:
    home = house.user("bob")
    with house.running() as (orders, _):
        client = Client(house.top / "run/local.sock")
        house.send_order(client, b"bob@h")
        client._sock.shutdown(socket.SHUT_RDWR)
        client.close()
        assert house.order(orders, b"bob@h").outcomes == b"K"
    assert 1 <= len(files_in(home / "Maildir/new")) <= 2


def _children(process: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)  # of other processes only their state is to be seen


def _until_orders(local: Running, count: int) -> None:
    """Wait until local says that so many orders are under way."""

    def is_so() -> bool:
        client = local.client("control")
        client.send(frames.Command(1, [b"status"]))
        answer, _ = client.receive()
        client.close()
        return bool(answer[-1].startswith(b"%d orders" % count))

    _until(is_so)


def test_of_the_orders_of_an_asker_that_is_gone_none_is_begun_any_more(house: House) -> None:
    """As when send or the queue is killed: what waits here, and in the socket of a child, will be ordered again."""
    count = 300  # more than a child has at a time
    home = house.user("bob")
    with (
        Running("spawn", ["spawn"], house.top) as spawn,
        Running("local", ["local", "lookup", "control"], house.top) as local,
    ):
        assert house.order(local.client("local"), b"bob@h").outcomes == b"K"
        (child,) = _children(spawn.process.pid)
        os.kill(child, signal.SIGSTOP)
        gone = local.client("local")
        for _ in range(count):
            house.send_order(gone, b"bob@h")
        _until_orders(local, count)
        gone.close()
        _until_orders(local, 0)
        again = local.client("local")
        for _ in range(count):
            house.send_order(again, b"bob@h")
        assert {again.receive()[0][1] for _ in range(count)} == {b"K"}
        os.kill(child, signal.SIGCONT)
        _until(lambda: child not in _children(spawn.process.pid))
    assert len(files_in(home / "Maildir/new")) == 1 + count


def test_programs_that_run_for_an_asker_that_is_gone_end_by_themselves_and_no_other_is_begun(house: House) -> None:
    home = house.user("bob")
    os.mkfifo(home / "gate")
    (home / ".qmail").write_text("|echo begun >>log; dd bs=1 count=1 <gate; echo ended >>log\n")
    with (
        Running("spawn", ["spawn"], house.top),
        Running("program", ["program"], house.top) as program,
        Running("local", ["local", "lookup", "control"], house.top) as local,
    ):
        gone = local.client("local")
        for _ in range(MAX_WORKERS + 4):
            house.send_order(gone, b"bob@h")
        _until(lambda: (home / "log").exists() and (home / "log").read_text().count("begun") == MAX_WORKERS)
        gone.close()
        _until_orders(local, 0)
        with (home / "gate").open("r+b", buffering=0) as gate:
            gate.write(b"x" * MAX_WORKERS)
            _until(lambda: not _children(program.process.pid))
    assert (home / "log").read_text().split().count("begun") == MAX_WORKERS
    assert (home / "log").read_text().split().count("ended") == MAX_WORKERS
