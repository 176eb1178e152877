"""qmail-getpw's rules: which accounts a local part may belong to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qmaild.policy import users
from qmaild.policy.users import Candidate


def test_the_longest_name_is_tried_first_and_the_extension_keeps_its_case() -> None:
    assert users.candidates(b"Games-Foo-Bar") == [
        Candidate(b"games-foo-bar", b"", b""), Candidate(b"games-foo", b"-", b"Bar"), Candidate(b"games", b"-", b"Foo-Bar"),
    ]  # fmt: skip


def test_names_longer_than_an_account_may_have_are_not_tried() -> None:
    assert [each.name for each in users.candidates(b"a" * 31)] == [b"a" * 31]
    assert users.candidates(b"a" * 32) == []
    assert [each.name for each in users.candidates(b"joe-" + b"x" * 40)] == [b"joe"]


def test_a_trailing_or_leading_hyphen_makes_no_empty_name() -> None:
    assert users.candidates(b"joe-") == [Candidate(b"joe-", b"", b""), Candidate(b"joe", b"-", b"")]
    assert users.candidates(b"-joe") == [Candidate(b"-joe", b"", b"")]
    assert users.candidates(b"") == []


@given(st.binary(max_size=200))
def test_a_hostile_local_part_costs_a_bounded_number_of_lookups(local: bytes) -> None:
    found = users.candidates(local)
    assert len(found) <= users.MAX_NAME
    for each in found:
        assert each.name and not set(each.name) & set(b"/:\0\n ")
        assert each.name + (each.dash + each.extension).lower() == local.lower()


def test_root_and_the_systems_accounts_receive_nothing_unless_listed() -> None:
    listed = frozenset({b"qmaild-alias", b"root"})
    assert users.may_receive(b"bob", 1000, frozenset())
    assert users.may_receive(b"qmaild-alias", 990, listed)
    assert not users.may_receive(b"root", 0, listed)
    assert not users.may_receive(b"daemon", 1, listed)
    assert not users.may_receive(b"nobody", 65534, listed)
    assert not users.may_receive(b"dynamic", 61184, listed)
    assert users.may_receive(b"homed", 60100, frozenset())
