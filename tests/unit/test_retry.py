"""Retry times: qmail's curve, its jitter, the last attempt, and a week of both channels."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmaild.policy import retry

BIRTH = 1_700_000_000 * retry.SECOND
WEEK = 604_800


@pytest.mark.parametrize(
    "is_local, ages",
    [
        (True, [0, 100, 400, 900, 1600, 2500, 3600]),
        (False, [0, 400, 1600, 3600, 6400, 10000, 14400]),
    ],
)
def test_without_jitter_attempts_are_at_the_squares(is_local: bool, ages: list[int]) -> None:
    for age, then in itertools.pairwise(ages):
        assert retry.next_attempt(BIRTH, BIRTH + age * retry.SECOND, is_local, 0.0) == BIRTH + then * retry.SECOND


def test_a_late_attempt_does_not_shift_those_after_it() -> None:
    late = BIRTH + (1600 + 79) * retry.SECOND + 123_456
    assert retry.next_attempt(BIRTH, late, False, 0.0) == BIRTH + 3600 * retry.SECOND


def test_jitter_adds_at_most_a_tenth_of_the_wait() -> None:
    now = BIRTH + 1600 * retry.SECOND
    assert retry.next_attempt(BIRTH, now, False, 1.0) == BIRTH + (3600 + 200) * retry.SECOND


@given(st.integers(-(10**6), 2 * WEEK), st.integers(0, retry.SECOND - 1), st.booleans(), st.floats(0, 1))
def test_the_next_attempt_is_always_in_the_future(age: int, part: int, is_local: bool, jitter: float) -> None:
    now = BIRTH + age * retry.SECOND + part
    due = retry.next_attempt(BIRTH, now, is_local, jitter)
    assert due > now
    assert due > BIRTH


@pytest.mark.parametrize("is_local, attempts", [(True, 79), (False, 40)])
def test_a_week_without_jitter_has_as_many_attempts_as_in_qmail(is_local: bool, attempts: int) -> None:
    now, made = BIRTH, 1
    while not retry.is_last(BIRTH, now, WEEK):
        now = retry.next_attempt(BIRTH, now, is_local, 0.0)
        made += 1
    assert made == attempts


@pytest.mark.parametrize("is_local", [True, False])
@pytest.mark.parametrize("jitter", [0.3, 1.0])
def test_a_week_with_jitter_has_nearly_as_many_attempts(is_local: bool, jitter: float) -> None:
    now, ages = BIRTH, [0]
    while not retry.is_last(BIRTH, now, WEEK):
        now = retry.next_attempt(BIRTH, now, is_local, jitter)
        ages.append((now - BIRTH) // retry.SECOND)
    plain = 79 if is_local else 40
    assert 0.85 * plain <= len(ages) <= plain
    assert ages[-1] - WEEK < 40_000


def test_the_last_attempt_starts_strictly_after_the_lifetime() -> None:
    assert not retry.is_last(BIRTH, BIRTH + WEEK * retry.SECOND, WEEK)
    assert retry.is_last(BIRTH, BIRTH + WEEK * retry.SECOND + 1, WEEK)


def test_trouble_of_our_own_services_waits_a_minute_at_most() -> None:
    old = BIRTH + 100_000 * retry.SECOND
    assert retry.after_trouble(BIRTH, old, False, 1.0) == old + 60 * retry.SECOND
    assert retry.after_trouble(BIRTH, BIRTH, True, 0.0) == BIRTH + 60 * retry.SECOND
