"""The queue's clock, with times of the test's."""

from __future__ import annotations

from qmaild.runtime.clock import JUMP, SECOND, Clock

HOUR = 3600 * SECOND
DAY = 24 * HOUR


class Times:
    def __init__(self) -> None:
        self.wall, self.steady = 1000 * DAY, 5 * DAY
        self.clock = Clock(lambda: self.wall, lambda: self.steady)
        self.jumps: list[int] = []
        self.clock.on_jump = self.jumps.append

    def later(self, passed: int, jump: int = 0) -> int:
        """Let time pass and the clock be set; return what the clock says."""
        self.steady += passed
        self.wall += passed + jump
        return self.clock.now()


def test_time_that_passes_is_no_jump() -> None:
    times = Times()
    birth = times.clock.now()
    assert times.later(10 * DAY) == birth + 10 * DAY
    times.later(HOUR, JUMP - 1)
    assert times.jumps == []
    assert times.clock.believed(birth) == birth


def test_small_steps_that_add_up_are_a_jump() -> None:
    times = Times()
    times.later(HOUR, JUMP // 2)
    times.later(HOUR, JUMP // 2)
    assert times.jumps == [JUMP]
    times.later(HOUR)
    assert times.jumps == [JUMP]


def test_a_message_from_before_a_jump_forward_is_as_old_as_it_was() -> None:
    times = Times()
    old = times.clock.now()
    times.later(HOUR)
    now = times.later(HOUR, 30 * DAY)
    assert times.jumps == [30 * DAY]
    assert now - times.clock.believed(old) == 2 * HOUR
    young = now
    assert times.clock.believed(young) == young
    now = times.later(HOUR, 90 * DAY)
    assert [now - times.clock.believed(each) for each in (old, young)] == [3 * HOUR, HOUR]


def test_a_message_from_after_a_jump_that_was_not_noticed_yet_is_not_from_the_future() -> None:
    times = Times()
    times.later(0, 10 * DAY)
    assert times.clock.believed(times.wall + HOUR) == times.wall


def test_after_a_jump_back_no_message_is_from_the_future() -> None:
    times = Times()
    birth = times.clock.now()
    now = times.later(HOUR, -30 * DAY)
    assert times.jumps == [-30 * DAY]
    assert times.clock.believed(birth) == now
