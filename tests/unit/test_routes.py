"""smtproutes and lanes: which entry a domain uses, and who shares a lane."""

from __future__ import annotations

import pytest

from qmaild.policy import routes
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
