"""remote and dial as processes: orders by frames, sessions with real mail hosts on loopback."""

from __future__ import annotations

import os
import queue
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.lmtp import LMTP

from qmaild.protocol import frames

from .name_server import NameServer, zone
from .processes import SECONDS, Client, Running
from .smtp_peer import CLOSE, SILENCE, Peer

CONTENT = b"Subject: hi\n\n.dot\nbody\n"
WIRE = b"Subject: hi\r\n\r\n..dot\r\nbody\r\n"


@contextmanager
def host(tmp_path: Path, routes: str, **settings: str) -> Iterator[tuple[Running, Client]]:
    with Running("dial", ["dial"], tmp_path, smtproutes=routes), Running("remote", ["remote"], tmp_path, **settings) as remote:
        client = remote.client("remote")
        yield remote, client
        client.close()


def order(
    tag: int = 1, lane: bytes = b"remote:@", recipients: int | list[bytes] = 1, content: bytes = CONTENT, flags: int = 0
) -> frames.Order:
    if isinstance(recipients, int):
        recipients = [b"r%d@b.test" % number for number in range(recipients)]
    return frames.Order(
        tag, 5, 0, flags, lane, b"s@a.test", list(range(len(recipients))), recipients, len(content), content, 0
    )  # fmt: skip


def report(client: Client) -> frames.Report:
    frame, _ = client.receive()
    assert isinstance(frame, frames.Report)
    lengths = {len(each) for each in frame[1:]}
    assert len(lengths) == 1
    return frame


def carried_out(client: Client, *args: int, **fields: object) -> frames.Report:
    client.send(order(*args, **fields))  # type: ignore[arg-type]
    return report(client)


def test_a_message_is_handed_over(tmp_path: Path) -> None:
    with Peer() as peer, host(tmp_path, f":[127.0.0.1]:{peer.port}") as (_, client):
        done = carried_out(client, 9, recipients=2)
        assert done == frames.Report(
            9, b"KK", [250] * 2, [b"2.0.0"] * 2,
            [b"127.0.0.1 accepted message. Remote host said: 250 2.0.0 taken"] * 2,
            [b"[127.0.0.1]:%d" % peer.port] * 2,
        )  # fmt: skip
        seen = peer.messages.get(timeout=SECONDS)
    assert seen.content == WIRE and seen.recipients == ["r0@b.test", "r1@b.test"]
    assert peer.lines[:2] == ["EHLO host.test", f"MAIL FROM:<s@a.test> SIZE={len(WIRE)}"]


def test_8_bit_content_is_declared(tmp_path: Path) -> None:
    with Peer() as peer, host(tmp_path, f":[127.0.0.1]:{peer.port}") as (_, client):
        assert carried_out(client, content=b"\n\xff\n").outcomes == b"K"
        assert peer.lines[1] == "MAIL FROM:<s@a.test> SIZE=5 BODY=8BITMIME"


def test_a_thousand_recipients_go_in_ten_transactions_of_one_connection(tmp_path: Path) -> None:
    with Peer() as peer, host(tmp_path, f":[127.0.0.1]:{peer.port}") as (_, client):
        assert carried_out(client, recipients=1000).outcomes == b"K" * 1000
        seen = [peer.messages.get(timeout=SECONDS) for _ in range(10)]
    assert [len(each.recipients) for each in seen] == [100] * 10
    assert [each for one in seen for each in one.recipients] == [f"r{number}@b.test" for number in range(1000)]
    assert peer.connections == 1 and "RSET" not in peer.lines


def test_a_connection_serves_the_next_order_of_its_lane_only(tmp_path: Path) -> None:
    with Peer() as peer, host(tmp_path, f"a:[127.0.0.1]:{peer.port}\nb:[127.0.0.1]:{peer.port}") as (_, client):
        for number, lane in enumerate([b"remote:@a", b"remote:@a", b"remote:@b", b"remote:@a"]):
            assert carried_out(client, number, lane=lane).outcomes == b"K"
        seen = [peer.messages.get(timeout=SECONDS).connection for _ in range(4)]
    assert seen == [1, 1, 2, 1]


def test_orders_of_one_lane_run_side_by_side(tmp_path: Path) -> None:
    with Peer() as peer, host(tmp_path, f":[127.0.0.1]:{peer.port}") as (_, client):
        for number in range(20):
            client.send(order(number))
        assert {report(client).tag for _ in range(20)} == set(range(20))


