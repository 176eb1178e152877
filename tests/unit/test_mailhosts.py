"""From DNS answers to the hosts that are tried, and the table of what each lack means."""

from __future__ import annotations

import ipaddress

import pytest

from qmaild.policy import mailhosts
from qmaild.policy.deadhosts import FIRST_SECONDS, LONGEST_SECONDS, MAX_HOSTS, DeadHosts
from qmaild.policy.mailhosts import Address, Answer, Candidate, Host, Search, Status, Target, Verdict
from qmaild.protocol.frames import PERMANENT, TEMPORARY

OWN = ipaddress.ip_address("192.0.2.99")
TROUBLE = Answer(Status.TROUBLE)
EMPTY = Answer(Status.EMPTY)


def unshuffled(items: list[Host] | list[Candidate]) -> None:
    pass


def is_own(address: Address) -> bool:
    return address == OWN


def found(*values: bytes) -> Answer:
    return Answer(Status.FOUND, values)


def mx(*values: tuple[int, bytes]) -> Answer:
    return Answer(Status.FOUND, values)


def test_hosts_come_in_groups_by_preference_without_doubles() -> None:
    groups = mailhosts.hosts_of(b"a.test", mx((20, b"c"), (10, b"b"), (20, b"d"), (10, b"B")), unshuffled)
    assert groups == [[Host(10, b"b")], [Host(20, b"c"), Host(20, b"d")]]


def test_hosts_of_one_preference_are_shuffled() -> None:
    groups = mailhosts.hosts_of(b"a.test", mx((5, b"a"), (5, b"b"), (5, b"c")), lambda hosts: hosts.reverse())
    assert groups == [[Host(5, b"c"), Host(5, b"b"), Host(5, b"a")]]


def test_a_domain_without_mx_is_its_own_host() -> None:
    assert mailhosts.hosts_of(b"a.test", EMPTY, unshuffled) == [[Host(0, b"a.test")]]


def test_no_more_hosts_are_taken_than_the_limit() -> None:
    groups = mailhosts.hosts_of(b"a.test", mx(*[(number, b"h%d" % number) for number in range(500)]), unshuffled)
    assert isinstance(groups, list) and len(groups) == mailhosts.MAX_HOSTS
    groups = mailhosts.hosts_of(b"a.test", mx(*[(7, b"h%d" % number) for number in range(500)]), unshuffled)
    assert isinstance(groups, list) and len(groups[0]) == mailhosts.MAX_HOSTS


@pytest.mark.parametrize(
    ("answer", "outcome", "enhanced"),
    [
        (TROUBLE, TEMPORARY, b"4.1.2"),
        (Answer(Status.ABSENT), PERMANENT, b"5.1.2"),
        (mx((0, b"")), PERMANENT, b"5.1.10"),
    ],
)
def test_mx_answers_that_end_the_way(answer: Answer, outcome: bytes, enhanced: bytes) -> None:
    verdict = mailhosts.hosts_of(b"a.test", answer, unshuffled)
    assert isinstance(verdict, Verdict)
    assert (verdict.outcome, verdict.enhanced) == (outcome, enhanced)


def test_a_null_mx_beside_a_real_one_does_not_count() -> None:
    assert mailhosts.hosts_of(b"a.test", mx((0, b""), (5, b"mx")), unshuffled) == [[Host(5, b"mx")]]


def test_a_name_in_a_text_shows_no_bytes_beyond_ascii() -> None:
    verdict = mailhosts.hosts_of(b"a\xff\n.test", Answer(Status.ABSENT), unshuffled)
    assert isinstance(verdict, Verdict) and b"a??.test" in verdict.text


def test_ipv6_and_ipv4_take_turns_host_by_host() -> None:
    answers = [
        (b"one", found(b"2001:db8::1", b"2001:db8::2")), (b"one", found(b"192.0.2.1")),
        (b"two", EMPTY), (b"two", found(b"192.0.2.2", b"192.0.2.3")),
    ]  # fmt: skip
    candidates = mailhosts.candidates_of(answers, unshuffled)
    assert [candidate.shown for candidate in candidates] == [
        b"2001:db8::1", b"192.0.2.1", b"2001:db8::2", b"192.0.2.2", b"192.0.2.3",
    ]  # fmt: skip


def test_no_more_addresses_are_taken_than_the_limit() -> None:
    answers = [(b"one", found(*[b"192.0.2.%d" % number for number in range(200)]))]
    assert len(mailhosts.candidates_of(answers, unshuffled)) == mailhosts.MAX_ADDRESSES


def walk(groups: list[list[Answer]]) -> tuple[list[bytes], Verdict]:
    """The addresses tried, in order, when none answers, and the verdict."""
    search = Search(b"a.test")
    tried: list[bytes] = []
    for group in groups:
        answers = [(b"mx", answer) for answer in group]
        tried += [each.shown for each in search.usable(answers, mailhosts.candidates_of(answers, unshuffled), is_own)]
    return tried, search.verdict()


