"""The decisions of the SMTP and QMQP doors, and how clients' addresses are read."""

from __future__ import annotations

import pytest

from qmaild.control.settings import Settings, parse
from qmaild.policy import clients
from qmaild.policy import smtp as policy
from qmaild.protocol import frames
from qmaild.protocol.smtp import replies
from qmaild.protocol.smtp.replies import Reply


def configured(**files: bytes) -> Settings:
    settings, problems = parse({"me": b"host.test\n", **files}, b"unused.test")
    assert not problems
    return settings


@pytest.mark.parametrize(("address", "normal"), [
    ("192.0.2.1", b"192.0.2.1"), ("::ffff:192.0.2.1", b"192.0.2.1"), ("2001:DB8:0::1", b"2001:db8::1"),
    ("fe80::1%eth0", b"fe80::1"), ("somewhere", b"somewhere"),
])  # fmt: skip
def test_a_client_has_one_spelling(address: str, normal: bytes) -> None:
    assert clients.normal(address) == normal


def test_clients_are_among_their_networks() -> None:
    networks = configured(relayclients=b"192.0.2.0/24\n2001:db8::/32\n").relayclients
    assert clients.is_among(b"192.0.2.255", networks)
    assert clients.is_among(b"2001:db8::9", networks)
    assert not clients.is_among(b"192.0.3.0", networks)
    assert not clients.is_among(b"2001:db9::", networks)
    assert not clients.is_among(b"", networks)
    assert not clients.is_among(b"192.0.2.1", ())


# Without rcpthosts, locals and virtualdomains are open; what only a relay client may do is refused to strangers.
HOUSE = {
    "locals": b"host.test\n", "virtualdomains": b"virtual.test:alice\none@single.test:alice\n", "percenthack": b"host.test\n",
}  # fmt: skip
LOCAL, FINE, REFUSED = "asked", replies.RECIPIENT_OK, policy.NO_RELAY


@pytest.mark.parametrize(("address", "stranger", "relay"), [
    (b"bob@host.test", LOCAL, LOCAL),
    (b"bob@HOST.TEST", LOCAL, LOCAL),
    (b"postmaster", LOCAL, LOCAL),
    (b"x@virtual.test", LOCAL, LOCAL),
    (b"one@single.test", REFUSED, LOCAL),
    (b"two@single.test", REFUSED, FINE),
    (b"x@elsewhere.test", REFUSED, FINE),
    (b"x%elsewhere.test@host.test", REFUSED, FINE),
    (b"x%host.test@host.test", LOCAL, LOCAL),
    (b"x%virtual.test@host.test", LOCAL, LOCAL),
    (b"x@[192.0.2.1]", REFUSED, FINE),
    (b"a@host.test@elsewhere.test", REFUSED, FINE),
])  # fmt: skip
def test_who_may_send_where(address: bytes, stranger: object, relay: object) -> None:
    settings = configured(**HOUSE)
    for may_relay, expected in ((False, stranger), (True, relay)):
        verdict = policy.recipient(settings, may_relay, b"a@b.test", address, 0)
        assert (LOCAL if isinstance(verdict, policy.Question) else verdict) == expected


def test_rcpthosts_opens_what_is_not_local_too() -> None:
    settings = configured(locals=b"host.test\n", rcpthosts=b"second.test\n")
    assert policy.recipient(settings, False, b"", b"x@second.test", 0) == replies.RECIPIENT_OK
    assert policy.recipient(settings, False, b"", b"x@host.test", 0) == policy.NO_RELAY


def test_the_question_is_about_the_rewritten_address() -> None:
    verdict = policy.recipient(configured(**HOUSE), False, b"", b"x@virtual.test", 0)
    assert verdict == policy.Question(b"alice-x@virtual.test")


@pytest.mark.parametrize(("address", "own", "found"), [
    (b"a@[192.0.2.1]", b"192.0.2.1", b"a@host.test"), (b"a@[192.0.2.2]", b"192.0.2.1", b"a@[192.0.2.2]"),
    (b"a@[IPv6:2001:db8::1]", b"2001:db8::1", b"a@host.test"), (b"a@b.test", b"192.0.2.1", b"a@b.test"),
])  # fmt: skip
def test_our_address_in_brackets(address: bytes, own: bytes, found: bytes) -> None:
    assert policy.own_literal(configured(), address, own) == found


@pytest.mark.parametrize(("answer", "expected"), [
    (frames.Is(1, b"K", b""), replies.RECIPIENT_OK), (frames.Is(1, b"D", b""), policy.NO_SUCH_USER),
    (frames.Is(1, b"Z", b""), policy.CANNOT_LOOK_UP), (frames.Is(1, b"?", b""), policy.CANNOT_LOOK_UP),
    (None, policy.CANNOT_LOOK_UP),
])  # fmt: skip
def test_a_lookup_has_three_outcomes_and_unknown_is_temporary(answer: frames.Is | None, expected: Reply) -> None:
    assert policy.looked_up(answer) == expected


@pytest.mark.parametrize(("answer", "start"), [
    (frames.Accepted(1, 77), b"250 2.0.0 ok 5 qp 77"), (None, b"451 4.3.0"),
    (frames.Refused(1, b"Z", b"4.3.1", b"full"), b"452 4.3.1 full"),
    (frames.Refused(1, b"Z", b"4.3.0", b"a\r\nb"), b"451 4.3.0 a  b"),
    (frames.Refused(1, b"?", b"4.3.0", b"x"), b"451 4.3.0 x"),
    (frames.Refused(1, b"D", b"5.3.4", b"x"), b"552 5.3.4 x"), (frames.Refused(1, b"D", b"5.1.3", b"x"), b"554 5.1.3 x"),
])  # fmt: skip
def test_what_the_queue_said_becomes_a_reply(answer: frames.Accepted | frames.Refused | None, start: bytes) -> None:
    assert policy.stored(answer, 5).encode().startswith(start)
