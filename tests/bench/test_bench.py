"""The benchmark's own parts: figures, control groups and the sink count what they should."""

from __future__ import annotations

import os
import smtplib
import subprocess
import sys
from pathlib import Path

import pytest

from . import load
from .load import WORKLOADS, LoadError, Sink, _share, await_count, compile_program, count_files
from .measure import CpuGroup, Result, comparisons, percentile
from .peer import free_port


def result(peer: str, seconds: float, cpu: float, workload: str = "accept", sessions: int = 20) -> Result:
    return Result(peer, workload, sessions, 1000, seconds, cpu)


def test_a_closing_line_compares_the_medians_of_both_sides() -> None:
    results = [result("qmaild", s, c) for s, c in ((1, 1), (2, 2), (10, 50))]
    results += [result("postfix", s, c) for s, c in ((5, 5), (4, 4), (4, 4))]
    assert [each.line() for each in comparisons(results)] == ["bench accept sessions=20 rate_ratio=2.00 cpu_ratio=0.50"]


def test_what_only_one_side_has_run_has_no_closing_line() -> None:
    results = [result("qmaild", 1, 1), result("postfix", 1, 1, sessions=100), result("qmaild", 1, 1, "relay")]
    assert [each.line() for each in comparisons(results)] == []


def test_lone_messages_are_compared_by_how_long_they_take() -> None:
    sides = {"qmaild": 2.0, "postfix": 8.0}
    results = [Result(peer, "latency", 1, 200, 20, 1, p50_ms=ms, p99_ms=ms + 2) for peer, ms in sides.items()]
    assert [each.line() for each in comparisons(results)] == [
        "bench latency sessions=1 p50_ratio=0.25 p99_ratio=0.40 cpu_ratio=1.00"
    ]


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(200, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1.0)) == (100.0, 198.0, 200.0)
    assert percentile([3.0], 0.5) == 3.0


def test_shares_of_a_load_add_up() -> None:
    assert [_share(101, 4, n) for n in range(4)] == [26, 25, 25, 25]


def test_files_of_missing_folders_count_as_none(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new/message").touch()
    assert count_files([tmp_path / "new", tmp_path / "missing"]) == 1


def test_waiting_for_a_count_ends_when_it_is_reached() -> None:
    counts = iter([0, 3, 5, 9])
    await_count(lambda: next(counts), 9, "messages")
    assert list(counts) == []


def test_a_load_that_never_arrives_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "DONE_SECONDS", 0.05)
    with pytest.raises(LoadError, match="messages: 1 of 2"):
        await_count(lambda: 1, 2, "messages")


@pytest.mark.skipif(os.geteuid() != 0, reason="control groups are made by root")
def test_a_control_group_counts_processes_that_have_ended() -> None:
    group = CpuGroup("proof")
    try:
        burn = "import os, time\nif os.fork() == 0:\n  while time.process_time() < 0.2: pass\nelse: os.wait()"
        subprocess.run(group.argv([sys.executable, "-I", "-S", "-c", burn]), check=True)
        assert group.processes() == []
        assert 0.2 <= group.seconds() < 5
    finally:
        group.remove()


@pytest.fixture(scope="module")
def sink_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program("sink", tmp_path_factory.mktemp("sink"))


BODIES = {
    "empty": "",
    "one dot": ".\r\n",
    "dotted line": "a\r\n.b\r\n",
    "long line": "x" * 200_000 + "\r\n",
    "many lines": "line\r\n" * 20_000 + "..\r\n",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_the_sink_counts_recipients_of_whole_messages(sink_program: Path, tmp_path: Path, body: str) -> None:
    sink = Sink(sink_program, free_port(), tmp_path)
    try:
        with smtplib.SMTP("127.0.0.1", sink.port, timeout=10) as client:
            for _ in range(2):
                client.sendmail("a@a.test", ["b@b.test", "c@b.test"], body)
            client.ehlo()
            client.docmd("MAIL FROM:<a@a.test>")
            client.docmd("RCPT TO:<never@b.test>")
        assert sink.recipients() == 4
    finally:
        sink.stop()


def test_every_workload_has_forward_paths_and_only_a_fan_out_ignores_the_number_of_messages() -> None:
    for workload in WORKLOADS.values():
        assert all("@" in path for path in workload.forward_paths)
        assert workload.messages(500, 20) == (20 if workload.name == "fanout" else 500 * workload.share)
