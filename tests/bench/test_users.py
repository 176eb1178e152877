"""A question to a cdb costs next to nothing, and no more in a file of a hundred times the size."""

from __future__ import annotations

from pathlib import Path

from .users import GOAL, of_assignments, of_keys

SLOW = 8  # times the goal: a machine may be slow and busy


def test_a_question_about_a_user_is_cheap_among_ten_thousand_lines(tmp_path: Path) -> None:
    for cost in of_assignments(tmp_path, 10_000):
        assert cost.microseconds < GOAL * SLOW, cost


def test_the_number_of_keys_does_not_matter(tmp_path: Path) -> None:
    small = [cost.microseconds for cost in of_keys(tmp_path, 1_000)]
    large = [cost.microseconds for cost in of_keys(tmp_path, 100_000)]
    assert max(large) < GOAL * SLOW
    assert sum(large) < 3 * sum(small)
