"""What an administrator sees of the queue and does to it: on a real store, domain by domain, slice by slice."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qmaild.control import events
from qmaild.queue import administration, listing
from qmaild.queue.administration import Administration
from qmaild.queue.commits import Commits
from qmaild.queue.store import FRESH, RETRY, SEGMENT_BYTES

from .store_client import FOREVER, Client

LATER = 1 << 50
MANY = 100_000
MOST_SECONDS = 0.02  # of the processor's time for one answer; here it is a third of that


class Office:
    """The commands beside a store. records: what went to the journal."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, segment_bytes: int = 8 << 20) -> None:
        self.client = Client(directory / "queue", segment_bytes=segment_bytes)
        self.store = self.client.store
        self.loop = asyncio.SelectorEventLoop()
        self.woken = 0
        self.commits = Commits(self.loop, self.store)
        self.administration = Administration(self.loop, self.store, self.commits, self._wake)
        self.records: list[tuple[Any, dict[str, Any]]] = []
        monkeypatch.setattr(
            administration.journal, "record", lambda event, **values: self.records.append((event, values)))  # fmt: skip

    def _wake(self) -> None:
        self.woken += 1

    def ask(self, *words: str) -> tuple[int, str]:
        code, text = self.administration.commands[words[0].encode()]([word.encode() for word in words[1:]])
        return code, text.decode()

    def sweep(self, verb: str, domain: str = "") -> tuple[list[str], int, int]:
        """All slices: the lines, the count, how many slices they were."""
        lines, count, slices, after = [], 0, 0, "0"
        while True:
            code, text = self.ask("sweep", verb, after, *([domain] if domain else []))
            assert code == 0
            head, *more = text.split("\n")
            after, found = head.split(" ")
            lines += more
            count += int(found)
            slices += 1
            if after == "0":
                return lines, count, slices

    def shown(self, number: int, form: str = "text", seconds: list[float] | None = None) -> list[str]:
        """All lines about one message, slice by slice; what each took of the processor's time is added to seconds."""
        lines: list[str] = []
        following = "0"
        while not lines or following != "0":
            begun = time.thread_time()
            code, text = self.ask("show", str(number), following, form)
            if seconds is not None:
                seconds.append(time.thread_time() - begun)
            assert code == 0
            following, *more = text.split("\n")
            lines += more
        return lines

    def listed(self, domain: str) -> list[int]:
        lines, count, _ = self.sweep("list", domain)
        assert len(lines) == count
        return [int(line.split()[0]) for line in lines]

    def new(self, *recipients: bytes) -> int:
        number = self.client.add(recipients=recipients)
        self.client.settle()
        return number

    def deferred(self, *recipients: tuple[bytes, bytes]) -> int:
        """A message whose recipients wait in these lanes, each for a time of its own."""
        number = self.out(*[address for address, _ in recipients])
        for index, (_, lane) in enumerate(recipients):
            self.store.defer(number, lane, LATER + index, [index])
        return number

    def out(self, *recipients: bytes) -> int:
        number = self.new(*recipients)
        assert number in [job.number for job in self.client.due(classes=(FRESH,))]
        return number

    def close(self) -> None:
        self.loop.remove_reader(self.store.eventfd)
        self.loop.close()
        self.store.close()


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    made = Office(tmp_path, monkeypatch)
    yield made
    made.close()


@pytest.fixture
def large_office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    made = Office(tmp_path, monkeypatch, SEGMENT_BYTES)
    yield made
    made.close()


def test_a_domain_is_found_wherever_its_recipients_stand(office: Office) -> None:
    waiting = office.deferred((b"a@y.test", b"remote:y.test"))
    office.deferred((b"a@z.test", b"remote:z.test"))
    beside = office.deferred((b"a@z.test", b"remote:z.test"), (b"b@y.test", b"remote:y.test"))
    routed = office.deferred((b"a@Y.test", b"remote:@"))
    office.deferred((b"a@z.test", b"remote:@"))
    suffix = office.deferred((b"a@y.test", b"remote:@.test"))
    own_route = office.deferred((b"a@y.test", b"remote:@y.test"))
    office.deferred((b"a@y.test.z.test", b"remote:@.z.test"))
    rewritten = office.deferred((b"a%y.test@here.test", b"remote:y.test"))
    local = office.deferred((b"a@y.test", b"local"))
    out = office.out(b"a@y.test")
    office.out(b"a@notyy.test")
    fresh = office.new(b"x@z.test", b"a@y.TEST")
    office.new(b"a@sub.y.test")
    expected = [waiting, beside, routed, suffix, own_route, rewritten, local, out, fresh]
    assert office.listed("y.test") == expected
    assert office.listed("Y.TEST") == expected
    assert office.listed("nowhere.test") == []