def test_a_connection_ends_after_a_hundred_messages(tmp_path: Path) -> None:
    with Peer() as peer, host(tmp_path, f":[127.0.0.1]:{peer.port}") as (_, client):
        for number in range(101):
            assert carried_out(client, number).outcomes == b"K"
        assert peer.ended.get(timeout=SECONDS) == 1
    assert peer.connections == 2


def test_an_idle_connection_ends_with_quit(tmp_path: Path) -> None:
    with Peer() as peer, host(tmp_path, f":[127.0.0.1]:{peer.port}") as (remote, client):
        assert carried_out(client).outcomes == b"K"
        remote.process.send_signal(signal.SIGTERM)
        assert peer.ended.get(timeout=SECONDS) == 1
        assert peer.lines[-1] == "QUIT"
        assert remote.process.wait(SECONDS) == 0


@pytest.mark.parametrize("reply", [CLOSE, "421 4.4.2 idle too long"])
def test_a_kept_connection_that_the_peer_has_left_costs_nothing(tmp_path: Path, reply: str) -> None:
    def replies(command: str, count: int) -> str | None:
        return reply if command.startswith("MAIL") and count == 1 else None

    with Peer(replies) as peer, host(tmp_path, f":[127.0.0.1]:{peer.port}") as (_, client):
        assert carried_out(client, 1).outcomes == b"K"
        assert carried_out(client, 2).outcomes == b"K"
        assert [peer.messages.get(timeout=SECONDS).connection for _ in range(2)] == [1, 2]


def test_a_peer_that_takes_one_message_a_connection_gets_a_connection_for_each(tmp_path: Path) -> None:
    def replies(command: str, count: int) -> str | None:
        return "421 enough" if command.startswith("MAIL") and count % 2 else None

    with Peer(replies) as peer, host(tmp_path, f":[127.0.0.1]:{peer.port}") as (_, client):
        assert carried_out(client, recipients=500).outcomes == b"K" * 500
        assert peer.connections == 5


def test_recipients_beyond_the_peers_limit_go_in_a_transaction_of_their_own(tmp_path: Path) -> None:
    since_mail = 0

    def replies(command: str, count: int) -> str | None:
        nonlocal since_mail
        since_mail = 0 if command.startswith("MAIL") else since_mail + command.startswith("RCPT")
        return "452 4.5.3 too many recipients" if since_mail > 30 and command.startswith("RCPT") else None

    with Peer(replies) as peer, host(tmp_path, f":[127.0.0.1]:{peer.port}") as (_, client):
        assert carried_out(client, recipients=80).outcomes == b"K" * 80
        seen = [len(peer.messages.get(timeout=SECONDS).recipients) for _ in range(3)]
    assert seen == [30, 30, 20]


def test_a_full_disk_is_no_limit_of_recipients(tmp_path: Path) -> None:
    def replies(command: str, count: int) -> str | None:
        return "452 4.3.1 no room" if command == "RCPT TO:<r1@b.test>" else None

    with Peer(replies) as peer, host(tmp_path, f":[127.0.0.1]:{peer.port}") as (_, client):
        done = carried_out(client, recipients=2)
    assert (done.outcomes, done.enhanced[1]) == (b"KZ", b"4.3.1")


@pytest.mark.parametrize(
    ("verb", "reply", "outcome", "code", "enhanced"),
    [
        ("GREETING", "554 no", b"Z", 554, b"4.0.0"),
        ("GREETING", CLOSE, b"Z", 0, b"4.4.2"),
        ("EHLO", "421 busy", b"Z", 421, b"4.0.0"),
        ("MAIL", "550 5.1.8 no", b"D", 550, b"5.1.8"),
        ("MAIL", CLOSE, b"Z", 0, b"4.4.2"),
        ("RCPT", "550 5.1.1 no", b"D", 550, b"5.1.1"),
        ("RCPT", "451 4.7.1 greylisted", b"Z", 451, b"4.7.1"),
        ("DATA", "554 5.7.1 no", b"D", 554, b"5.7.1"),
        (".", "552 5.3.4 no", b"D", 552, b"5.3.4"),
        (".", "nonsense", b"Z", 0, b"4.5.0"),
        (".", CLOSE, b"Z", 0, b"4.4.2"),
    ],
)
def test_what_a_peer_refuses(tmp_path: Path, verb: str, reply: str, outcome: bytes, code: int, enhanced: bytes) -> None:
    with Peer(lambda command, count: reply if command.startswith(verb) else None) as peer, \
         host(tmp_path, f":[127.0.0.1]:{peer.port}") as (_, client):  # fmt: skip
        done = carried_out(client)
        again = carried_out(client, 2)
    assert (done.outcomes, done.codes, done.enhanced) == (outcome, [code], [enhanced])
    assert (b"Possible duplicate" in done.texts[0]) == (verb == "." and reply == CLOSE)
    assert again.outcomes == outcome


