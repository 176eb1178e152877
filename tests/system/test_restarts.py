"""Every service restarted and the packages upgraded while twenty sessions send: none of them notices more than a 421."""

from __future__ import annotations

from . import restarts
from .load import Cut


def test_restarts_and_an_upgrade_cut_no_session_and_refuse_and_lose_no_message() -> None:
    with restarts.under_load("bookworm") as place:
        result = restarts.run(place, rounds=1, pause=0.3)
    assert not result.problems, "\n".join([*result.problems, *result.lines()])
    assert len(result.events) == 12 and result.found.accepted > 500
    assert all(each.accepted for each in result.outcomes.values()), "through every door"


def test_a_421_between_two_commands_is_clean_and_nothing_else_but_quit_is() -> None:
    assert not restarts.is_broken(Cut(0, "421", "mail"))
    for how, state in (("421", "body"), ("reset", "mail"), ("closed", "greeting"), ("refused", "connect"), ("timeout", "quit")):
        assert restarts.is_broken(Cut(0, how, state))
