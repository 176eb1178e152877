"""Drafts on their way to the queue: whole, streamed, bounded, refused early. The queue is a small server of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qmaild.protocol import frames
from qmaild.runtime import intake as module
from qmaild.runtime.caller import Caller
from qmaild.runtime.intake import Draft, Intake

from .peers import Peer, accepting
from .processes import SECONDS, no_descriptor_free

ENVELOPE = (b"Received: x\n", 0, b"smtp 192.0.2.1", b"a@b.test", [b"c@d.test"])


class Bench:
    """A loop with an intake in it, and the queue it talks to."""

    def __init__(self, directory: Path, queue: Peer) -> None:
        self.queue = queue
        self.loop = asyncio.SelectorEventLoop()
        self.caller = Caller(self.loop, str(directory / "run/intake.sock"), b"test")
        self.intake = Intake(self.caller)

    def until(self, is_so: Callable[[], bool]) -> None:
        """Run the loop until is_so."""

        async def wait() -> None:
            while not is_so():
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(asyncio.wait_for(wait(), SECONDS))

    def finish(self, draft: Draft) -> Any:
        """End the draft and wait for its answer."""
        answers: list[Any] = []
        draft.finish(answers.append, *ENVELOPE)
        self.until(lambda: bool(answers))
        assert len(answers) == 1
        return answers[0]

    def asked(self) -> Any:
        """The next frame that the queue got."""
        self.until(lambda: not self.queue.asked.empty())
        return self.queue.asked.get()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Peer(tmp_path, "intake", accepting) as queue:
        made = Bench(tmp_path, queue)
        yield made
        made.caller.close()
        made.loop.close()


def test_a_small_message_is_one_frame(bench: Bench) -> None:
    draft = bench.intake.draft()
    draft.write(b"Subject: x\n")
    draft.write(b"\ntext\n")
    answer = bench.finish(draft)
    message = bench.asked()
    assert answer == frames.Accepted(message.tag, 1000 + message.tag)
    assert message.content == b"Received: x\nSubject: x\n\ntext\n"
    assert bench.intake.held == 0


def test_a_message_becomes_a_stream_when_it_is_large(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WHOLE", 10)
    draft = bench.intake.draft()
    draft.write(b"0123456789")
    assert bench.intake.streams == 0
    draft.write(b"0")
    assert (bench.intake.streams, bench.intake.held) == (1, 11)
    answer = bench.finish(draft)
    assert isinstance(answer, frames.Accepted)
    asked = [bench.asked() for _ in range(3)]
    assert [type(each) for each in asked] == [frames.Open, frames.Piece, frames.End]
    assert asked[2].prefix == b"Received: x\n"
    assert bench.queue.streamed == {asked[0].tag: b"01234567890"}
    assert (bench.intake.streams, bench.intake.held, bench.intake.handed_on) == (0, 0, 0)


def test_a_stream_goes_on_in_pieces_and_the_queue_says_what_it_has_taken(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WHOLE", 10)
    monkeypatch.setattr(module, "PIECE", 100)
    bench.queue.answer = lambda frame: None
    draft = bench.intake.draft()
    for _ in range(7):
        draft.write(b"x" * 30)
    assert (bench.intake.held, bench.intake.handed_on) == (90, 120)
    opened, piece = bench.asked(), bench.asked()
    assert piece == frames.Piece(opened.tag, 120, 1)
    bench.queue.say(frames.Taken(opened.tag, 100))
    bench.until(lambda: bench.intake.handed_on == 20)
    bench.queue.say(frames.Taken(opened.tag, 1 << 40))  # a queue that cannot count
    bench.until(lambda: bench.intake.handed_on == 0)
    bench.queue.answer = accepting
    assert isinstance(bench.finish(draft), frames.Accepted)
    assert bench.queue.streamed == {opened.tag: b"x" * 210}


def test_no_memory_for_a_piece_refuses_for_now(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WHOLE", 10)
    draft, other = bench.intake.draft(), bench.intake.draft()
    with no_descriptor_free(os.getpid()):
        draft.write(b"x" * 11)
        draft.write(b"more")
        assert (bench.intake.streams, bench.intake.held) == (0, 0)
    refused = bench.finish(draft)
    assert (refused.outcome, refused.enhanced) == (frames.TEMPORARY, b"4.3.1")
    other.write(b"x" * 11)
    assert isinstance(bench.finish(other), frames.Accepted)


def shortage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for 100 bytes; who has 10 may have to give them up, and then 20 become free."""
    for name, value in (("MAX_HELD", 100), ("ROOM", 20), ("SMALLEST", 10)):
        monkeypatch.setattr(module, name, value)


def test_when_all_messages_together_are_too_much_those_that_hold_most_are_put_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    shortage(monkeypatch)
    drafts = [bench.intake.draft() for _ in range(4)]
    for draft, size in zip(drafts, (30, 45, 20, 9), strict=True):
        draft.write(b"x" * size)
    assert [draft.is_stream for draft in drafts] == [False, True, False, False]
    assert (bench.intake.held, bench.intake.handed_on, bench.intake.put_out) == (59, 45, 1)
    for draft in drafts:
        assert isinstance(bench.finish(draft), frames.Accepted)
    assert list(bench.queue.streamed.values()) == [b"x" * 45]
    assert (bench.intake.streams, bench.intake.held) == (0, 0)


