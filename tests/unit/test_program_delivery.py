"""Program lines: what they get, what their end means, how they are ended."""

from __future__ import annotations

import os
import select
import time
from pathlib import Path

import pytest

from qmaild.delivery import program
from qmaild.delivery.contents import Contents
from qmaild.delivery.local import Deliverer
from qmaild.protocol import frames
from qmaild.protocol.frames import PERMANENT, SUCCESS, TEMPORARY
from qmaild.runtime import system

MESSAGE = b"Subject: x\n\nbody\n"


def run(command: bytes, home: Path, contents: Contents | None = None, seconds: float = 20.0) -> program.Ended:
    message = program.message_file(contents or Contents(MESSAGE))
    try:
        return program.run(command, os.fsencode(home), message, {b"USER": b"joe", b"EXT": b"a b; $x"}, seconds)
    finally:
        os.close(message)


def test_a_program_reads_the_message_from_its_start_in_the_home(tmp_path: Path) -> None:
    ended = run(b'pwd; echo "$USER:$EXT" >&2; cat', tmp_path)
    assert ended == (0, os.fsencode(tmp_path) + b"\njoe:a b; $x\n" + MESSAGE, False)


def test_standard_input_can_be_sought_and_holds_prefix_and_body(tmp_path: Path) -> None:
    body = system.sealed_memfd(b"b" * 100_000)
    ended = run(b"head -c 3 >/dev/null; tail -c 1; wc -c <&0; wc -c < /proc/self/fd/0", tmp_path, Contents(b"P: q\n", body))
    os.close(body)
    assert ended.status == 0 and ended.output.endswith(b"100005\n")


def test_nothing_of_our_own_environment_or_descriptors_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    ended = run(b"env; ls /proc/self/fd | wc -l", tmp_path)
    assert b"NOTIFY_SOCKET" not in ended.output
    assert ended.output.endswith(b"\n4\n")  # 0, 1, 2 and the folder that ls itself reads


def test_output_is_bounded_and_the_program_never_waits_for_a_reader(tmp_path: Path) -> None:
    ended = run(b"head -c 5000000 /dev/zero | tr '\\0' x", tmp_path)
    assert ended.status == 0 and ended.output.startswith(b"x" * program.MAX_OUTPUT + b"\n")
    assert len(ended.output) < program.MAX_OUTPUT + 100


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    start = time.monotonic()
    ended = run(b"sleep 1000 & echo $! >child; wait", tmp_path, seconds=0.3)
    assert ended.is_late and ended.status == -9 and time.monotonic() - start < 15
    assert _is_gone(int((tmp_path / "child").read_text()))


def test_a_child_left_behind_holds_nothing_up_and_is_ended(tmp_path: Path) -> None:
    start = time.monotonic()
    ended = run(b"sleep 1000 & echo $! >child; echo done", tmp_path)
    assert ended == (0, b"done\n", False) and time.monotonic() - start < 15
    assert _is_gone(int((tmp_path / "child").read_text()))


def _is_gone(process: int) -> bool:
    try:
        watcher = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    ready, _, _ = select.select([watcher], [], [], 10)
    os.close(watcher)
    return bool(ready)


def deliver(home: Path, instructions: bytes, has_programs: bool = True, content: bytes = MESSAGE) -> frames.Frame:
    (home / ".qmail").write_bytes(instructions)
    order = frames.Deliver(
        5, b"joe", os.fsencode(home), b"joe", b"", b"", b"here", b"s@x.test", b"./Maildir/\n", 0, len(content), content, 0)
    return next(answer for some in Deliverer(b"h", has_programs).answer([(order, -1)]) for answer in some)


@pytest.mark.parametrize(
    ("status", "outcome", "enhanced"), [(100, PERMANENT, b"5.3.0"), (77, PERMANENT, b"5.3.0"), (111, TEMPORARY, b"4.3.0"),
                                        (1, TEMPORARY, b"4.3.0"), (127, TEMPORARY, b"4.3.0")],
)  # fmt: skip
def test_an_exit_status_becomes_the_outcome_and_the_output_its_text(
    tmp_path: Path, status: int, outcome: bytes, enhanced: bytes
) -> None:
    answer = deliver(tmp_path, b"&a@b.test\n|echo no such luck; exit %d\n" % status)
    assert answer == frames.Delivered(5, outcome, enhanced, b"no such luck", b"", [])


def test_a_program_ended_by_a_signal_is_a_temporary_failure(tmp_path: Path) -> None:
    answer = deliver(tmp_path, b"|kill -9 $$\n")
    assert answer == frames.Delivered(5, TEMPORARY, b"4.3.0", b"the program was ended by signal 9", b"", [])


def test_exit_99_ends_the_file_with_success_and_keeps_the_forwards_above(tmp_path: Path) -> None:
    answer = deliver(tmp_path, b"&a@b.test\n|exit 0\n|echo stop; exit 99\n&c@d.test\n./Maildir/\n")
    assert answer == frames.Delivered(5, SUCCESS, b"2.0.0", b"stop\ndid 0+1+2", b"s@x.test", [b"a@b.test"])


def test_the_mailbox_unit_runs_no_program_and_does_nothing_of_such_a_file(tmp_path: Path) -> None:
    answer = deliver(tmp_path, b"./mbox\n|touch ran\n", has_programs=False)
    assert answer == frames.NeedsProgram(5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".qmail"]


def test_programs_of_one_delivery_share_one_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qmaild.policy.dotqmail.PROGRAM_SECONDS", 0.3)
    answer = deliver(tmp_path, b"|echo tired; sleep 1000\n")
    assert answer == frames.Delivered(
        5, TEMPORARY, b"4.3.0", b"tired\nthe program took too long and was ended", b"", [])  # fmt: skip