@pytest.mark.parametrize("verb", ["GREETING", "MAIL", "."])
def test_a_silent_peer_is_left_after_timeoutremote(tmp_path: Path, verb: str) -> None:
    with Peer(lambda command, count: SILENCE if command.startswith(verb) else None) as peer, \
         host(tmp_path, f":[127.0.0.1]:{peer.port}", timeoutremote="1") as (_, client):  # fmt: skip
        done = carried_out(client)
    assert (done.outcomes, done.enhanced) == (b"Z", [b"4.4.2"])
    assert b"fell silent" in done.texts[0]


def test_a_host_that_refuses_to_talk_gives_way_to_another_address(tmp_path: Path) -> None:
    bad_socket, good_socket = socket.socket(), socket.socket()
    bad_socket.bind(("127.0.0.2", 0))
    good_socket.bind(("127.0.0.3", bad_socket.getsockname()[1]))
    with NameServer(zone({"two.test": ["A 127.0.0.2", "A 127.0.0.3"]})) as names, \
         Peer(lambda command, count: "450 later", bad_socket) as bad, Peer(sock=good_socket) as good:  # fmt: skip
        (tmp_path / "resolv.conf").write_text(names.line())
        with host(tmp_path, f":two.test:{bad.port}") as (_, client):
            for number in range(20):  # which address comes first is left to chance
                client.send(order(number))
            assert [report(client).outcomes for _ in range(20)] == [b"K"] * 20
        assert good.messages.qsize() == 20 and bad.messages.empty()


def test_a_large_message_comes_from_its_descriptor_unchanged(tmp_path: Path) -> None:
    body = b"".join(b".%d\n" % number * 3 + b"x" * (number % 200) + b"\n" for number in range(20_000))
    descriptor = os.memfd_create("body")
    os.write(descriptor, body)
    with Peer() as peer, host(tmp_path, f":[127.0.0.1]:{peer.port}") as (_, client):
        client.send(order(content=b"Received: x\n", recipients=150)._replace(descriptor=1), descriptor)
        assert report(client).outcomes == b"K" * 150
        seen = [peer.messages.get(timeout=SECONDS).content for _ in range(2)]
    os.close(descriptor)
    expected = b"Received: x\r\n" + re.sub(rb"(?m)^\.", b"..", body).replace(b"\n", b"\r\n")
    assert seen[0] == seen[1] == expected


def test_a_message_over_the_peers_size_is_refused_without_sending_it(tmp_path: Path) -> None:
    descriptor = os.memfd_create("body")
    os.truncate(descriptor, 6_000_000)
    with Peer() as peer, host(tmp_path, f":[127.0.0.1]:{peer.port}") as (_, client):
        client.send(order()._replace(descriptor=1), descriptor)
        done = report(client)
        assert (done.outcomes, done.enhanced) == (b"D", [b"5.3.4"])
        assert carried_out(client, 2).outcomes == b"K"
    os.close(descriptor)
    assert peer.connections == 1


def test_a_long_order_that_the_session_refuses_itself_ends(tmp_path: Path) -> None:
    descriptor = os.memfd_create("body")
    os.truncate(descriptor, 6_000_000)
    with Peer() as peer, host(tmp_path, f":[127.0.0.1]:{peer.port}") as (_, client):
        client.send(order(recipients=20_000)._replace(descriptor=1), descriptor)
        assert report(client).outcomes == b"D" * 20_000
    os.close(descriptor)


def test_a_report_of_many_long_replies_is_cut_to_fit_a_frame(tmp_path: Path) -> None:
    reply = "550-" + "x" * 4900 + "\r\n550 no"
    with Peer(lambda command, count: reply if command.startswith("RCPT") else None) as peer, \
         host(tmp_path, f":[127.0.0.1]:{peer.port}") as (_, client):  # fmt: skip
        done = carried_out(client, recipients=2000)
    assert done.outcomes == b"D" * 2000 and 2000 < len(done.texts[0]) < 4000