def test_who_is_done_or_failed_is_no_more_there(office: Office) -> None:
    number = office.deferred((b"a@y.test", b"remote:y.test"), (b"b@z.test", b"remote:z.test"))
    failed = office.deferred((b"a@y.test", b"remote:y.test"), (b"b@z.test", b"remote:z.test"))
    office.store.done(number, [0])
    office.store.fail(failed, 0, b"why")
    assert office.listed("y.test") == []
    assert office.listed("z.test") == [number, failed]


def test_what_is_out_of_a_lane_is_listed_with_it(office: Office) -> None:
    number = office.deferred((b"a@y.test", b"remote:y.test"))
    assert office.store.due(FOREVER, RETRY)
    assert office.listed("y.test") == [number]


def test_a_domain_is_listed_in_json_with_all_there_is_to_know(office: Office) -> None:
    number = office.deferred((b"a@y.test", b"remote:y.test"), (b"b@z.test", b"remote:z.test"))
    lines, _, _ = office.sweep("json", "y.test")
    (shown,) = map(json.loads, lines)
    assert shown["number"] == number
    assert [part["lane"] for part in shown["recipients"]] == ["remote:y.test", "remote:z.test"]


def test_a_list_goes_in_slices_in_the_order_of_numbers(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(administration, "SLICE_MESSAGES", 7)
    numbers = [office.client.add(recipients=(b"a@y.test",)) for _ in range(50)]
    office.client.settle()
    lines, count, slices = office.sweep("list")
    assert [int(line.split()[0]) for line in lines] == numbers
    assert (count, slices) == (50, 8)


def test_a_slice_ends_when_its_time_is_over(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(administration, "SLICE_SECONDS", 0.0)
    numbers = [office.client.add(recipients=(b"a@y.test",)) for _ in range(20)]
    office.client.settle()
    lines, _, slices = office.sweep("list", "y.test")
    assert [int(line.split()[0]) for line in lines] == numbers
    assert slices == 20


def test_a_message_with_many_recipients_is_shown_in_slices(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(administration, "SLICE_RECIPIENTS", 4)
    number = office.out(*[b"r%d@y.test" % index for index in range(8)])
    office.store.fail(number, 1, b"first")
    office.store.fail(number, 4, b"second")
    office.store.done(number, [5])
    head, *parts = office.shown(number)
    assert head.startswith(f"message {number}, ") and parts[0] == "reverse-path <from@example>"
    assert [part.split()[:3] for part in parts[1:]] == [
        ["out", "r0@y.test"], ["failed", "r1@y.test:", "first"], ["out", "r2@y.test"], ["out", "r3@y.test"],
        ["failed", "r4@y.test:", "second"], ["done", "r5@y.test"], ["out", "r6@y.test"], ["out", "r7@y.test"]]  # fmt: skip
    head, *parts = office.shown(number, "json")
    whole = json.loads(listing.whole_json(head, parts))
    assert whole == json.loads(listing.as_json(office.store.summary(number)))
    assert [part["index"] for part in whole["recipients"]] == list(range(8))


def test_a_message_that_ends_while_it_is_shown_is_said_to_be_gone(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(administration, "SLICE_RECIPIENTS", 2)
    number = office.new(b"a@y.test", b"b@y.test", b"c@y.test")
    assert office.ask("show", str(number), "0")[1].startswith("2\n")
    office.store.end(number)
    assert office.ask("show", str(number), "2") == (1, f"no message {number} is in the queue")


def test_a_message_with_too_many_recipients_for_a_line_is_a_number_in_a_list_as_json(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(administration, "SLICE_RECIPIENTS", 2)
    office.new(b"a@y.test", b"b@y.test")
    many = office.new(b"a@y.test", b"b@y.test", b"c@y.test")
    lines, count, _ = office.sweep("json")
    assert count == 2 and len(json.loads(lines[0])["recipients"]) == 2 and lines[1] == str(many)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_hundred_thousand_recipients_hold_the_loop_for_milliseconds_at_a_time(
    large_office: Office, form: str
) -> None:
    office = large_office
    number = office.out(*[b"recipient%d@y.test" % index for index in range(MANY)])
    for index in range(0, MANY, 10):
        office.store.fail(number, index, b"550 5.1.1 there is no such recipient here")
    seconds: list[float] = []
    assert len(office.shown(number, form, seconds)) == MANY + (1 if form == "json" else 2)
    assert max(seconds) < MOST_SECONDS


def test_a_domain_is_made_due_and_nothing_else(office: Office) -> None:
    two = office.deferred((b"a@y.test", b"remote:y.test"), (b"b@z.test", b"remote:z.test"))
    office.deferred((b"a@z.test", b"remote:@"))
    routed = office.deferred((b"a@y.test", b"remote:@"))
    _, count, _ = office.sweep("retry", "y.test")
    assert count == 2 and office.woken
    jobs = office.client.due(now=1)
    assert sorted((job.number, job.recipients) for job in jobs) == [
        (two, ((0, b"a@y.test"),)), (routed, ((0, b"a@y.test"),))]  # fmt: skip


def test_all_that_waits_is_made_due_in_slices(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(administration, "SLICE_MESSAGES", 3)
    numbers = [office.deferred((b"a@y.test", b"remote:y%d.test" % n)) for n in range(10)]
    assert office.ask("retry", "all")[0] == 0
    assert len(office.client.due(now=1)) == 3
    office.loop.call_later(0.5, office.loop.stop)
    office.loop.run_forever()
    assert len(office.client.due(now=1)) == len(numbers) - 3
    assert office.woken == 4


def test_a_domain_is_deleted_and_other_recipients_stay(office: Office) -> None:
    alone = office.deferred((b"a@y.test", b"remote:y.test"), (b"b@y.test", b"remote:y.test"))
    beside = office.deferred((b"a@y.test", b"remote:y.test"), (b"b@z.test", b"remote:z.test"))
    other = office.deferred((b"b@z.test", b"remote:z.test"))
    _, count, _ = office.sweep("delete", "y.test")
    assert count == 2
    assert office.store.find(None, 0, 10)[0] == [beside, other]
    assert [part.state for part in office.store.summary(beside).recipients] == ["done", "waiting"]
    assert [(event, values["message"]) for event, values in office.records] == [
        (events.ENDED, alone), (events.REMOVED, beside)]  # fmt: skip
    assert office.records[1][1] == {"message": beside, "sender": b"from@example", "recipients": 1, "text": "y.test"}


def test_a_bounce_that_is_owed_for_another_domain_is_not_deleted(office: Office) -> None:
    number = office.deferred((b"a@y.test", b"remote:y.test"), (b"b@z.test", b"remote:z.test"))
    office.store.fail(number, 1, b"why")
    office.sweep("delete", "y.test")
    (job,) = office.client.due()
    assert (job.number, job.kind, job.notes) == (number, "finish", ((1, b"b@z.test", b"why"),))


def test_everything_is_deleted(office: Office) -> None:
    office.deferred((b"a@y.test", b"remote:y.test"))
    office.new(b"a@z.test")
    assert office.sweep("delete")[1] == 2
    assert office.store.counts().messages == 0


def test_counts_are_those_of_the_states(office: Office) -> None:
    office.deferred((b"a@y.test", b"remote:y.test"), (b"b@y.test", b"remote:y.test"))
    office.out(b"a@y.test")
    office.new(b"a@y.test", b"b@z.test", b"c@z.test")
    counts = office.store.counts()
    assert (counts.messages, counts.waiting, counts.out, counts.new) == (3, 2, 1, 3)


@pytest.mark.parametrize(
    "words",
    [["sweep"], ["sweep", "list"], ["sweep", "list", "x"], ["sweep", "list", "0", "a.test", "more"], ["sweep", "eat", "0"],
     ["sweep", "list", str(1 << 64)], ["sweep", "list", "0", "x" * 2000], ["retry"], ["delete", "all"]],
)  # fmt: skip
def test_a_wrong_call_is_told_the_right_one(office: Office, words: list[str]) -> None:
    code, text = office.ask(*words)
    assert code == 100 and text.startswith(words[0])


@pytest.mark.parametrize("verb", ["show", "retry", "delete"])
@pytest.mark.parametrize("number", ["99", str(1 << 64), "-1"])
def test_a_message_that_is_not_there_is_said_so(office: Office, verb: str, number: str) -> None:
    assert office.ask(verb, number, *["0"] * (verb == "show")) == (1, f"no message {number} is in the queue")
