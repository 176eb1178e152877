"""Whose an address is: locals, virtualdomains and percenthack, by messages that go through the queue."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .host import Host, Whose

VIRTUAL = """\
virt.example:joe-virt
user@virt.example:joe-exact
.wild.example:joe-wild
no.wild.example:
test.example:joe-never
"""


@pytest.fixture(autouse=True, scope="module")
def rewriting(host: Host) -> Iterator[None]:
    with host.using(virtualdomains=VIRTUAL, percenthack="pct.example\n", envnoathost="test.example\n"):
        yield


def remote(address: str) -> Whose:
    return Whose("", "", address)


def test_f023_a_recipient_without_a_host_is_at_envnoathost(host: Host) -> None:
    assert host.whose(b"joe") == Whose("joe", "", "joe@test.example")


def test_f024_locals_match_in_any_case_and_the_recipient_keeps_its_own(host: Host) -> None:
    assert host.whose(b"JOE-X@TEST.example") == Whose("joe", "X", "JOE-X@TEST.example")


def test_f025_a_virtual_domain_goes_to_its_prefix_a_hyphen_and_the_address(host: Host) -> None:
    assert host.whose(b"x@virt.example") == Whose("joe", "virt-x", "joe-virt-x@virt.example")


def test_f026_an_entry_for_one_address_wins_over_its_domain(host: Host) -> None:
    assert host.whose(b"user@virt.example") == Whose("joe", "exact-user", "joe-exact-user@virt.example")


def test_f027_a_suffix_entry_is_for_subdomains_and_not_for_the_domain(host: Host) -> None:
    assert host.whose(b"a@x.wild.example") == Whose("joe", "wild-a", "joe-wild-a@x.wild.example")
    assert host.whose(b"a@x.y.wild.example") == Whose("joe", "wild-a", "joe-wild-a@x.y.wild.example")
    assert host.whose(b"a@wild.example") == remote("a@wild.example")


def test_f028_an_empty_prefix_takes_a_domain_out_again(host: Host) -> None:
    assert host.whose(b"a@no.wild.example") == remote("a@no.wild.example")


def test_f029_an_empty_key_catches_every_domain_that_is_nobody_elses(host: Host) -> None:
    with host.using(virtualdomains=VIRTUAL + ":games-any\n"):
        assert host.whose(b"a@elsewhere.example") == Whose("games", "any-a", "games-any-a@elsewhere.example")
        assert host.whose(b"joe@test.example").user == "joe"
        assert host.whose(b"x@virt.example").user == "joe"
        assert host.whose(b"a@no.wild.example") == remote("a@no.wild.example")
    assert host.whose(b"a@elsewhere.example") == remote("a@elsewhere.example")


def test_f030_a_domain_in_locals_is_not_looked_up_in_virtualdomains(host: Host) -> None:
    assert host.whose(b"games@test.example") == Whose("games", "", "games@test.example")


def test_f031_percenthack_makes_a_host_of_what_stands_behind_the_last_percent_sign(host: Host) -> None:
    assert host.whose(b"joe-v%w%test.example@pct.example") == Whose("joe", "v%w", "joe-v%w@test.example")


def test_f032_percenthack_is_done_again_while_it_can(host: Host) -> None:
    assert host.whose(b"u%v%pct.example@pct.example") == remote("u@v")


def test_f033_an_address_in_brackets_is_remote_unless_locals_has_it(host: Host) -> None:
    assert host.whose(b"joe@[1.2.3.4]") == remote("joe@[1.2.3.4]")
    with host.using(locals="test.example\n[1.2.3.4]\n"):
        assert host.whose(b"joe@[1.2.3.4]") == Whose("joe", "", "joe@[1.2.3.4]")


def test_f034_an_empty_domain_is_remote(host: Host) -> None:
    assert host.whose(b"noat@") == remote("noat@")


def test_f035_locals_and_virtualdomains_count_from_the_reload_on(host: Host) -> None:
    with host.using(locals="test.example\n", virtualdomains=VIRTUAL):
        host.write(locals="test.example\nsecond.example\n", virtualdomains=VIRTUAL + "third.example:games-third\n")
        assert host.whose(b"joe@second.example") == remote("joe@second.example")
        assert host.whose(b"x@third.example") == remote("x@third.example")
        host.reload()
        assert host.whose(b"joe@second.example").user == "joe"
        assert host.whose(b"x@third.example") == Whose("games", "third-x", "games-third-x@third.example")
