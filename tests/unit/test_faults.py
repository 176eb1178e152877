"""Faults of the machine under real services: a disk that fails, a clock that is set, a journal that is gone."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qmaild.protocol import frames
from qmaild.runtime import journal

from .faults import Faults
from .processes import SECONDS, Client, Running
from .test_queue_service import Send, accept, ask, listed, message, start

HOUR, DAY = 3600, 86400
CONTENT = b"Subject: x\n\nhi\n"


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    return Faults(tmp_path)


@pytest.fixture
def send(tmp_path: Path) -> Iterator[Send]:
    end = Send(tmp_path)
    yield end
    end.close()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "queue"))
    monkeypatch.setenv("QMAILD_STANDALONE", str(tmp_path))
    return tmp_path


@pytest.fixture
def queue(place: Path, send: Send, faults: Faults) -> Iterator[Running]:
    with faults.ordered():
        running = start(place)
    with running:
        yield running


def answered(door: Client, tag: int, **how: Any) -> Any:
    door.send(message(tag, b"x@y.test", **how))
    answer, _ = door.receive()
    return answer


def records(place: Path, text: str) -> list[dict[str, str]]:
    """The journal's records with this text."""
    path = place / "journal"
    lines = path.read_text().splitlines() if path.exists() else []
    return [record for record in map(json.loads, lines) if text in record["MESSAGE"]]


def accepted_at_last(door: Client, tag: int) -> int:
    """Ask until a message is taken: the store rests a little before it tries a disk again that has failed."""
    deadline = time.monotonic() + SECONDS
    while not isinstance(answer := answered(door, tag), frames.Accepted):
        assert answer.outcome == frames.TEMPORARY and time.monotonic() < deadline
        tag += 1
        time.sleep(0.05)
    return answer.number


# --- the disk


def test_what_a_failed_sync_was_about_is_refused_and_a_new_segment_serves(
    queue: Running, place: Path, send: Send, faults: Faults
) -> None:
    door = queue.client("intake")
    before = accept(door, b"before@y.test")
    old = set(os.listdir(place / "queue/segments"))
    faults.syncs_fail(errno.EIO)
    for tag in range(2, 5):
        refused = answered(door, tag)
        assert isinstance(refused, frames.Refused) and refused.outcome == frames.TEMPORARY
    assert faults.failed >= 1
    faults.syncs_fail(0)
    after = accepted_at_last(door, 5)
    assert set(os.listdir(place / "queue/segments")) - old, "a segment that failed is not written to again"
    assert {send.receive().number for _ in range(2)} == {before, after}
    assert records(place, "the queue cannot take messages")


def test_what_was_refused_after_a_failed_sync_stays_away_and_what_was_accepted_comes_back(
    place: Path, faults: Faults
) -> None:
    with faults.ordered():
        running = start(place)
    with running:
        door = running.client("intake")
        kept = [accept(door, b"one@y.test")]
        faults.syncs_fail(errno.EIO)
        assert isinstance(answered(door, 2), frames.Refused)
        faults.syncs_fail(0)
        kept.append(accepted_at_last(door, 3))
        running.process.kill()
        running.process.wait()
    with start(place) as again:
        assert [json.loads(line)["number"] for line in listed(again, "json")] == kept


def test_a_large_message_whose_own_file_cannot_be_synced_is_refused(queue: Running, faults: Faults) -> None:
    door = queue.client("intake")
    accept(door, b"before@y.test")
    faults.syncs_fail(errno.EIO)
    refused = answered(door, 2, content=b"line\n" * 200_000)
    assert isinstance(refused, frames.Refused) and refused.outcome == frames.TEMPORARY
    faults.syncs_fail(0)
    accepted_at_last(door, 3)
    assert isinstance(answered(door, 1000, content=b"line\n" * 200_000), frames.Accepted)


def test_a_disk_that_takes_no_bytes_costs_what_is_refused_only(
    queue: Running, place: Path, faults: Faults
) -> None:
    door = queue.client("intake")
    accept(door, b"before@y.test")
    faults.writes_fail(errno.ENOSPC)
    refused = answered(door, 2)
    assert isinstance(refused, frames.Refused) and refused.outcome == frames.TEMPORARY
    faults.writes_fail(0)
    accepted_at_last(door, 3)
    assert len(listed(queue)) == 2


# --- the clock


def deferred(send: Send, seconds: float) -> frames.Job:
    """Take the next job and put it off."""
    job = send.receive()
    assert isinstance(job, frames.Job)
    due = time.time_ns() // 1000 + int(seconds * 1e6)
    send.send(frames.Deferred(job.number, b"remote:y.test", due, job.indexes))
    return job