ONE, TWO, OURS = found(b"192.0.2.1"), found(b"192.0.2.2"), found(b"192.0.2.99")


@pytest.mark.parametrize(
    ("groups", "tried", "enhanced"),
    [
        ([[ONE], [TWO]], [b"192.0.2.1", b"192.0.2.2"], b"4.4.1"),
        ([[OURS], [TWO]], [], b"5.4.6"),
        ([[ONE], [OURS], [TWO]], [b"192.0.2.1"], b"4.4.1"),  # only what is strictly better than we are
        ([[ONE, OURS], [TWO]], [], b"5.4.6"),  # equal to us is not better
        ([[TROUBLE], [OURS]], [], b"4.1.2"),  # a better host may be there later
        ([[EMPTY], [OURS]], [], b"5.4.6"),
        ([[TROUBLE]], [], b"4.1.2"),
        ([[TROUBLE, ONE]], [b"192.0.2.1"], b"4.4.1"),
        ([[EMPTY], [EMPTY]], [], b"5.4.4"),
    ],
)
def test_the_way_through_the_groups(groups: list[list[Answer]], tried: list[bytes], enhanced: bytes) -> None:
    result, verdict = walk(groups)
    assert (result, verdict.enhanced) == (tried, enhanced)
    assert verdict.outcome == (PERMANENT if enhanced.startswith(b"5") else TEMPORARY)


@pytest.mark.parametrize(
    ("name", "address"),
    [
        (b"192.0.2.1", "192.0.2.1"),
        (b"[192.0.2.1]", "192.0.2.1"),
        (b"[IPv6:2001:db8::1]", "2001:db8::1"),
        (b"[2001:db8::1]", "2001:db8::1"),
        (b"[IPv6:::ffff:127.0.0.1]", "127.0.0.1"),
        (b"a.test", None),
        (b"192.0.2.256", None),
        (b"[a.test]", None),
        (b"[192.0.2.1", None),
        (b"[\xff]", None),
        (b"1.2.3.4.5", None),
        (b"[]", None),
        (b"[IPv6:fe80::1%eth0]", None),
        (b"[IPv6:2001:db8::1%1]", None),
    ],
)
def test_address_literals(name: bytes, address: str | None) -> None:
    assert mailhosts.literal(name) == (ipaddress.ip_address(address) if address else None)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "::1", "::", "224.0.0.1", "ff02::1"])
def test_addresses_that_are_never_another_host(address: str) -> None:
    assert mailhosts.is_never_mail(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("value", "target"),
    [
        (b"relay.test", Target(b"smtp", b"relay.test", 25)),
        (b"relay.test:2525", Target(b"smtp", b"relay.test", 2525)),
        (b"[127.0.0.1]:2526", Target(b"smtp", b"[127.0.0.1]", 2526)),
        (b"[2001:db8::1]:26", Target(b"smtp", b"[2001:db8::1]", 26)),
        (b"[2001:db8::1]", Target(b"smtp", b"[2001:db8::1]", 25)),
        (b"2001:db8::1", Target(b"smtp", b"2001:db8::1", 25)),
        (b"lmtp:lda.test", Target(b"lmtp", b"lda.test", 24)),
        (b"lmtp:lda.test:2424", Target(b"lmtp", b"lda.test", 2424)),
        (b"lmtp:/run/lmtp.sock", Target(b"lmtp", b"", 0, b"/run/lmtp.sock")),
        (b"", None),
    ],
)
def test_route_values(value: bytes, target: Target | None) -> None:
    assert mailhosts.target_of(value) == target


def test_a_host_that_timed_out_is_left_alone_longer_each_time() -> None:
    dead, now, seconds = DeadHosts(), 1000.0, FIRST_SECONDS
    for _ in range(10):
        dead.timed_out(b"192.0.2.1", now)
        assert dead.is_dead(b"192.0.2.1", now + seconds - 1)
        assert not dead.is_dead(b"192.0.2.1", now + seconds)
        now, seconds = now + seconds, min(seconds * 2, LONGEST_SECONDS)


def test_timeouts_side_by_side_count_once() -> None:
    dead = DeadHosts()
    for _ in range(20):
        dead.timed_out(b"192.0.2.1", 0.0)
    assert not dead.is_dead(b"192.0.2.1", FIRST_SECONDS)
    assert dead.lines(7.0) == ["192.0.2.1 timed out 7 seconds ago; # recent timeouts: 1"]


def test_a_host_that_answers_is_no_longer_dead() -> None:
    dead = DeadHosts()
    dead.timed_out(b"192.0.2.1", 0.0)
    dead.answered(b"192.0.2.1")
    assert not dead.is_dead(b"192.0.2.1", 1.0)


def test_the_table_of_dead_hosts_forgets_the_oldest() -> None:
    dead = DeadHosts()
    for number in range(MAX_HOSTS + 1):
        dead.timed_out(b"host %d" % number, float(number) / 1000)
    assert not dead.is_dead(b"host 0", 1.0)
    assert dead.is_dead(b"host 1", 1.0) and len(dead.lines(1.0)) == MAX_HOSTS