def test_small_messages_stay_whole_beside_any_number_that_are_begun_and_not_ended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    shortage(monkeypatch)
    stalled = [bench.intake.draft() for _ in range(50)]
    for draft in stalled:
        draft.write(b"x" * 19)
        assert bench.intake.held <= 100
    for _ in range(12):
        for draft in stalled:
            draft.write(b"x")  # now and then a byte: none looks stiller than the small one that waits for its next packet
        small = bench.intake.draft()
        small.write(b"0123")
        stalled[0].write(b"x")
        small.write(b"4567")
        assert not small.is_stream
        assert isinstance(bench.finish(small), frames.Accepted)
        assert bench.intake.held <= 50 * 10
    assert bench.intake.put_out == 50, "a file each, once"


def test_a_stream_that_is_short_of_memory_hands_on_no_tiny_pieces(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    shortage(monkeypatch)
    monkeypatch.setattr(module, "MAX_WHOLE", 20)
    small = [bench.intake.draft() for _ in range(12)]
    for draft in small:
        draft.write(b"x" * 9)  # more than there is memory for, and none of it worth a file
    stream = bench.intake.draft()
    stream.write(b"x" * 21)
    for _ in range(10):
        stream.write(b"x" * 3)
    assert (bench.intake.streams, bench.intake.put_out) == (1, 0)
    assert bench.intake.held <= 13 * 10, "a smallest piece for each message, whatever they do"
    assert isinstance(bench.finish(stream), frames.Accepted)
    asked = [bench.asked() for _ in range(6)]
    assert [each.size for each in asked if isinstance(each, frames.Piece)] == [21, 12, 12, 6]
    for draft in small:
        assert isinstance(bench.finish(draft), frames.Accepted)


def test_what_was_handed_on_of_an_aborted_stream_counts_until_the_queue_has_come_past_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WHOLE", 0)
    monkeypatch.setattr(module, "PIECE", 100)
    monkeypatch.setattr(module, "HIGH_WATER", 150)
    bench.queue.answer = lambda frame: None
    for _ in range(2):
        draft = bench.intake.draft()
        draft.write(b"x" * 100)
        draft.abort()
        draft.abort()
    assert (bench.intake.streams, bench.intake.held, bench.intake.handed_on) == (2, 0, 200)
    assert bench.intake.is_congested
    asked = [bench.asked() for _ in range(6)]
    assert [type(each) for each in asked] == [frames.Open, frames.Piece, frames.Abort] * 2
    bench.queue.say(frames.Taken(asked[0].tag, 100))
    bench.until(lambda: bench.intake.streams == 1)
    assert not bench.intake.is_congested
    bench.queue.hang_up()
    bench.until(lambda: bench.intake.streams == 0)
    assert (bench.intake.handed_on, bench.intake.outstanding) == (0, 0)


def test_too_many_streams_are_refused_for_now(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WHOLE", 0)
    monkeypatch.setattr(module, "MAX_STREAMS", 1)
    first, second = bench.intake.draft(), bench.intake.draft()
    first.write(b"x")
    second.write(b"x")
    second.write(b"more")
    refused = bench.finish(second)
    assert (refused.outcome, refused.enhanced) == (frames.TEMPORARY, b"4.3.1")
    assert isinstance(bench.finish(first), frames.Accepted)


def test_an_answer_that_comes_early_is_given_at_the_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WHOLE", 0)
    bench.queue.answer = lambda frame: frames.Refused(frame.tag, frames.TEMPORARY, b"4.3.1", b"full")
    draft = bench.intake.draft()
    draft.write(b"x")
    bench.until(lambda: bench.intake.streams == 0)
    draft.write(b"more")
    assert bench.finish(draft).enhanced == b"4.3.1"


def test_an_aborted_stream_is_told_and_forgotten(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WHOLE", 0)
    draft = bench.intake.draft()
    draft.write(b"x")
    draft.abort()
    assert [type(bench.asked()) for _ in range(2)] == [frames.Open, frames.Abort]
    assert (bench.intake.streams, bench.intake.outstanding, bench.intake.held) == (0, 0, 0)


def test_an_aborted_small_message_is_never_heard_of(bench: Bench) -> None:
    dropped, kept = bench.intake.draft(), bench.intake.draft()
    dropped.write(b"secret")
    dropped.abort()
    assert bench.intake.held == 0
    bench.finish(kept)
    assert bench.asked().content == b"Received: x\n"


def test_a_lost_queue_answers_nothing_and_lets_all_go_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HIGH_WATER", 1000)
    bench.queue.answer = lambda frame: bench.queue.may_read.clear()
    first = bench.intake.draft()
    first.write(b"x")
    answers: list[Any] = []
    first.finish(answers.append, *ENVELOPE)
    bench.asked()
    large = bench.intake.draft()
    large.write(b"x" * (2 << 20))
    bench.until(lambda: bench.intake.is_congested)
    gone_on: list[bool] = []
    bench.intake.when_drained(lambda: gone_on.append(True))
    bench.queue.hang_up()
    bench.until(lambda: bool(gone_on))
    assert answers == [None]
    assert bench.finish(large) is None
    assert not bench.intake.is_congested and bench.intake.handed_on == 0
    bench.queue.may_read.set()
    bench.queue.answer = accepting
    assert isinstance(bench.finish(bench.intake.draft()), frames.Accepted)