def until_waiting(queue: Running, count: int) -> None:
    deadline = time.monotonic() + SECONDS
    while f"{count} waiting" not in ask(queue, "status")[1]:
        assert time.monotonic() < deadline


def test_a_clock_set_back_stops_no_delivery(queue: Running, place: Path, send: Send, faults: Faults) -> None:
    door = queue.client("intake")
    first = accept(door, b"x@y.test")
    assert deferred(send, 400).number == first
    until_waiting(queue, 1)
    faults.clock_is_ahead(-30 * DAY)
    second = accept(door, b"x@y.test")
    jobs = {job.number: job for job in (send.receive(), send.receive())}
    assert set(jobs) == {first, second}, "what waited is due, and what came is not put off"
    age = time.time() - 30 * DAY - jobs[first].birth / 1e6
    assert abs(age) < 60, "it is not from the future"
    assert records(place, "the clock was set back")


def test_a_clock_set_forward_makes_no_message_old(queue: Running, place: Path, send: Send, faults: Faults) -> None:
    door = queue.client("intake")
    first = accept(door, b"x@y.test")
    assert deferred(send, 400).number == first
    until_waiting(queue, 1)
    faults.clock_is_ahead(60 * DAY)
    second = accept(door, b"x@y.test")
    jobs = {job.number: job for job in (send.receive(), send.receive())}
    assert set(jobs) == {first, second}, "the due time of what waited has come"
    age = time.time() + 60 * DAY - jobs[first].birth / 1e6
    assert abs(age) < 60, "it is no older than it was"
    assert records(place, "the clock was set forward")


def test_a_machine_that_comes_up_in_the_past_tries_at_once_what_waited(
    place: Path, send: Send, faults: Faults
) -> None:
    with start(place) as running:
        first = accept(running.client("intake"), b"x@y.test")
        assert deferred(send, 400).number == first
        until_waiting(running, 1)
    send.drop()
    faults.clock_is_ahead(-300 * DAY)
    with faults.ordered():
        again = start(place)
    with again:
        job = send.receive()
    assert job.number == first and faults.is_obeyed
    assert job.birth / 1e6 < time.time() - 299 * DAY


# --- the journal


@pytest.fixture
def journal_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this process believes journald to listen."""
    monkeypatch.setattr(journal, "JOURNAL_SOCKET", str(tmp_path / "socket"))
    monkeypatch.setattr(journal, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(journal.paths, "STANDALONE", "")
    monkeypatch.setattr(journal, "_journal", journal._Journal())
    return tmp_path / "socket"


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    sock.settimeout(SECONDS)
    return sock


def test_a_journal_that_stalls_costs_records_and_no_time_and_it_is_told_how_many(journal_at: Path) -> None:
    with listening(journal_at) as stalled:
        journal.open_as("test")
        for number in range(2000):
            journal.note(journal.INFO, f"record {number}")
        lost = journal.dropped()
        assert 0 < lost < 2000
        taken = [stalled.recv(65536) for _ in range(2000 - lost)]
        assert b"MESSAGE=record 0\n" in taken[0]
        journal.note(journal.INFO, "after")
        assert b"MESSAGE=after\n" in stalled.recv(65536)
        assert f"MESSAGE={lost} records before this one were lost".encode() in stalled.recv(65536)


def test_a_journal_that_goes_and_comes_back_costs_the_records_between(journal_at: Path) -> None:
    with listening(journal_at):
        journal.open_as("test")
        journal.note(journal.INFO, "before")
    journal_at.unlink()
    for _ in range(3):
        journal.note(journal.INFO, "nobody hears")
    assert journal.dropped() == 3
    with listening(journal_at) as again:
        journal.note(journal.INFO, "after")
        assert b"MESSAGE=after\n" in again.recv(65536)
        assert b"MESSAGE=3 records before this one were lost" in again.recv(65536)


def test_a_journal_that_is_not_there_yet_is_found_when_it_comes(journal_at: Path) -> None:
    journal.open_as("test")
    journal.note(journal.INFO, "nobody hears")
    with listening(journal_at) as late:
        journal.note(journal.INFO, "heard")
        assert b"MESSAGE=heard\n" in late.recv(65536)


def test_a_journal_file_that_takes_no_bytes_stops_no_mail(
    tmp_path: Path, journal_at: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "journal").symlink_to("/dev/full")
    monkeypatch.setattr(journal.paths, "STANDALONE", str(tmp_path))
    journal.open_as("test")
    journal.note(journal.INFO, "nobody reads")
    assert journal.dropped() == 1
