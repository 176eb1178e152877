"""A real process on a real disk is killed in the middle of its work: what it had acknowledged is there."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from qmaild.queue.store import Store

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORKER = """
import select, sys
from qmaild.queue.store import Store

store = Store.open(sys.argv[1], segment_bytes=262144)
name = int(sys.argv[2])
while True:
    numbers = []
    for size in range(20):
        name += 1
        number = store.add(birth=name, flags=0, origin=b"", sender=b"", recipients=[b"a", b"b"],
                           content=b"%d:" % name + b"x" * (size * 211))
        numbers.append(number)
    ticket = store.commit()
    while store.collect().durable < ticket:
        select.select([store.eventfd], [], [])
    sys.stdout.write("".join("added %d %d\\n" % (number, name - 19 + at) for at, number in enumerate(numbers)))
    for number in list(numbers):
        if number % 5:
            store.end(number)
            numbers.remove(number)
        else:
            store.done(number, [0])
    ticket = store.commit()
    while store.collect().durable < ticket:
        select.select([store.eventfd], [], [])
    sys.stdout.write("kept %s\\n" % " ".join(map(str, numbers)))
    sys.stdout.flush()
"""


def read_until(worker: subprocess.Popen[str], rounds: int) -> list[str]:
    """Return the lines of that many rounds, and whatever else it said before it died of the kill."""
    assert worker.stdout
    lines: list[str] = []
    while rounds:
        lines.append(worker.stdout.readline())
        assert lines[-1], "the worker ended by itself"
        rounds -= lines[-1].startswith("kept")
    worker.kill()
    lines += worker.stdout.read().split("\n")
    worker.wait()
    return lines


@pytest.mark.parametrize("rounds", [1, 7, 40])
def test_killed_under_load_loses_nothing_acknowledged(tmp_path: pathlib.Path, rounds: int) -> None:
    directory = str(tmp_path / "queue")
    kept: set[int] = set()
    for turn in range(4):
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, directory, str(turn * 1_000_000)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        lines = read_until(worker, rounds)
        whole = [line.split() for line in lines if line.startswith("kept")]
        kept |= {int(number) for line in whole[:rounds] for number in line[1:]}
        ended = {int(line.split()[1]) for line in lines[: 21 * rounds] if line.startswith("added")} - kept
        store = Store.open(directory, segment_bytes=262144)
        found = {summary.number: summary for summary in store.messages(0, 100_000)}
        assert kept <= set(found)
        assert not ended & set(found)
        for number in kept:
            assert store.read(number).startswith(b"%d:" % found[number].birth)
            assert [part.state for part in found[number].recipients] == ["done", "new"]
        assert store.counts().damaged == 0
        store.close()
