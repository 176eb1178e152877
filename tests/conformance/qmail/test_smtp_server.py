"""The SMTP server's dialogue: what it says to whom, and what becomes of addresses and of messages on their way in."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from qmaild.control import settings
from tests.unit.peers import Client

from .host import KEEPER, Host, Kept

FIELDS = b"Subject: x\r\n\r\n"


@pytest.fixture(autouse=True, scope="module")
def door(host: Host) -> Iterator[None]:
    with host.using(smtpgreeting="mail.test.example hello\n", localiphost="test.example\n"):
        yield


def say(host: Host, *lines: bytes, given: bytes = b"") -> list[bytes]:
    """What the door replies to each of these lines, and last to what is given behind them."""
    with Client(host.ports["smtp"]) as client:
        client.reply()
        said = [client.ask(line) for line in lines]
        if given:
            client.send(given)
            said.append(client.reply())
    return said


def codes(host: Host, *lines: bytes, given: bytes = b"") -> list[bytes]:
    return [each[:3] for each in say(host, *lines, given=given)]


def bring(host: Host, content: bytes, sender: bytes = b"<a@far.test>") -> bytes:
    """What is said to a message for keeper, whose content (with CR LF) is this."""
    return say(host, b"MAIL FROM:" + sender, b"RCPT TO:<%b>" % KEEPER, b"DATA", given=content + b".\r\n")[-1]


def kept(host: Host, content: bytes, sender: bytes = b"<a@far.test>") -> Kept:
    """What keeper gets when that is accepted."""
    assert bring(host, content, sender)[:3] == b"250"
    return host.kept()


def test_f144_the_greeting_is_smtpgreeting_and_ehlo_tells_of_pipelining_and_8bitmime(host: Host) -> None:
    with Client(host.ports["smtp"]) as client:
        assert client.reply() == b"220 mail.test.example hello ESMTP"
        client.send(b"EHLO client.test\r\nQUIT\r\n")
        said = re.findall(rb"(?m)^250[ -](\S+)", client.rest())
    # Differs: qmail tells of no more than these two.
    assert said == [b"test.example", b"PIPELINING", b"8BITMIME", b"SIZE", b"SMTPUTF8", b"ENHANCEDSTATUSCODES", b"HELP"]


def test_f145_mail_needs_no_helo(host: Host) -> None:
    assert codes(host, b"MAIL FROM:<a@far.test>", b"RCPT TO:<joe@test.example>") == [b"250", b"250"]


def test_f146_what_comes_out_of_order_is_refused(host: Host) -> None:
    assert codes(host, b"RCPT TO:<joe@test.example>", b"DATA") == [b"503", b"503"]
    assert codes(host, b"MAIL FROM:<a@far.test>", b"DATA") == [b"250", b"503"]
    assert codes(host, b"MAIL FROM:<a@far.test>", b"RCPT TO:<x@far.test>", b"DATA") == [b"250", b"553", b"503"]


def test_f147_each_message_needs_a_mail_of_its_own(host: Host) -> None:
    lines = (b"MAIL FROM:<a@far.test>", b"RCPT TO:<%b>" % KEEPER, b"DATA", FIELDS + b".")
    assert codes(host, *lines, b"DATA", b"RCPT TO:<%b>" % KEEPER, b"MAIL FROM:<>") == [
        b"250", b"250", b"354", b"250", b"503", b"503", b"250"]  # fmt: skip
    host.kept()


def test_f152_an_address_needs_no_brackets(host: Host) -> None:
    assert codes(host, b"MAIL FROM:a@far.test SIZE=9", b"RCPT TO:" + KEEPER, b"RCPT TO: " + KEEPER) == [b"250"] * 3
    # Differs: what stands behind it is a parameter, and one that nobody was told of is refused.
    assert codes(host, b"MAIL FROM:a@far.test", b"RCPT TO:%b bar" % KEEPER) == [b"250", b"555"]


def test_f153_a_route_is_dropped_and_a_backslash_takes_the_next_byte_as_it_is(host: Host) -> None:
    assert kept(host, FIELDS, rb"<@a,@b:s\@x@y.z> SIZE=3").sender == b'"s@x"@y.z'
    # Differs: a parameter that nobody was told of is refused.
    assert codes(host, b"MAIL FROM:<a@y.z> SIZE=3 X=1") == [b"555"]


def test_f154_an_address_is_stored_without_its_quotes(host: Host) -> None:
    assert codes(host, b"MAIL FROM:<>", b'RCPT TO:<"a b"@test.example>', b"DATA", given=FIELDS + b".\r\n")[-1] == b"250"
    assert host.arrival().address == "a b@test.example"


def test_f155_an_address_has_its_bracket_and_no_more_bytes_than_the_queue_takes(host: Host) -> None:
    # Differs in all of it: qmail takes the first, and answers the second from 900 bytes on, with 555.
    assert codes(host, b"MAIL FROM:<>", b"RCPT TO:<" + KEEPER) == [b"250", b"501"]
    for length, code in ((1000, b"250"), (1001, b"501")):
        path = b"<%b@far.test>" % (b"l" * (length - len("@far.test")))
        assert codes(host, b"MAIL FROM:" + path) == [code]


def test_f157_our_own_address_in_brackets_is_localiphost(host: Host) -> None:
    lines = (b"MAIL FROM:<>", b"RCPT TO:<j@[127.0.0.1]>", b"DATA")
    assert codes(host, *lines, given=FIELDS + b".\r\n")[-1] == b"250"
    assert host.arrival().address == "j@test.example"
    assert codes(host, b"MAIL FROM:<>", b"RCPT TO:<j@[192.0.2.1]>") == [b"250", b"553"]


def test_f158_a_line_feed_alone_ends_no_command(host: Host) -> None:
    # Differs: to qmail it does.
    assert codes(host, given=b"NOOP\n") == [b"500"]


@pytest.mark.parametrize("content", [b"a\nb\r\n", b"a\r\n.\nb\r\n", b"a\n.\r\n"])
def test_f159_a_line_feed_alone_in_a_message_makes_it_unacceptable(host: Host, content: bytes) -> None:
    # Differs: qmail says 451 at once, and hangs up.
    assert bring(host, FIELDS + content)[:9] == b"550 5.5.2"


@pytest.mark.parametrize("content", [b"a\rb\r\n", b"c\r\r\n"])
def test_f160_a_carriage_return_alone_in_a_message_makes_it_unacceptable(host: Host, content: bytes) -> None:
    # Differs: qmail keeps it.
    assert bring(host, FIELDS + content)[:9] == b"550 5.5.2"


def test_f161_the_first_of_the_dots_at_the_beginning_of_a_line_goes(host: Host) -> None:
    assert kept(host, FIELDS + b"..dot\r\n.x\r\na.\r\n").content == b"Subject: x\n\n.dot\nx\na.\n"


def test_f162_a_message_with_a_hundred_hops_is_looping(host: Host) -> None:
    hops = b"Received: x\r\nreceivedx: x\r\nDELIVERED-To: x\r\n" * 33
    assert kept(host, hops + b"\r\nReceived: x\r\n").content.count(b"\n") == 101
    assert bring(host, hops + b"Received-SPF: x\r\n" + FIELDS)[:9] == b"554 5.4.6"


def test_f163_databytes_is_the_size_as_stored_and_told_at_the_end(host: Host) -> None:
    with host.using(databytes="10\n"):
        assert kept(host, b"a\r\n..\r\n\r\n1234\r\n").content == b"a\n.\n\n1234\n"
        lines = (b"MAIL FROM:<>", b"RCPT TO:<%b>" % KEEPER, b"DATA")
        assert codes(host, *lines, given=b"a\r\n..\r\n\r\n12345\r\n.\r\n") == [b"250", b"250", b"354", b"552"]


def test_f164_success_tells_the_time_and_the_number(host: Host) -> None:
    before = int(time.time())
    # Differs: an enhanced status code stands in front, and the number is the message's, not a process's.
    found = re.fullmatch(rb"250 2\.0\.0 ok (\d+) qp (\d+)", bring(host, FIELDS))
    assert found and before <= int(found[1]) <= time.time() and int(found[2]) > 0
    host.kept()


@pytest.mark.parametrize(("helo", "shown"), [
    (b"", b"unknown"), (b"client.test", b"unknown (HELO client.test)"), (b"UnKnown", b"unknown"),
    (b"a b(c)\xff_", b"unknown (HELO a?b?c???)"), (b"[192.0.2.1]", b"unknown (HELO [192.0.2.1])"),
])  # fmt: skip
def test_f165_received_names_the_client_and_once_more_as_it_calls_itself_if_that_is_another_name(
    host: Host, helo: bytes, shown: bytes
) -> None:
    hello = [b"HELO " + helo] if helo else []
    lines = (*hello, b"MAIL FROM:<>", b"RCPT TO:<%b>" % KEEPER, b"DATA")
    assert codes(host, *lines, given=FIELDS + b".\r\n")[-1] == b"250"
    date = rb"\d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d -0000"
    expected = rb"Received: from %b \(127\.0\.0\.1\)\n  by test\.example with SMTP; %b\n" % (re.escape(shown), date)
    assert re.fullmatch(expected, host.kept().received)


def test_f166_the_other_verbs(host: Host) -> None:
    said = codes(host, b"VRFY joe", b"EXPN joe", b"AUTH PLAIN", b"NOOP", b"noop x", b"HELP", b"RSET")
    assert said == [b"252", b"502", b"502", b"250", b"250", b"214", b"250"]


def test_f167_a_client_that_leaves_without_quit_leaves_what_was_acknowledged(host: Host) -> None:
    for content in (b"", b"one\r\n", b"two\r\n.\r\n"):
        with Client(host.ports["smtp"]) as client:
            for line in (b"MAIL FROM:<>", b"RCPT TO:<%b>" % KEEPER, b"DATA"):
                client.ask(line)
            client.send(FIELDS + content)
            client.finish_sending()
            client.rest()
    assert host.kept().content == b"Subject: x\n\ntwo\n"


def test_f168_a_silent_client_is_told_so_and_left(host: Host) -> None:
    with host.using(timeoutsmtpd="1\n"), Client(host.ports["smtp"]) as client:
        client.reply()
        # Differs: 451 in qmail.
        assert client.rest() == b"421 4.4.2 timeout\r\n"


def test_f169_without_me_the_host_has_its_own_name(host: Host) -> None:
    # Differs: qmail says 421 to everybody.
    found, problems = settings.parse({}, b"name.of.machine")
    assert (found.smtpgreeting, problems) == (b"name.of.machine", [])
