"""The SMTP client: what it makes of a peer's replies, of names in the DNS, and of a message on its way out."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator

import pytest

from qmaild.policy.deadhosts import DeadHosts
from qmaild.protocol import frames
from tests.unit.name_server import NameServer, reply, zone
from tests.unit.processes import SECONDS, Client, Running
from tests.unit.smtp_peer import CLOSE, Peer, Seen

from .host import Host

CONTENT = b"Subject: hi\n\nbody\n"
TRIES = 20  # which of two addresses comes first is left to chance
RECORDS = {
    "implicit.test": ["A 127.0.0.1"],
    "self.test": ["MX 10 self.test.", "A 127.0.0.1"],
    "empty.test": ["TXT x"],
    "sub.by-mx.test": ["MX 10 self.test."],
    "two.test": ["A 127.0.0.2", "A 127.0.0.3"],
}


class Out:
    """remote and dial, and a peer that replies as it is told. Every order has a lane, and so a connection, of its own."""

    def __init__(self, remote: Client, peer: Peer, told: dict[str, str], unwilling: Peer) -> None:
        self._remote = remote
        self._told = told
        self._numbers = itertools.count(1)
        self.peer = peer
        self.unwilling = unwilling  # a host of two.test whose greeting is 450

    def send(
        self, *recipients: bytes, lane: bytes = b"", sender: bytes = b"s@a.test", content: bytes = CONTENT,
        told: dict[str, str] | None = None,
    ) -> frames.Report:  # fmt: skip
        """Hand this over, or try to, to a peer that replies so to commands that begin so; return what comes of it."""
        self._told.clear()
        self._told.update(told or {})
        self.peer.lines.clear()
        while not self.peer.messages.empty():
            self.peer.messages.get()
        number = next(self._numbers)
        lane = b"remote:" + (lane or b"@%d" % number)
        named = list(recipients) or [b"r@b.test"]
        self._remote.send(frames.Order(
            number, 5, 0, 0, lane, sender, list(range(len(named))), named, len(content), content, 0))  # fmt: skip
        report, _ = self._remote.receive()
        assert isinstance(report, frames.Report)
        return report

    def seen(self) -> Seen:
        """What the peer has taken."""
        return self.peer.messages.get(timeout=SECONDS)


def answers() -> NameServer:
    known = zone(RECORDS)
    return NameServer(lambda query, over: [reply(query, rcode="SERVFAIL")] if b"trouble" in query.to_wire()
                      else known(query, over))  # fmt: skip


@pytest.fixture(scope="module")
def out(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Out]:
    top = tmp_path_factory.mktemp("o")
    first, second, free = (socket.socket() for _ in range(3))
    first.bind(("127.0.0.2", 0))
    second.bind(("127.0.0.3", first.getsockname()[1]))
    free.bind(("127.0.0.1", 0))  # and nobody listens
    told: dict[str, str] = {}

    def replies(command: str, count: int) -> str | None:
        return next((said for begin, said in told.items() if command.startswith(begin)), None)

    with (free, answers() as names, Peer(replies) as peer, Peer(lambda command, count: "450 later", first) as unwilling,
          Peer(sock=second)):  # fmt: skip
        routes = [f"{number}:[127.0.0.1]:{peer.port}" for number in range(1, 100)]
        routes += [f"two{number}:two.test:{first.getsockname()[1]}" for number in range(TRIES)]
        routes += [f"refused:127.0.0.1:{free.getsockname()[1]}"]
        (top / "resolv.conf").write_text(names.line())
        (host.top / "resolv.conf").write_text(names.line())
        with Running("dial", ["dial"], top, smtproutes="\n".join(routes)), Running("remote", ["remote"], top) as remote:
            client = remote.client("remote")
            yield Out(client, peer, told, unwilling)
            client.close()


def test_f170_success_tells_the_address_and_the_last_reply(out: Out) -> None:
    done = out.send(told={".": "250-taken\r\n250 as 7"})
    assert (done.outcomes, done.codes) == (b"K", [250])
    assert done.texts == [b"127.0.0.1 accepted message. Remote host said: 250-taken\n250 as 7"]


@pytest.mark.parametrize(("told", "outcome"), [
    ({"GREETING": "554 no"}, b"Z"), ({"EHLO": "550 no", "HELO": "550 no"}, b"Z"), ({"MAIL": "451 no"}, b"Z"),
    ({"MAIL": "550 no"}, b"D"),
])  # fmt: skip
def test_f171_who_does_not_talk_to_us_may_later_and_who_refuses_the_sender_has_decided(
    out: Out, told: dict[str, str], outcome: bytes
) -> None:
    assert out.send(told=told).outcomes == outcome


def test_f172_a_recipient_that_is_refused_for_now_is_deferred(out: Out) -> None:
    done = out.send(told={"RCPT": "450 busy", "DATA": "503 for nobody"})
    assert (done.outcomes, done.codes) == (b"Z", [450])
    assert out.peer.messages.empty()


def test_f173_a_recipient_that_is_refused_for_good_has_all_lines_of_the_reply(out: Out) -> None:
    done = out.send(told={"RCPT": "550-no\r\n550-not\r\n550 him"})
    assert (done.outcomes, done.texts) == (
        b"D", [b"127.0.0.1 does not like recipient. Remote host said: 550-no\n550-not\n550 him"])  # fmt: skip


def test_f174_each_recipient_has_its_own_outcome_in_their_order(out: Out) -> None:
    assert out.send(b"a@b.test", b"c@b.test").outcomes == b"KK"
    assert out.seen().recipients == ["a@b.test", "c@b.test"]
    assert out.send(b"a@b.test", b"c@b.test", b"e@b.test", told={"RCPT TO:<c@": "550 no"}).outcomes == b"KDK"
    assert out.seen().recipients == ["a@b.test", "e@b.test"]


@pytest.mark.parametrize(("said", "outcome"), [("552 too much", b"D"), ("451 full", b"Z")])
def test_f175_what_is_said_to_the_message_counts_for_all(out: Out, said: str, outcome: bytes) -> None:
    assert out.send(b"a@b.test", b"c@b.test", told={".": said}).outcomes == outcome * 2


@pytest.mark.parametrize(("verb", "is_doubtful"), [("MAIL", False), (".", True)])
def test_f176_a_connection_that_ends_defers_and_after_the_message_tells_of_a_duplicate(
    out: Out, verb: str, is_doubtful: bool
) -> None:
    done = out.send(told={verb: CLOSE})
    assert (done.outcomes, done.enhanced) == (b"Z", [b"4.4.2"])
    assert done.texts[0].endswith(b"Possible duplicate!") == is_doubtful


def test_f177_a_message_without_a_final_line_end_gets_one(out: Out) -> None:
    # Differs: qmail-remote refuses it for good, 5.6.2.
    assert out.send(content=b"Subject: x\n\nend").outcomes == b"K"
    assert out.seen().content == b"Subject: x\r\n\r\nend\r\n"


def test_f178_dots_are_doubled_and_every_line_ends_with_cr_lf(out: Out) -> None:
    assert out.send(content=b".a\nb\r\nc\rd\n..\n").outcomes == b"K"
    assert out.seen().content == b"..a\r\nb\r\nc\r\nd\r\n...\r\n"


def test_f179_a_local_part_that_needs_quotes_gets_them(out: Out) -> None:
    assert out.send(b"r r@b.test", sender=b"s s@x.y").outcomes == b"K"
    seen = out.seen()
    assert seen.sender.startswith('MAIL FROM:<"s s"@x.y>') and seen.recipients == ['"r r"@b.test']


def test_f180_a_peer_without_ehlo_hears_helo(out: Out) -> None:
    # Differs: qmail-remote never says EHLO.
    assert out.send(told={"EHLO": "502 what"}).outcomes == b"K"
    assert out.peer.lines[:3] == ["EHLO host.test", "HELO host.test", "MAIL FROM:<s@a.test>"]


@pytest.mark.parametrize("lane", [b"[127.0.0.1]", b"127.0.0.1", b"0.0.0.0", b"self.test"])
def test_f182_what_would_come_back_to_us_is_refused_for_good(out: Out, lane: bytes) -> None:
    done = out.send(lane=lane)
    assert (done.outcomes, done.enhanced) == (b"D", [b"5.4.6"])


def test_f183_a_route_for_all_takes_everything_where_it_leads_even_here(host: Host) -> None:
    assert host.settings["smtproutes"].strip() == f":[127.0.0.1]:{host.peer.port}"
    for address in ("a@elsewhere.example", "a@[127.0.0.1]", "a@self.test"):
        assert host.whose(address.encode()) == ("", "", address)


def test_f184_an_empty_route_means_mx_and_the_longest_suffix_wins(host: Host, out: Out) -> None:
    with host.using(smtproutes=f".by-mx.test:\n:[127.0.0.1]:{host.peer.port}\n"):
        assert host.whose(b"a@by-mx.test") == ("", "", "a@by-mx.test")
        host.queue(b"a@sub.by-mx.test")
        bounce = host.peer.messages.get(timeout=SECONDS)
    assert bounce.recipients == ["sender@far.test"] and b"5.4.6" in bounce.content


def test_f185_a_host_that_takes_no_connection_is_tried_later_and_left_alone_once_it_was_silent(out: Out) -> None:
    done = out.send(lane=b"@refused")
    assert (done.outcomes, done.enhanced) == (b"Z", [b"4.4.1"])
    # Differs: qmail needs two timeouts, and then leaves the address alone for about an hour.
    dead = DeadHosts()
    dead.timed_out(b"192.0.2.1", 0.0)
    assert dead.is_dead(b"192.0.2.1", 119.0) and not dead.is_dead(b"192.0.2.1", 121.0)
    dead.timed_out(b"192.0.2.1", 121.0)
    assert dead.is_dead(b"192.0.2.1", 121.0 + 239.0) and not dead.is_dead(b"192.0.2.1", 121.0 + 241.0)


def test_f186_a_host_that_refuses_to_talk_is_not_the_last_that_is_tried(out: Out) -> None:
    # Differs: qmail-remote tries no other once one has taken the connection.
    assert [out.send(lane=b"@two%d" % number).outcomes for number in range(TRIES)] == [b"K"] * TRIES
    assert out.unwilling.connections


@pytest.mark.parametrize(("domain", "outcome", "enhanced"), [
    (b"missing.test", b"D", b"5.1.2"), (b"trouble.test", b"Z", b"4.1.2"), (b"empty.test", b"D", b"5.4.4"),
    (b"implicit.test", b"D", b"5.4.6"),  # its only address is ours, so that is what was looked at
])  # fmt: skip
def test_f187_what_the_dns_says_of_a_domain(out: Out, domain: bytes, outcome: bytes, enhanced: bytes) -> None:
    done = out.send(lane=domain)
    assert (done.outcomes, done.enhanced) == (outcome, [enhanced])
