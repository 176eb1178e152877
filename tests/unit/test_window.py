"""What may be out at send, and when something may go there: both without a store."""

from __future__ import annotations

import pytest

from qmaild.queue import window as subject
from qmaild.queue.pacing import BESIDE_SECONDS, PACE_SECONDS, RETRY_BESIDE, RETRY_SHARE, Pace
from qmaild.queue.window import NOTED_BYTES, RETRY_BYTES, SHORT_NOTE, WINDOW_BYTES, Out, Window

NOW = 1000.0


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> Window:
    monkeypatch.setattr(subject, "WINDOW_MESSAGES", 5)
    monkeypatch.setattr(subject, "RETRY_MESSAGES", 2)
    return Window()


def test_a_message_is_out_until_its_last_recipient_is_answered(window: Window) -> None:
    window.add(7, 2, 10, False)
    window.add(7, 1, 10, False)  # another lane of it
    window.settle(7, 2)
    assert 7 in window and len(window) == 1
    window.settle(7, 1)
    assert 7 not in window and len(window) == 0


def test_a_message_may_be_settled_by_more_than_it_has_out(window: Window) -> None:
    window.add(7, 0, 10, False)
    window.settle(7, 1 << 32)
    assert len(window) == 0


def test_retries_leave_room_for_new_messages(window: Window) -> None:
    for number in range(2):
        window.add(number, 1, 0, True)
    assert not window.has_room_for_retries and window.has_room
    for number in range(2, 5):
        window.add(number, 1, 0, False)
    assert not window.has_room
    window.settle(0, 1)
    assert window.has_room and window.has_room_for_retries
    window.add(5, 1, 0, False)
    assert not window.has_room_for_retries, "the window is full"


@pytest.mark.parametrize(("is_retry", "most"), [(True, RETRY_BYTES), (False, WINDOW_BYTES)])
def test_contents_in_memory_are_bounded(window: Window, is_retry: bool, most: int) -> None:
    window.add(1, 1, most - 1, is_retry)
    assert window.has_room_for_retries if is_retry else window.has_room
    window.add(1, 1, 1, is_retry)
    assert not (window.has_room_for_retries if is_retry else window.has_room)
    window.settle(1, 2)
    assert window.has_room_for_retries


def test_a_message_that_was_new_stays_new_while_it_is_out(window: Window) -> None:
    window.add(1, 1, RETRY_BYTES, False)
    window.add(1, 1, RETRY_BYTES, True)
    assert window.has_room_for_retries


def test_what_was_out_when_send_is_lost_takes_no_room(window: Window) -> None:
    for number in range(5):
        window.add(number, 3, RETRY_BYTES, number < 2)
    assert window.clear() == [0, 1, 2, 3, 4]
    assert len(window) == 0 and window.has_room_for_retries


def test_notes_are_kept_whole_until_there_are_many(window: Window) -> None:
    note = b"x" * 1000
    assert Out(1, 0, False, NOTED_BYTES - 1).bounded(note) == note
    assert Out(1, 0, False, NOTED_BYTES).bounded(note) == note[:SHORT_NOTE]


def test_the_first_of_a_burst_goes_at_once_and_the_next_one_pace_later() -> None:
    pace = Pace()
    assert pace.wait(NOW) <= 0
    pace.fresh_went(NOW)
    assert pace.wait(NOW) == pytest.approx(PACE_SECONDS)
    assert pace.wait(NOW + PACE_SECONDS) <= 0


def test_retries_have_a_pace_of_their_own() -> None:
    pace = Pace()
    assert pace.retry_wait(NOW) <= 0
    assert pace.retries(NOW) == RETRY_SHARE
    assert pace.retry_wait(NOW) == pytest.approx(PACE_SECONDS)
    assert pace.wait(NOW) <= 0, "new messages do not wait for it"


def test_few_retries_go_for_a_while_after_a_new_message() -> None:
    pace = Pace()
    pace.fresh_went(NOW)
    assert pace.retries(NOW + BESIDE_SECONDS / 2) == RETRY_BESIDE
    assert pace.retries(NOW + BESIDE_SECONDS) == RETRY_SHARE
