"""Two hosts, one of each release, and a DNS server: they mail each other, and wait for each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .hosts import Host, host
from .machines import Network


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Host, Host]]:
    with Network() as network, host("a", "trixie", network) as a, host("b", "bookworm", network) as b:
        records = {
            f"{each.name}.test": {"MX": [f"10 {each.name}.test."], "A": [each.place.ipv4], "AAAA": [each.place.ipv6]}
            for each in (a, b)
        }
        records["null.test"] = {"MX": ["0 ."]}
        records["loop.test"] = {"MX": ["10 a.test."]}
        network.dns(records)
        for each in (a, b):
            each.run(["qmailctl", "listen", "public"])
        yield a, b


def test_they_mail_each_other_both_ways(pair: tuple[Host, Host]) -> None:
    for one, other in (pair, pair[::-1]):
        one.run(f"echo hi | mail -s from-{one.name} sue@{other.name}.test", user="joe")
        message = other.wait_for_mail("sue", f"Subject: from-{one.name}")
        assert f"Return-Path: <joe@{one.name}.test>" in message
        assert message.count("\nReceived: ") >= 2


def test_a_stranger_cannot_relay(pair: tuple[Host, Host]) -> None:
    a, b = pair
    recipients = "RCPT TO:<x@elsewhere.test>", "RCPT TO:<sue@b.test>"
    replies = a.smtp("EHLO a.test", "MAIL FROM:<joe@a.test>", *recipients, host=b.place.ipv4)
    assert [reply[:3] for reply in replies] == ["220", "250", "250", "550", "250"] or replies[3].startswith("553")


def test_a_message_refused_by_the_other_host_bounces(pair: tuple[Host, Host]) -> None:
    a, _ = pair
    a.run("echo hi | mail -s no-such nobody-here@b.test", user="joe")
    bounce = a.wait_for_mail("joe", "nobody-here@b.test>:")
    assert "5.1.1" in bounce and "Diagnostic-Code: smtp; 550" in bounce


@pytest.mark.parametrize(("domain", "status"), [("null.test", "5.1.10"), ("loop.test", "5.4.6"), ("missing.test", "5.1.2")])
def test_a_domain_that_cannot_take_mail_bounces_at_once(pair: tuple[Host, Host], domain: str, status: str) -> None:
    a, _ = pair
    a.run(f"echo hi | mail -s hopeless x@{domain}", user="ann")
    assert f"Status: {status}" in a.wait_for_mail("ann", f"<x@{domain}>:")


def test_mail_for_a_host_that_is_down_goes_out_when_it_comes_up(pair: tuple[Host, Host]) -> None:
    a, b = pair
    b.run(["systemctl", "stop", "qmaild-smtpd.socket", "qmaild-smtpd.service"])
    a.run("echo hi | mail -s delayed sue@b.test", user="joe")
    a.wait_for_record("QMAILD_EVENT=delivery", "QMAILD_OUTCOME=temporary", "QMAILD_RECIPIENT=sue@b.test")
    (waiting,) = a.wait_for(
        lambda: [entry for entry in a.queue() if _first(entry) == ("sue@b.test", "waiting")], what="the deferral")
    assert waiting["recipients"][0]["lane"] == "remote:b.test"
    b.run(["systemctl", "start", "qmaild-smtpd.socket"])
    a.run(["qmailctl", "queue", "retry", str(waiting["number"])])
    assert b.wait_for_mail("sue", "Subject: delayed")


def _first(entry: dict[str, Any]) -> tuple[str, str]:
    """The address of a message's first recipient, and its state."""
    return entry["recipients"][0]["address"], entry["recipients"][0]["state"]


def test_a_route_is_used_in_place_of_dns_and_ipv6_works(pair: tuple[Host, Host]) -> None:
    a, b = pair
    b.control(locals="b.test\nlocalhost\nroute.test\n")
    b.run(["qmailctl", "reload"])
    a.control(smtproutes=f"route.test:[{b.place.ipv6}]:25\n")
    a.run(["qmailctl", "reload"])
    a.run("echo hi | mail -s by-route sue@route.test", user="joe")
    assert "Subject: by-route" in b.wait_for_mail("sue", "Subject: by-route")
    record = a.wait_for_record("QMAILD_EVENT=delivery", "QMAILD_RECIPIENT=sue@route.test", "QMAILD_OUTCOME=success")
    assert b.place.ipv6 in record["QMAILD_PEER"]


def test_the_parsers_of_hostile_bytes_have_no_network_of_their_own(pair: tuple[Host, Host]) -> None:
    a, b = pair
    a.run("echo hi | mail -s connected sue@b.test", user="joe")
    b.wait_for_mail("sue", "Subject: connected")
    for machine, service in ((a, "remote"), (b, "smtpd")):
        pid = machine.main_pid(service)
        assert pid > 0
        interfaces = machine.run(f"nsenter -t {pid} -n ip -o link | wc -l").stdout.strip()
        assert interfaces == "1"  # lo, and that one is another namespace's
        assert machine.run(f"readlink /proc/{pid}/ns/net").stdout != machine.run("readlink /proc/1/ns/net").stdout
