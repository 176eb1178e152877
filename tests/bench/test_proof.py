"""The proof that a 250 follows its sync: it holds for the real programs, and it fails when the promise is broken."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.processes import Running

from .load import LARGE_BYTES, SenderCall, compile_program, send_marked
from .proof import Sent, Trace
from .tracing import Proof, processes_of, prove

SENT = Sent("x-000001", 40001, 250, 0, 9000, 0)
SEGMENT = "15</q/segments/00000000>"
PEER = "9<TCP:[127.0.0.1:25->127.0.0.1:40001]>"
FILE = "18</q/large/0000000000000007>"

SMALL = f"""\
7 10:00:00.000001 sendto({PEER}, "220 host\\r\\n", 10, 0, NULL, 0) = 10
7 10:00:00.000002 sendto({PEER}, "250-host\\r\\n250 HELP\\r\\n", 20, 0, NULL, 0) = 20
7 10:00:00.000003 sendto({PEER}, "250 2.1.0 ok\\r\\n250 2.1.5 ok\\r\\n354 go on\\r\\n", 40, 0, NULL, 0) = 40
8 10:00:00.000004 pwrite64({SEGMENT}, "QMR1\\0sender-x-000001@client.test\\0begin-x-000001\\nend-x-000001\\n", 90, 4096) = 90
8 10:00:00.000005 fdatasync({SEGMENT}) = 0
7 10:00:00.000006 sendto({PEER}, "250 2.0.0 ok\\r\\n", 14, 0, NULL, 0) = 14
""".splitlines()
WRITTEN, SYNCED, PROMISED = SMALL[3:]

LARGE = f"""\
7 10:00:00.000001 sendto({PEER}, "354 go on\\r\\n", 10, 0, NULL, 0) = 10
8 10:00:00.000002 openat(AT_FDCWD</>, "/q/large/0000000000000007", O_RDWR|O_CREAT|O_EXCL|O_CLOEXEC, 0600) = {FILE}
8 10:00:00.000003 pwrite64({FILE}, "From: x\\n\\nbegin-x-000001\\naaaa\\nend-x-00", 40, 0) = 40
8 10:00:00.000004 pwrite64({FILE}, "0001\\n", 5, 40) = 5
9 10:00:00.000005 fsync({FILE}) = 0
9 10:00:00.000006 fsync(14</q/large>) = 0
8 10:00:00.000007 pwrite64({SEGMENT}, "QMR1\\0sender-x-000001@client.test", 40, 4096) = 40
8 10:00:00.000008 fdatasync({SEGMENT}) = 0
7 10:00:00.000009 sendto({PEER}, "250 2.0.0 ok\\r\\n", 14, 0, NULL, 0) = 14
""".splitlines()


def faults(lines: list[str], sent: Sent = SENT) -> list[str]:
    trace = Trace()
    for line in lines:
        trace.feed(line)
    return [fault.partition(": ")[2] for fault in trace.faults([sent])]


def changed(lines: list[str], old: str, *new: str) -> list[str]:
    at = lines.index(old)
    return [*lines[:at], *new, *lines[at + 1 :]]


def in_parts(line: str, *between: str) -> list[str]:
    """The same call as strace writes it when others come between its beginning and its return."""
    head, _, answer = line.rpartition(") = ")
    thread, time, call = head.split(" ", 2)
    name = call.partition("(")[0]
    return [f"{thread} {time} {call} <unfinished ...>", *between, f"{thread} {time} <... {name} resumed>) = {answer}"]


@pytest.mark.parametrize("lines", [SMALL, LARGE], ids=["small", "large"])
def test_a_promise_behind_its_syncs_is_kept(lines: list[str]) -> None:
    assert faults(lines) == []


def test_calls_in_parts_count_from_where_they_began_to_where_they_returned() -> None:
    whole = [*SMALL[:3], *in_parts(WRITTEN), *in_parts(SYNCED), *in_parts(PROMISED)]
    assert faults(whole) == []
    assert faults([*SMALL[:3], *in_parts(WRITTEN, SYNCED), PROMISED]) == ["its record was never synced"]
    assert faults([*SMALL[:3], WRITTEN, *in_parts(SYNCED, PROMISED)]) == ["the sync of its record had not returned"]
    # The reply has left when its write began, though the write returned behind the sync.
    assert faults([*SMALL[:3], WRITTEN, *in_parts(PROMISED, SYNCED)]) == ["the sync of its record had not returned"]


@pytest.mark.parametrize(
    ("sync", "fault"),
    [
        ([], "its record was never synced"),
        ([SYNCED.replace("= 0", "= -1 EIO (Input/output error)")], "its record was never synced"),
        ([SYNCED.replace("= 0", "= 0 (INJECTED)")], "its record was never synced"),
        ([SYNCED.replace("00000000>", "00000001>")], "its record was never synced"),
    ],
    ids=["none", "failed", "injected", "another segment"],
)
def test_what_is_no_sync_of_the_segment_covers_nothing(sync: list[str], fault: str) -> None:
    assert faults(changed(SMALL, SYNCED, *sync)) == [fault]


def test_a_sync_before_the_write_or_behind_the_promise_covers_nothing() -> None:
    assert faults([*SMALL[:3], SYNCED, WRITTEN, PROMISED]) == ["its record was never synced"]
    assert faults([*SMALL[:3], WRITTEN, PROMISED, SYNCED]) == ["the sync of its record had not returned"]


def test_a_write_that_failed_or_left_out_the_end_is_found() -> None:
    assert faults(changed(SMALL, WRITTEN, WRITTEN.replace("= 90", "= -1 ENOSPC (No space)"))) == ["its record was never written"]
    cut = WRITTEN.replace("end-x-000001\\n", "")
    assert faults(changed(SMALL, WRITTEN, cut)) == ["the end of its body was never written"]


def test_a_message_without_its_250_is_no_proof() -> None:
    assert faults(SMALL[:-1]) == ["no 250 (the client saw 250)"]
    refused = PROMISED.replace("250 2.0.0", "451 4.3.0")
    assert faults(changed(SMALL, PROMISED, refused), Sent("x-000001", 40001, 451, 0, 0, 0)) == ["no 250 (the client saw 451)"]


FILE_SYNC, NAME_SYNC, RECORD = LARGE[4:7]


@pytest.mark.parametrize(
    ("line", "instead", "fault"),
    [
        (FILE_SYNC, [], "its file was never synced"),
        (NAME_SYNC, [], "the name of its file was never synced"),
        (RECORD, [], "its record was never written"),
        (LARGE[7], [], "its record was never synced"),
        (LARGE[3], [], "the end of its body was never written"),
    ],
    ids=["file", "folder", "record", "segment", "last bytes"],
)
def test_each_step_of_a_large_message_is_needed(line: str, instead: list[str], fault: str) -> None:
    assert faults(changed(LARGE, line, *instead)) == [fault]


def test_a_large_message_is_durable_before_its_record_is_written() -> None:
    early = [each for each in LARGE if each != RECORD]
    assert faults([*early[:4], RECORD, *early[4:]]) == ["the sync of its file had not returned"]


# --- the real programs

NO_SYNC = """
int fdatasync(int fd) { (void)fd; return 0; }
int fsync(int fd) { (void)fd; return 0; }
"""


@pytest.fixture(scope="module")
def sender(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program("sender", tmp_path_factory.mktemp("sender"))


@contextlib.contextmanager
def house(directory: Path, monkeypatch: pytest.MonkeyPatch, preload: str = "") -> Iterator[tuple[list[int], int]]:
    """queue and smtpd as processes: their numbers and the port. Nothing else runs: what comes in stays."""
    monkeypatch.setenv("STATE_DIRECTORY", str(directory / "queue"))
    monkeypatch.setenv("QMAILD_STANDALONE", str(directory))
    with contextlib.ExitStack() as stack:
        with monkeypatch.context() as patch:
            if preload:
                patch.setenv("LD_PRELOAD", preload)
            queue = stack.enter_context(Running("queue", ["intake", "control"], directory))
        smtpd = stack.enter_context(Running("smtpd", ["smtp", "control"], directory, relayclients="127.0.0.1"))
        yield [queue.process.pid, smtpd.process.pid], smtpd.ports["smtp"]


def proof_of(tmp_path: Path, sender: Path, running: tuple[list[int], int], messages: int, body_bytes: int) -> Proof:
    pids, port = running
    send_marked(SenderCall(sender, port, 1, "user@remote.test", "warm"))  # answered once both are up
    call = SenderCall(sender, port, messages, "user@remote.test", "real", 20, body_bytes)
    return prove(processes_of(pids, "queue", "smtpd"), call, tmp_path)


@pytest.mark.parametrize(("messages", "body_bytes"), [(60, 4096), (12, LARGE_BYTES)], ids=["small", "large"])
def test_every_250_of_the_real_programs_follows_its_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sender: Path, messages: int, body_bytes: int
) -> None:
    with house(tmp_path, monkeypatch) as running:
        proof = proof_of(tmp_path, sender, running, messages, body_bytes)
    assert proof.faults == []
    assert proof.syncs > 0


@pytest.mark.parametrize("body_bytes", [4096, LARGE_BYTES], ids=["small", "large"])
def test_a_core_whose_syncs_do_nothing_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sender: Path, body_bytes: int
) -> None:
    (tmp_path / "shim.c").write_text(NO_SYNC)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "shim.so", tmp_path / "shim.c"], check=True)
    with house(tmp_path, monkeypatch, str(tmp_path / "shim.so")) as running:
        proof = proof_of(tmp_path, sender, running, 10, body_bytes)
    assert len(proof.faults) == 10
    assert all(" was never synced" in fault for fault in proof.faults)