def test_a_body_that_cannot_be_read_is_temporary_and_sends_no_final_dot(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "body", os.O_RDWR | os.O_CREAT, 0o600)
    os.truncate(descriptor, 4_000_000)

    def replies(command: str, count: int) -> str | None:
        if command == "DATA":
            os.truncate(descriptor, 100)
        return None

    with Peer(replies) as peer, host(tmp_path, f":[127.0.0.1]:{peer.port}") as (_, client):
        client.send(order()._replace(descriptor=1), descriptor)
        done = report(client)
        assert (done.outcomes, done.enhanced) == (b"Z", [b"4.4.2"])
        assert peer.ended.get(timeout=SECONDS) == 1 and peer.messages.empty()
    os.close(descriptor)


def test_lmtp_answers_for_each_recipient(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "lmtp"))
        with Peer(lambda command, count: "452 4.2.2 full" if command == "." and count == 1 else None, listener) as peer, \
             host(tmp_path, f":lmtp:{tmp_path}/lmtp") as (_, client):  # fmt: skip
            done = carried_out(client, recipients=3)
            assert (done.outcomes, done.enhanced[1]) == (b"KZK", b"4.2.2")
            assert done.peers[0] == str(tmp_path).encode() + b"/lmtp"
            assert peer.lines[0] == "LHLO host.test"


def test_somebody_elses_lmtp_server_takes_a_message_over_tcp(tmp_path: Path) -> None:
    taken: queue.Queue[Any] = queue.Queue()

    class Handler:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            taken.put(envelope)
            return "250 2.0.0 taken"

    class Server(Controller):
        def factory(self) -> LMTP:
            return LMTP(self.handler)

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Server(Handler(), "127.0.0.1", port)
    server.start()
    try:
        with host(tmp_path, f":lmtp:127.0.0.1:{port}") as (_, client):
            done = carried_out(client)
    finally:
        server.stop()
    assert (done.outcomes, done.codes) == (b"K", [250])
    envelope = taken.get(timeout=10)
    assert (envelope.mail_from, envelope.rcpt_tos) == ("s@a.test", ["r0@b.test"])
    assert envelope.content == CONTENT.replace(b"\n", b"\r\n")


def test_dials_verdict_is_every_recipients_result(tmp_path: Path) -> None:
    with NameServer(zone({"null.test": ["MX 0 ."]})) as names:
        (tmp_path / "resolv.conf").write_text(names.line())
        with host(tmp_path, "") as (_, client):
            done = carried_out(client, recipients=2, lane=b"remote:null.test")
            assert (done.outcomes, done.enhanced, done.peers) == (b"DD", [b"5.1.10"] * 2, [b"", b""])


def test_without_dial_everything_is_temporary(tmp_path: Path) -> None:
    with Running("remote", ["remote"], tmp_path) as remote:
        assert carried_out(remote.client("remote")).outcomes == b"Z"


def test_no_more_sessions_are_opened_than_twice_the_concurrency(tmp_path: Path) -> None:
    with Peer(lambda command, count: SILENCE) as peer, \
         host(tmp_path, f":[127.0.0.1]:{peer.port}", concurrencyremote="2") as (_, client):  # fmt: skip
        for number in range(5):
            client.send(order(number))
        done = report(client)
        assert (done.tag, done.outcomes, done.enhanced) == (4, b"Z", [b"4.3.2"])


def test_idle_connections_make_room_for_another_lane(tmp_path: Path) -> None:
    routes = "\n".join(f"{lane}:[127.0.0.1]:%d" for lane in "abcde")
    with Peer() as peer, host(tmp_path, routes.replace("%d", str(peer.port)), concurrencyremote="1") as (_, client):
        for number, lane in enumerate([b"remote:@a", b"remote:@b", b"remote:@c", b"remote:@d"]):
            assert carried_out(client, number, lane=lane).outcomes == b"K"
        assert [peer.ended.get(timeout=SECONDS) for _ in range(2)] == [1, 2]


def test_an_order_whose_asker_is_gone_is_not_finished(tmp_path: Path) -> None:
    def replies(command: str, count: int) -> str | None:
        if command.startswith("MAIL") and count == 0:
            client.close()
            return SILENCE
        return None

    with Peer(replies) as peer, host(tmp_path, f":[127.0.0.1]:{peer.port}") as (remote, client):
        client.send(order())
        assert peer.ended.get(timeout=SECONDS) == 1 and peer.messages.empty()
        assert carried_out(remote.client("remote")).outcomes == b"K"


def test_anything_but_an_order_ends_the_connection(tmp_path: Path) -> None:
    with Running("remote", ["remote"], tmp_path) as remote:
        client = remote.client("remote")
        client.send(frames.Who(1, b"a"))
        assert client.is_closed_by_service()
