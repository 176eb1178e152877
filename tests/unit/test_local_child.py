"""What the recipient's child does with a delivery: dot-qmail on a real disk, in this process as its own user."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmaild.delivery import child, mbox
from qmaild.delivery.contents import CHUNK_BYTES, MAX_HEADER_BYTES, Contents
from qmaild.delivery.local import Deliverer
from qmaild.protocol import frames
from qmaild.protocol.frames import PERMANENT, SUCCESS, TEMPORARY
from qmaild.runtime import system
from tests.unit.local_house import MESSAGE, files_in
from tests.unit.processes import no_descriptor_free

DEFAULT = b"./Maildir/\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


def order(
    home: Path, extension: bytes | None = None, content: bytes = MESSAGE, sender: bytes = b"s@x.test",
    instructions: bytes = DEFAULT, fixed: int = 0, tag: int = 1,
) -> frames.Deliver:  # fmt: skip
    local = b"joe" if extension is None else b"joe-" + extension
    dash = b"" if extension is None else b"-"
    return frames.Deliver(tag, b"joe", os.fsencode(home), local, dash, extension or b"", b"here", sender, instructions,
                          fixed, len(content), content, 0)  # fmt: skip


def deliver(*orders: frames.Deliver) -> list[frames.Delivered]:
    answers = Deliverer(b"h", True).answer([(each, -1) for each in orders])
    found = {answer[0]: answer for some in answers for answer in some}
    result = [found[each.tag] for each in orders]
    assert all(isinstance(each, frames.Delivered) for each in result)
    return result  # type: ignore[return-value]


def one(home: Path, extension: bytes | None = None, **fields: object) -> tuple[bytes, bytes, bytes]:
    answer = deliver(order(home, extension, **fields))[0]  # type: ignore[arg-type]
    return answer.outcome, answer.enhanced, answer.text


def test_an_address_with_an_extension_and_no_file_has_no_mailbox(home: Path) -> None:
    assert one(home, b"x")[:2] == (PERMANENT, b"5.1.1")
    assert one(home, b"../../../etc/passwd")[:2] == (PERMANENT, b"5.1.1")
    (home / ".qmail-default").write_bytes(b"./d/\n")
    assert one(home, b"x")[:2] == (TEMPORARY, b"4.2.1")  # the file counts, its Maildir is missing


def test_the_longest_match_counts(home: Path) -> None:
    for name in ("a-b", "a-default", "default"):
        (home / f".qmail-{name}").write_text(f"|echo {name} \"$DEFAULT\"\n")
    assert one(home, b"A-B")[2].startswith(b"a-b \n")
    assert one(home, b"a-C-d")[2].startswith(b"a-default C-d\n")
    assert one(home, b"Q.r")[2].startswith(b"default Q.r\n")


def test_an_empty_file_means_the_default_delivery_whatever_its_x_bit(home: Path) -> None:
    (home / ".qmail").touch(0o700)
    assert one(home)[0] == SUCCESS
    assert len(files_in(home / "Maildir/new")) == 1


@pytest.mark.parametrize(
    ("content", "mode", "enhanced"),
    [
        (b"\n./Maildir/\n", 0o600, b"4.2.1"),
        (b"|true\n", 0o700, b"4.7.0"),
        (b"&a@b\n+list\n./Maildir/\n", 0o600, b"4.7.0"),
        (b"./Maildir/\n", 0o602, b"4.7.0"),
        (b"./absent/\n", 0o600, b"4.2.1"),
    ],
)
def test_a_file_that_cannot_be_followed_defers(home: Path, content: bytes, mode: int, enhanced: bytes) -> None:
    (home / ".qmail").write_bytes(content)
    (home / ".qmail").chmod(mode)
    assert one(home)[:2] == (TEMPORARY, enhanced)
    assert [path.name for path in home.iterdir()] == [".qmail"]


def test_what_is_wrong_in_a_file_is_told_with_its_name_and_line(home: Path) -> None:
    (home / ".qmail-default").write_bytes(b"&a@b\n+list\n|x\n")
    assert one(home, b"x")[2] == b".qmail-default:3: a file or program line where only forwards may stand"
    (home / ".qmail-default").chmod(0o602)
    assert one(home, b"x")[2] == b".qmail-default: the file is writable by everybody"
    assert one(home, instructions=b"\n")[2] == b"defaultdelivery:1: the first line is blank"
    assert one(home, instructions=b"|a\0", fixed=1)[2] == b"the alias:1: a NUL byte"


def test_a_group_writable_file_is_followed_and_a_folder_of_its_name_is_not_there(home: Path) -> None:
    (home / ".qmail-x").write_bytes(b"&a@b\n")
    (home / ".qmail-x").chmod(0o660)
    (home / ".qmail-dir").mkdir()
    os.mkfifo(home / ".qmail-fifo")
    assert one(home, b"x") == (SUCCESS, b"2.0.0", b"did 0+1+0")
    assert one(home, b"dir")[1] == one(home, b"fifo")[1] == b"5.1.1"


@pytest.mark.parametrize(("mode", "enhanced"), [(0o703, b"4.7.0"), (0o1700, b"4.2.1")])
def test_a_home_that_others_may_write_or_that_is_sticky_defers(home: Path, mode: int, enhanced: bytes) -> None:
    home.chmod(mode)
    assert one(home)[:2] == (TEMPORARY, enhanced)
    assert list(home.iterdir()) == []


def test_a_home_that_is_missing_or_anothers_defers(home: Path) -> None:
    assert one(home / "absent")[:2] == (TEMPORARY, b"4.2.1")
    assert one(Path("/dev/null"))[:2] == (TEMPORARY, b"4.7.0")
    if os.geteuid() == 0:
        os.chown(home, 54321, -1)
        assert one(home)[:2] == (TEMPORARY, b"4.7.0")
    else:
        assert one(Path("/"))[:2] == (TEMPORARY, b"4.7.0")


@pytest.mark.parametrize("head", [b"Delivered-To: joe@here\nSubject: x\n", b"Subject: x\nDelivered-To: joe@here\n"])
def test_a_message_that_was_here_before_is_a_loop(home: Path, head: bytes) -> None:
    assert one(home, content=head + b"\nbody\n")[:2] == (PERMANENT, b"5.4.6")
    assert one(home, content=head)[:2] == (PERMANENT, b"5.4.6")


@pytest.mark.parametrize(
    "content",
    [b"S: x\n\nDelivered-To: joe@here\n", b"\nDelivered-To: joe@here\n", b"Delivered-To: JOE@here\n\n",
     b"Delivered-To: joe@here.test\n\n", b"X-Delivered-To: joe@here\n\n", b"S: x\n\n\nDelivered-To: joe@here\n"],
)  # fmt: skip
def test_other_lines_are_no_loop(home: Path, content: bytes) -> None:
    assert one(home, content=content)[0] == SUCCESS


def test_files_and_programs_go_before_forwards_and_all_are_counted(home: Path) -> None:
    (home / ".qmail").write_bytes(b"&a@b.test\n./mbox\n./Maildir/\n|echo hi\n&c@d.test\n/dev/null\n")
    (home / "Maildir").mkdir()
    for part in ("cur", "new", "tmp"):
        (home / "Maildir" / part).mkdir()
    answer = deliver(order(home))[0]
    assert answer == frames.Delivered(
        1, SUCCESS, b"2.0.0", b"hi\ndid 3+2+1", b"s@x.test", [b"a@b.test", b"c@d.test"])  # fmt: skip
    lines = b"Return-Path: <s@x.test>\nDelivered-To: joe@here\n"
    assert files_in(home / "Maildir/new") == [lines + MESSAGE]
    assert (home / "mbox").read_bytes().partition(b"\n")[2] == lines + MESSAGE + b"\n"


def test_a_failure_forwards_nothing(home: Path) -> None:
    (home / ".qmail").write_bytes(b"&a@b.test\n./absent/\n")
    assert deliver(order(home))[0].forwards == []


def test_the_owner_files_change_the_sender_of_forwards(home: Path) -> None:
    (home / ".qmail-list").write_bytes(b"&a@b.test\n")
    assert deliver(order(home, b"List"))[0].new_sender == b"s@x.test"
    (home / ".qmail-list-owner").touch()
    assert deliver(order(home, b"List"))[0].new_sender == b"joe-List-owner@here"
    (home / ".qmail-list-owner-default").touch()
    assert deliver(order(home, b"List"))[0].new_sender == b"joe-List-owner-@here-@[]"
    assert deliver(order(home, b"List", sender=b""))[0].new_sender == b""


def test_in_a_batch_every_delivery_has_its_own_outcome(home: Path) -> None:
    (home / ".qmail-list").write_bytes(b"&a@b.test\n")
    answers = deliver(
        order(home, tag=1), order(home, b"none", tag=2), order(home, b"list", tag=3),
        order(home, tag=4, content=b"Delivered-To: joe@here\n\n"), order(home, tag=5), order(home / "absent", tag=6),
    )  # fmt: skip
    assert [answer.outcome for answer in answers] == [SUCCESS, PERMANENT, SUCCESS, PERMANENT, SUCCESS, TEMPORARY]
    assert len(files_in(home / "Maildir/new")) == 2


def test_a_mailbox_that_is_locked_holds_up_no_maildir_of_the_batch(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mbox, "LOCK_SECONDS", 0.0)
    (home / ".qmail-box").write_bytes(b"./mbox\n")
    (home / "mbox.lock").touch()
    answers = Deliverer(b"h", True).answer([(order(home, b"box", tag=1), -1), (order(home, tag=2), -1)])
    assert [answer[:2] for answer in next(answers)] == [(2, SUCCESS)]
    assert [answer[:2] for answer in next(answers)] == [(1, TEMPORARY)]
    assert next(answers, None) is None


def test_a_fault_of_our_own_defers_one_delivery_and_costs_no_other(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*arguments: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(mbox, "deliver", fault)
    (home / ".qmail-box").write_bytes(b"./mbox\n")
    (home / ".qmail-list").write_bytes(b"&a@b.test\n")
    answers = deliver(order(home, b"box", tag=1), order(home, tag=2), order(home, b"list", tag=3))
    assert [answer.outcome for answer in answers] == [TEMPORARY, SUCCESS, SUCCESS]
    assert answers[0].text == b"the deliverer failed: RuntimeError"


def test_descriptors_are_closed_whatever_comes_of_the_delivery(home: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    body = system.sealed_memfd(b"x" * 100)
    for extension, content in ((None, b"S: x\n\n"), (b"none", b"S: x\n\n"), (None, b"Delivered-To: joe@here\n\n")):
        list(Deliverer(b"h", True).answer([(order(home, extension, content=content)._replace(descriptor=1), os.dup(body))]))
    os.close(body)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_nul_in_an_address_is_refused(home: Path) -> None:
    assert one(home, sender=b"a\0b")[:2] == (PERMANENT, b"5.1.3")


def test_an_aliass_lines_are_followed_without_a_dot_qmail_file(home: Path) -> None:
    (home / ".qmail").write_bytes(b"./never/\n")
    (home / "list").write_bytes(b"a@b.test, c\n# more\nd@e.test\n")
    lines = b"|cat >out\n%b\n:include:%b" % (os.fsencode(home / "mbox"), os.fsencode(home / "list"))
    answer = deliver(order(home, b"x", instructions=lines, fixed=1))[0]
    assert (answer.outcome, answer.text) == (SUCCESS, b"did 1+3+1")
    assert answer.forwards == [b"a@b.test", b"c", b"d@e.test"]
    assert (home / "out").read_bytes() == MESSAGE and (home / "mbox").exists()


def test_a_list_that_cannot_be_read_or_understood_defers(home: Path) -> None:
    path = home / "list"
    lines = b":include:" + os.fsencode(path)
    assert one(home, instructions=lines, fixed=1)[:2] == (TEMPORARY, b"4.2.1")
    path.write_bytes(b"a@b.test\n|/bin/sh\n")
    outcome, enhanced, text = one(home, instructions=lines, fixed=1)
    assert (outcome, enhanced) == (TEMPORARY, b"4.2.1") and b"line 2" in text


def test_whether_an_extension_has_a_file_is_told(home: Path) -> None:
    def asked(extension: bytes) -> bytes:
        question = frames.Exists(1, os.fsencode(home), b"-", extension)
        answer = next(Deliverer(b"h", False).answer([(question, -1)]))[0]
        assert isinstance(answer, frames.Is)
        return answer.outcome

    assert asked(b"x") == PERMANENT
    assert asked(b"a/b") == PERMANENT
    (home / ".qmail-x").touch()
    assert (asked(b"x"), asked(b"y")) == (SUCCESS, PERMANENT)
    (home / ".qmail-default").touch()
    assert asked(b"y") == SUCCESS
    home.chmod(0o702)
    assert asked(b"x") == TEMPORARY


LINE = b"Delivered-To: a@b\n"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([b"\n", LINE, LINE[:-1], b"x", b"S: x\n", b"\r\n"]), max_size=12), st.data())
def test_a_line_is_found_alike_inline_and_behind_a_descriptor(parts: list[bytes], data: st.DataObject) -> None:
    content = b"".join(parts)
    head = content.split(b"\n\n")[0] if not content.startswith(b"\n") else b""
    expected = LINE[:-1] in head.split(b"\n") and (LINE in content)
    place = data.draw(st.integers(0, len(content)))
    descriptor = system.sealed_memfd(content[place:])
    found = Contents(content).has_line(LINE), Contents(content[:place], descriptor).has_line(LINE)
    os.close(descriptor)
    assert found[0] == found[1]
    if content.endswith(b"\n"):
        assert found[0] == expected


def test_a_header_section_beyond_the_bound_is_not_read_on() -> None:
    descriptor = system.sealed_memfd(b"X: y\n" * 1_000_000)
    contents = Contents(b"", descriptor)
    assert len(contents.header_section()) <= MAX_HEADER_BYTES + CHUNK_BYTES
    os.close(descriptor)


def test_after_an_order_whose_descriptor_found_no_room_nothing_more_is_taken(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That order is lost: the end of the stream is what tells of it."""
    first = frames.encode(order(home))
    monkeypatch.setattr(child, "READ_BYTES", len(first))  # the next order is a read of its own
    ours, its = socket.socketpair()
    with ours, its:
        inbox = child.Inbox(its)
        ours.sendall(first)
        socket.send_fds(ours, [frames.encode(order(home, tag=2)._replace(content=b"", descriptor=1))], [its.fileno()])
        ours.sendall(frames.encode(order(home, tag=3)))
        with no_descriptor_free(os.getpid()):
            assert [frame.tag for frame, _ in inbox.take()] == [1]
        assert inbox.take() == []


def test_a_child_that_is_killed_takes_its_programs_along(home: Path) -> None:
    (home / ".qmail").write_text("|echo $$ >number.new; mv number.new number; exec sleep 600\n")
    ours, its = socket.socketpair()
    process = os.fork()
    if process == 0:
        try:
            ours.close()
            child.serve(its, b"h", True)
        finally:
            os._exit(0)
    its.close()
    ours.sendall(frames.encode(order(home)))
    deadline = time.monotonic() + 20
    while not (home / "number").exists():
        assert time.monotonic() < deadline
    program = os.pidfd_open(int((home / "number").read_text()))
    try:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        assert select.select([program], [], [], 20)[0], "the program lives on"
    finally:
        os.close(program)
        ours.close()
