"""smtproutes and lanes: which entry a domain uses, and who shares a lane."""

from __future__ import annotations

import pytest

from qmaild.policy import lane_names, routes
from qmaild.policy.recipients import Target

TABLE = {
    b"exact.example": b"one",
    b".sub.example": b"two:2525",
    b".example": b"three",
    b"mx.example": b"",
    b"": b"smart",
}


@pytest.mark.parametrize(
    "domain, found",
    [
        (b"Exact.Example", (b"exact.example", b"one")),
        (b"a.sub.example", (b".sub.example", b"two:2525")),
        (b"a.b.sub.example", (b".sub.example", b"two:2525")),
        (b"sub.example", (b".example", b"three")),
        (b"elsewhere.test", (b"", b"smart")),
        (b"", (b"", b"smart")),
        (b"mx.example", None),
    ],
)
def test_exact_then_suffixes_then_the_empty_key(domain: bytes, found: tuple[bytes, bytes] | None) -> None:
    assert routes.find(domain, TABLE) == found


def test_without_an_entry_there_is_no_route() -> None:
    assert routes.find(b"elsewhere.test", {b"exact.example": b"one"}) is None
    assert routes.find(b"elsewhere.test", {}) is None


@pytest.mark.parametrize(
    "target, lane",
    [
        (Target(True, b"user@here", b"here"), b"local"),
        (Target(False, b"a@MX.example", b"MX.example"), b"remote:mx.example"),
        (Target(False, b"a@x.sub.example", b"x.sub.example"), b"remote:@.sub.example"),
        (Target(False, b"a@elsewhere.test", b"elsewhere.test"), b"remote:@"),
    ],
)
def test_all_that_goes_to_one_relay_shares_a_lane(target: Target, lane: bytes) -> None:
    assert routes.lane_of(target, TABLE) == lane


DOMAINS = [b"exact.example", b"A.sub.example", b"sub.example", b"x.exact.example", b"elsewhere.test", b"mx.example", b"test", b""]


@pytest.mark.parametrize("table", [{}, TABLE, {b"exact.example": b"one"}, {b".test": b"two", b"test": b"three"}])
def test_a_domain_is_in_a_lane_of_its_own_or_in_one_that_it_may_share(table: dict[bytes, bytes]) -> None:
    """Whoever looks for a domain by lane finds it, and finds nobody else in a lane of its own."""
    lanes = {domain: routes.lane_of(Target(False, b"u@" + domain, domain), table) for domain in DOMAINS}
    for domain, lane in lanes.items():
        own, shared = lane_names.only_for(domain), lane_names.shared_by(domain)
        assert lane in own or lane in shared
        assert lane in shared or [other for other in DOMAINS if lanes[other] == lane] == [domain]
    assert routes.lane_of(Target(True, b"u@here", b"here"), table) in lane_names.shared_by(b"here")
