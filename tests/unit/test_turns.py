"""Turns: a limit for each uid, and the order of those who wait."""

from __future__ import annotations

from qmaild.runtime.turns import Turns


def test_turns_are_limited_for_each_uid_and_given_on_in_order() -> None:
    begun: list[str] = []
    waiting = {name: (lambda name=name: begun.append(name)) for name in "abcd"}
    turns = Turns(2)
    for begin in waiting.values():
        turns.take(1, begin)
    turns.take(2, lambda: begun.append("other"))
    assert begun == ["a", "b", "other"]
    assert turns.active == 3
    turns.withdraw(1, waiting["c"])
    turns.give(1)
    assert begun[3:] == ["d"]
    turns.give(1)
    turns.give(1)
    turns.give(2)
    assert turns.active == 0


def test_a_turn_given_back_at_once_is_free_again() -> None:
    turns = Turns(1)
    for _ in range(3):
        turns.take(1, lambda: turns.give(1))
    assert turns.active == 0
