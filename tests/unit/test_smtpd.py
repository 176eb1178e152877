"""The SMTP door as a process: real clients on the network, and an intake and a lookup behind it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qmaild.control import cdb
from qmaild.protocol import frames

from .peers import Client, Peer, accepting, knowing
from .processes import SECONDS, Running

GREETING = b"220 host.test ESMTP"


class House:
    """smtpd with its intake and lookup."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self._directory = directory
        self._settings = settings
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> House:
        self.intake = self._stack.enter_context(Peer(self._directory, "intake", accepting))
        self.lookup = self._stack.enter_context(Peer(self._directory, "lookup", knowing))
        running = Running("smtpd", ["smtp", "control"], self._directory, **self._settings)
        self.smtpd = self._stack.enter_context(running)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def client(self, source: str = "127.0.0.1") -> Client:
        client = Client(self.smtpd.ports["smtp"], source)
        self._stack.callback(client.close)
        return client

    def greeted(self, source: str = "127.0.0.1") -> Client:
        client = self.client(source)
        assert client.reply() == GREETING
        return client

    def records(self, name: str, count: int = 1) -> list[dict[str, str]]:
        """The journal's records of this event, once there are so many."""
        deadline = time.monotonic() + SECONDS
        while True:
            lines = (self._directory / "journal").read_text().splitlines()
            found = [each for each in map(json.loads, lines) if each.get("QMAILD_EVENT") == name]
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline, f"{len(found)} records of {name}, not {count}"
            time.sleep(0.01)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QMAILD_STANDALONE", str(tmp_path))
    return tmp_path


@pytest.fixture
def house(place: Path) -> Iterator[House]:
    with House(place, relayclients="127.0.0.1", databytes="2000000") as made:
        yield made


def test_a_message_is_handed_to_intake_before_it_is_accepted(house: House) -> None:
    client = house.greeted()
    assert client.ask(b"EHLO client.test") == b"250 HELP"
    said = client.message(b"Subject: x\r\n\r\n..text\r\n", b"<alice@b.test> BODY=8BITMIME", b"<bob@host.test>", b"<c@d.test>")
    message = house.intake.next()
    assert isinstance(message, frames.Message)
    assert (message.sender, message.recipients) == (b"alice@b.test", [b"bob@host.test", b"c@d.test"])
    assert message.flags == frames.FLAG_8BIT
    assert message.origin == b"esmtp 127.0.0.1"
    received, by, text = message.content.split(b"\n", 2)
    assert received == b"Received: from unknown (HELO client.test) (127.0.0.1)"
    assert by.startswith(b"  by host.test with ESMTP; ")
    assert text == b"Subject: x\n\n.text\n"
    assert said.startswith(b"250 2.0.0 ok ") and said.endswith(b" qp %d" % (1000 + message.tag))
    record, = house.records("accepted")
    assert record["QMAILD_MESSAGE"] == str(1000 + message.tag)
    assert (record["QMAILD_SENDER"], record["QMAILD_RECIPIENTS"], record["QMAILD_BYTES"]) == ("alice@b.test", "2", "18")
    assert (record["QMAILD_PEER"], record["QMAILD_HELO"], record["QMAILD_PROTOCOL"]) == ("127.0.0.1", "client.test", "esmtp")


def test_nothing_is_said_before_intake_has_answered(house: House) -> None:
    house.intake.answer = lambda frame: None
    client = house.greeted()
    client.send(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nx\r\n.\r\nNOOP\r\n")
    message = house.intake.next()
    client._sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        client._sock.recv(1)
    client._sock.settimeout(SECONDS)
    house.intake.say(frames.Accepted(message.tag, 7))
    said = [client.reply() for _ in range(5)]
    assert [line[:3] for line in said] == [b"250", b"250", b"354", b"250", b"250"]
    assert said[3].endswith(b" qp 7")


@pytest.mark.parametrize(("answer", "code"), [
    ((frames.TEMPORARY, b"4.3.1", b"insufficient system storage"), b"452 4.3.1"),
    ((frames.TEMPORARY, b"4.3.0", b"trouble"), b"451 4.3.0"),
    ((frames.PERMANENT, b"5.3.4", b"too large"), b"552 5.3.4"),
    ((frames.PERMANENT, b"5.1.3", b"bad\r\n250 address"), b"554 5.1.3 bad  250 address"),
])  # fmt: skip
def test_what_intake_refuses_is_refused(house: House, answer: tuple[bytes, bytes, bytes], code: bytes) -> None:
    house.intake.answer = lambda frame: frames.Refused(frame.tag, *answer)
    client = house.greeted()
    assert client.message(b"x\r\n").startswith(code)
    assert client.ask(b"NOOP")[:3] == b"250"
    refused, = house.records("refused")
    assert refused["QMAILD_COMMAND"] == "DATA"


def test_a_lost_queue_is_temporary_and_the_next_message_finds_it_again(house: House) -> None:
    house.intake.answer = lambda frame: house.intake.hang_up()
    client = house.greeted()
    assert client.message(b"x\r\n").startswith(b"451 4.3.0")
    house.intake.answer = accepting
    assert client.message(b"x\r\n").startswith(b"250 2.0.0")


def test_no_queue_at_all_is_temporary(place: Path) -> None:
    with Running("smtpd", ["smtp"], place) as smtpd, Client(smtpd.ports["smtp"]) as client:
        client.reply()
        assert client.message(b"x\r\n", b"<>", b"<c@d.test>").startswith(b"451 4.3.0")


def test_recipients_are_looked_up_after_rewriting_and_remembered(place: Path) -> None:
    with House(place, virtualdomains="virtual.test:alice") as house:
        client = house.greeted()
        client.ask(b"MAIL FROM:<>")
        assert client.ask(b"RCPT TO:<bob@HOST.test>")[:9] == b"250 2.1.5"
        assert house.lookup.next().address == b"bob@HOST.test"
        assert client.ask(b"RCPT TO:<info@virtual.test>")[:9] == b"250 2.1.5"
        assert house.lookup.next().address == b"alice-info@virtual.test"
        assert client.ask(b"RCPT TO:<nobody@host.test>")[:9] == b"550 5.1.1"
        assert client.ask(b"RCPT TO:<trouble@host.test>")[:9] == b"451 4.3.0"
        assert client.ask(b"RCPT TO:<postmaster>")[:9] == b"250 2.1.5"
        assert [house.lookup.next().address for _ in range(3)] == [
            b"nobody@host.test", b"trouble@host.test", b"postmaster@host.test"]  # fmt: skip
        assert client.ask(b"RCPT TO:<bob@HOST.test>")[:9] == b"250 2.1.5"
        assert client.ask(b"RCPT TO:<nobody@host.test>")[:9] == b"550 5.1.1"
        assert client.ask(b"RCPT TO:<trouble@host.test>")[:9] == b"451 4.3.0"
        assert house.lookup.next().address == b"trouble@host.test"  # only what was sure is remembered
        assert house.lookup.asked.empty()
        client.ask(b"DATA")
        assert client.ask(b".")[:3] == b"250"
        assert house.intake.next().recipients == [b"bob@HOST.test", b"info@virtual.test", b"postmaster", b"bob@HOST.test"]


def test_a_lookup_that_is_away_is_temporary(house: House) -> None:
    house.lookup.answer = lambda frame: house.lookup.hang_up()
    client = house.greeted()
    client.ask(b"MAIL FROM:<>")
    assert client.ask(b"RCPT TO:<bob@host.test>")[:9] == b"451 4.3.0"


def test_a_lookup_keeps_only_its_own_session_waiting(house: House) -> None:
    house.lookup.answer = lambda frame: None
    waiting = house.greeted()
    waiting.send(b"MAIL FROM:<>\r\nRCPT TO:<bob@host.test>\r\nRCPT TO:<carol@host.test>\r\nNOOP\r\n")
    first = house.lookup.next()
    assert house.greeted().message(b"x\r\n", b"<>", b"<c@elsewhere.test>")[:3] == b"250"
    house.lookup.say(frames.Is(first.tag, frames.SUCCESS, b""))
    second = house.lookup.next()
    house.lookup.say(frames.Is(second.tag, frames.PERMANENT, b""))
    assert [waiting.reply()[:9] for _ in range(4)] == [b"250 2.1.0", b"250 2.1.5", b"550 5.1.1", b"250 2.0.0"]


def test_strangers_do_not_relay_and_are_told_so(place: Path) -> None:
    with House(place, relayclients="192.0.2.0/24", rcpthosts="host.test\n.sub.test", percenthack="host.test") as house:
        client = house.greeted()
        client.ask(b"MAIL FROM:<a@b.test>")
        for path in (b"c@elsewhere.test", b"c%elsewhere.test@host.test", b"c@sub.test", b"c@[192.0.2.7]"):
            assert client.ask(b"RCPT TO:<" + path + b">")[:9] == b"553 5.7.1"
        for path in (b"c@host.test", b"c@x.sub.test"):
            assert client.ask(b"RCPT TO:<" + path + b">")[:9] == b"250 2.1.5"
        refused = house.records("refused", 4)
        assert {each["QMAILD_COMMAND"] for each in refused} == {"RCPT"}
        assert refused[0]["QMAILD_RECIPIENT"] == "c@elsewhere.test"
        assert refused[0]["QMAILD_CODE"] == "553"


def test_our_own_address_in_brackets_is_localiphost(place: Path) -> None:
    with House(place, localiphost="host.test") as house:
        assert house.greeted().message(b"x\r\n", b"<>", b"<bob@[127.0.0.1]>")[:3] == b"250"
        assert house.intake.next().recipients == [b"bob@host.test"]


def test_badmailfrom_is_refused_at_rcpt(place: Path) -> None:
    with House(place, badmailfrom="bad@b.test\n@worse.test") as house:
        client = house.greeted()
        for sender, code in ((b"Bad@B.test", b"553"), (b"x@worse.test", b"553"), (b"x@b.test", b"250"), (b"", b"250")):
            assert client.ask(b"MAIL FROM:<" + sender + b">")[:3] == b"250"
            assert client.ask(b"RCPT TO:<c@host.test>")[:3] == code
            client.ask(b"RSET")


def test_recipients_are_limited(place: Path) -> None:
    with House(place, maxrecipients="2") as house:
        client = house.greeted()
        client.ask(b"MAIL FROM:<>")
        codes = [client.ask(b"RCPT TO:<c@d.test>")[:9] for _ in range(3)]
        assert codes == [b"250 2.1.5", b"250 2.1.5", b"452 4.5.3"]


def test_a_client_that_guesses_addresses_is_sent_away(house: House) -> None:
    client = house.greeted()
    client.ask(b"MAIL FROM:<>")
    client.send(b"".join(b"RCPT TO:<nobody%d@host.test>\r\n" % number for number in range(200)))
    said = client.rest().splitlines()
    assert {line[:9] for line in said[:-1]} == {b"550 5.1.1"}
    assert len(said) == 102 and said[-1].startswith(b"421 4.7.0")
    assert len(house.records("refused", 101)) == 101


def test_messages_are_limited_when_declared_and_when_sent(place: Path) -> None:
    with House(place, databytes="500000") as house:
        client = house.greeted()
        assert client.ask(b"MAIL FROM:<> SIZE=500001")[:9] == b"552 5.3.4"
        assert client.message((b"x" * 99 + b"\r\n") * 5001)[:9] == b"552 5.3.4"
        assert client.message((b"x" * 99 + b"\r\n") * 5000)[:3] == b"250"


def test_a_looping_message_is_refused(place: Path) -> None:
    with House(place, maxhops="3") as house:
        client = house.greeted()
        assert client.message(b"Received: x\r\n" * 2 + b"\r\nReceived: text\r\n")[:3] == b"250"
        assert client.message(b"Received: x\r\nDelivered-To: y\r\nreceived: z\r\n\r\n")[:9] == b"554 5.4.6"


def test_bare_line_ends_are_refused_and_nothing_reaches_intake(house: House) -> None:
    client = house.greeted()
    assert client.message(b"one\ntwo\r\n")[:9] == b"550 5.5.2"
    assert client.message(b"one\rtwo\r\n")[:9] == b"550 5.5.2"
    big = b"x" * 70 + b"\r\n"
    assert client.message(big * 10000 + b"\n" + big * 10000)[:9] == b"550 5.5.2"
    assert client.message(b"fine\r\n")[:3] == b"250"
    asked = [house.intake.next()]
    while not isinstance(asked[-1], frames.Message):
        asked.append(house.intake.next())
    assert asked[-1].content.endswith(b"\nfine\n")
    assert {type(each) for each in asked[:-1]} <= {frames.Open, frames.Piece, frames.Abort}
    assert isinstance(asked[-2], frames.Abort)


def test_a_large_message_streams(house: House) -> None:
    client = house.greeted()
    line = b"x" * 70
    assert client.message(b"Subject: large\r\n\r\n" + (line + b"\r\n") * 20000)[:3] == b"250"
    asked = [house.intake.next()]
    while not isinstance(asked[-1], frames.End):
        asked.append(house.intake.next())
    assert isinstance(asked[0], frames.Open)
    assert house.intake.streamed[asked[0].tag] == b"Subject: large\n\n" + (line + b"\n") * 20000
    assert house.intake.largest <= (1 << 20) + (64 << 10)
    assert asked[-1].prefix.startswith(b"Received: from unknown (127.0.0.1)\n")
    assert asked[-1].recipients == [b"bob@host.test"]


def test_a_client_that_leaves_in_the_middle_leaves_nothing(house: House) -> None:
    client = house.greeted()
    client.send(b"MAIL FROM:<>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + (b"x" * 70 + b"\r\n") * 10000)
    assert isinstance(house.intake.next(), frames.Open)
    client.close()
    frame = house.intake.next()
    while isinstance(frame, frames.Piece):
        frame = house.intake.next()
    assert isinstance(frame, frames.Abort)


def test_a_queue_that_stops_reading_stops_the_client(place: Path) -> None:
    with House(place, databytes="0") as house:
        house.intake.answer = lambda frame: house.intake.may_read.clear() if isinstance(frame, frames.Open) else accepting(frame)
        client = house.greeted()
        for line in (b"MAIL FROM:<>", b"RCPT TO:<c@d.test>", b"DATA"):
            client.ask(line)
        sent, piece = 0, (b"x" * 70 + b"\r\n") * 1000
        client._sock.settimeout(1.0)
        with pytest.raises(TimeoutError):  # a second without any room: everything between is full
            while sent < 200 << 20:
                sent += client._sock.send(piece[sent % len(piece):])
        client._sock.settimeout(SECONDS)
        assert _resident(house.smtpd.process.pid) < 80 << 20
        assert sent < 48 << 20  # what is in sealed memory is bounded too
        house.intake.may_read.set()
        client.send(piece[sent % len(piece):] + b".\r\n")
        assert client.reply()[:3] == b"250"


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_client_that_reads_no_replies_is_read_no_more(house: House) -> None:
    client = house.greeted()
    flood = b"NOOP\r\n" * 10000
    client._sock.settimeout(1.0)
    with pytest.raises(TimeoutError):
        for _ in range(10000):
            client._sock.sendall(flood)
    assert _resident(house.smtpd.process.pid) < 80 << 20
    assert house.greeted().ask(b"NOOP")[:3] == b"250"


def test_replies_are_still_given_to_a_client_that_has_finished_sending(house: House) -> None:
    client = house.client()
    client.send(b"HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<bob@host.test>\r\nDATA\r\nx\r\n.\r\n")
    client.finish_sending()
    assert [line[:3] for line in client.rest().splitlines()] == [b"220", b"250", b"250", b"250", b"354", b"250"]


def test_smtputf8_is_noted_and_shown(house: House) -> None:
    client = house.greeted()
    client.ask(b"EHLO c")
    assert client.message(b"x\r\n", "<jürgen@b.test> SMTPUTF8".encode(), "<bøb@host.test>".encode())[:3] == b"250"
    message = house.intake.next()
    assert message.flags == frames.FLAG_UTF8
    assert b" with UTF8SMTP; " in message.content
    assert message.recipients == ["bøb@host.test".encode()]


def test_verify_and_help_are_answered_and_reveal_nothing(house: House) -> None:
    client = house.greeted()
    assert client.ask(b"VRFY nobody") == client.ask(b"VRFY root")
    assert client.ask(b"VRFY \xff\xfe\"(")[:9] == b"252 2.0.0"
    assert client.ask(b"VRFY")[:9] == b"501 5.0.0"
    assert client.ask(b"HELP") == b"214 2.0.0 Supported commands: DATA EHLO HELO HELP MAIL NOOP QUIT RCPT RSET VRFY"
    assert client.ask(b"HELP MAIL").startswith(b"214 2.0.0 Syntax: MAIL FROM")
    assert client.ask(b"HELP AUTH")[:3] == b"501"
    assert client.ask(b"NOOP") == b"250 2.0.0 ok"


def test_one_client_has_only_so_many_sessions_unless_it_may_relay(place: Path) -> None:
    with House(place, relayclients="127.0.0.2", clientconcurrency="2") as house:
        first, second = house.greeted(), house.greeted()
        third = house.client()
        assert third.rest().startswith(b"421 4.7.0")
        for _ in range(3):
            house.greeted("127.0.0.2")
        house.greeted("127.0.0.3")
        refused, = house.records("refused")
        assert refused["QMAILD_COMMAND"] == "connection"
        assert first.ask(b"QUIT")[:3] == b"221"
        assert first.rest() == b""
        house.greeted()
        assert second.ask(b"NOOP")[:3] == b"250"


def test_all_sessions_are_limited(place: Path) -> None:
    with House(place, concurrencyincoming="2") as house:
        house.greeted()
        house.greeted()
        assert house.client().rest().startswith(b"421 4.3.2")


def test_a_client_that_holds_many_places_gives_one_to_a_newcomer_when_all_are_taken(place: Path) -> None:
    with House(place, concurrencyincoming="3", relayclients="127.0.0.1") as house:
        relay = house.greeted()
        many = [house.greeted("127.0.0.2"), house.greeted("127.0.0.2")]
        assert many[0].ask(b"NOOP")[:3] == many[1].ask(b"NOOP")[:3] == b"250"
        newcomer = house.greeted("127.0.0.3")
        assert many[0].rest().startswith(b"421 4.3.2 every session is taken")
        assert house.records("refused")[0]["QMAILD_COMMAND"] == "session"
        assert {each.ask(b"NOOP")[:3] for each in (relay, many[1], newcomer)} == {b"250"}
        assert house.client("127.0.0.3").rest().startswith(b"421 4.3.2 too many sessions")


def test_one_that_gave_way_in_the_middle_of_a_message_leaves_nothing_of_it(place: Path) -> None:
    with House(place, concurrencyincoming="2", relayclients="") as house:
        for _ in range(2):
            client = house.greeted("127.0.0.2")
            for line in (b"EHLO x", b"MAIL FROM:<>", b"RCPT TO:<bob@host.test>", b"DATA"):
                assert client.ask(line)[:1] in b"23"
            client.send(b"x" * 500_000 + b"\r\n")
        newcomer = house.greeted("127.0.0.3")
        assert newcomer.message(b"Subject: x\r\n\r\n")[:3] == b"250"
        stream = house.intake.next()
        seen = [type(house.intake.next())]
        while seen[-1] is not frames.Abort:
            seen.append(type(house.intake.next()))
        assert isinstance(stream, frames.Open)
        assert frames.End not in seen


@pytest.mark.parametrize("begin", [b"", b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<bob@host.test>\r\nDATA\r\n"])
def test_a_client_that_says_a_byte_now_and_then_is_sent_away_like_a_silent_one(place: Path, begin: bytes) -> None:
    with House(place, timeoutsmtpd="1") as house:
        slow = house.greeted()
        slow.send(begin)
        while begin and slow.reply()[:3] != b"354":
            pass
        begun = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - begun < SECONDS:
                slow.send(b"N")
                time.sleep(0.1)
        assert time.monotonic() - begun < SECONDS / 2
        assert b"421 4.4.2" in slow.rest()


def test_a_silent_client_is_sent_away(place: Path) -> None:
    with House(place, timeoutsmtpd="1") as house:
        silent, busy = house.greeted(), house.greeted()
        begun = time.monotonic()
        while time.monotonic() - begun < 2.5:
            assert busy.ask(b"NOOP")[:3] == b"250"
            busy._sock.settimeout(SECONDS)
            time.sleep(0.1)
        assert silent.rest().startswith(b"421 4.4.2")
        assert busy.ask(b"NOOP")[:3] == b"250"


def test_a_stop_says_421_between_commands_and_lets_a_message_end(house: House) -> None:
    house.intake.answer = lambda frame: None
    idle, sending, answered = house.greeted(), house.greeted(), house.greeted()
    for line in (b"MAIL FROM:<>", b"RCPT TO:<c@d.test>", b"DATA"):
        sending.ask(line)
        answered.ask(line)
    answered.send(b"x\r\n.\r\n")
    waiting = house.intake.next()
    house.smtpd.process.send_signal(signal.SIGTERM)
    assert idle.rest().startswith(b"421 4.3.2")
    sending.send(b"y\r\n.\r\n")
    last = house.intake.next()
    for each, client in ((waiting, answered), (last, sending)):
        house.intake.say(frames.Accepted(each.tag, 5))
        assert client.reply().startswith(b"250 2.0.0")
        assert client.rest().startswith(b"421 4.3.2")
    assert house.smtpd.process.wait(SECONDS) == 0


def test_an_idle_door_leaves_and_one_with_a_session_stays(place: Path) -> None:
    with House(place, idleexit="1") as house:
        client = house.greeted()
        time.sleep(2.5)
        assert client.ask(b"NOOP")[:3] == b"250"
        assert client.ask(b"QUIT")[:3] == b"221"
        assert house.smtpd.process.wait(SECONDS) == 0


def test_a_reload_changes_what_is_asked_from_then_on(house: House) -> None:
    client = house.greeted()
    assert client.ask(b"MAIL FROM:<> SIZE=1000")[:3] == b"250"
    (house.smtpd.control / "databytes").write_text("500\n")
    control = house.smtpd.client("control")
    control.send(frames.Command(1, [b"reload"]))
    assert control.receive()[0] == frames.Answer(1, 0, b"")
    client.ask(b"RSET")
    assert client.ask(b"MAIL FROM:<> SIZE=1000")[:3] == b"552"
    assert b"SIZE 500" in _greeting_of(house)
    (house.smtpd.control / "databytes").write_text("much\n")
    control.send(frames.Command(2, [b"reload"]))
    answer: Any = control.receive()[0]
    assert answer.code == 1 and b"databytes:1: expected a whole number" in answer.text
    assert client.ask(b"MAIL FROM:<> SIZE=400")[:3] == b"250"


def _greeting_of(house: House) -> bytes:
    client = house.greeted()
    client.send(b"EHLO c\r\nQUIT\r\n")
    return client.rest()


def _workers_of(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _wait_for_workers(pid: int, count: int, without: set[int] = frozenset()) -> set[int]:  # type: ignore[assignment]
    deadline = time.monotonic() + SECONDS
    while len(found := _workers_of(pid) - without) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_several_workers_share_the_socket_and_one_that_dies_is_replaced(place: Path) -> None:
    with House(place, smtpdworkers="2", idleexit="0") as house:
        supervisor = house.smtpd.process
        assert house.greeted().message(b"x\r\n")[:3] == b"250"
        workers = _wait_for_workers(supervisor.pid, 2)
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        assert house.greeted().message(b"x\r\n")[:3] == b"250"
        assert len(_wait_for_workers(supervisor.pid, 2, workers)) == 2
        (house.smtpd.control / "databytes").write_text("500\n")
        control = house.smtpd.client("control")
        control.send(frames.Command(1, [b"reload"]))
        assert control.receive()[0] == frames.Answer(1, 0, b"")
        deadline = time.monotonic() + SECONDS
        while b"SIZE 500" not in _greeting_of(house):
            assert time.monotonic() < deadline
        client = house.greeted()
        supervisor.send_signal(signal.SIGTERM)
        assert client.rest().startswith(b"421 4.3.2")
        assert supervisor.wait(SECONDS) == 0


def test_workers_leave_when_all_are_idle(place: Path) -> None:
    with House(place, smtpdworkers="2", idleexit="1") as house:
        client = house.greeted()
        time.sleep(2.5)
        assert client.message(b"x\r\n")[:3] == b"250"
        client.close()
        assert house.smtpd.process.wait(SECONDS) == 0


def test_workers_do_not_outlive_their_supervisor(place: Path) -> None:
    with House(place, smtpdworkers="2", idleexit="0") as house:
        house.greeted()
        workers = _wait_for_workers(house.smtpd.process.pid, 2)
        house.smtpd.process.kill()
        house.smtpd.process.wait(SECONDS)
        deadline = time.monotonic() + SECONDS
        while any(Path(f"/proc/{worker}/cmdline").exists() and _is_alive(worker) for worker in workers):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False




@pytest.mark.parametrize("lines", [1, 20000])
def test_with_the_queue_itself_what_was_accepted_survives_its_death(
    place: Path, monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(place / "queue"))
    with Running("smtpd", ["smtp"], place) as smtpd, Client(smtpd.ports["smtp"]) as client:
        client.reply()
        with Running("queue", ["intake", "control"], place) as queue:
            said = client.message((b"x" * 70 + b"\r\n") * lines, b"<a@b.test>", b"<c@d.test>")
            assert said.startswith(b"250 2.0.0 ok ")
            queue.process.kill()
            queue.process.wait(SECONDS)
        assert client.message(b"x\r\n", b"<a@b.test>", b"<c@d.test>")[:9] == b"451 4.3.0"
        with Running("queue", ["intake", "control"], place) as queue:
            control = queue.client("control")
            control.send(frames.Command(1, [b"show", said.split()[-1], b"0", b"json"]))
            answer: Any = control.receive()[0]
            shown = json.loads(answer.text.split(b"\n")[1])
            assert shown["bytes"] > 71 * lines
            assert client.message(b"x\r\n", b"<a@b.test>", b"<c@d.test>").startswith(b"250 2.0.0 ok ")


def test_a_list_of_hosts_that_is_damaged_refuses_nobody_for_good(place: Path) -> None:
    with House(place, relayclients="", rcpthosts="first.test", locals="") as house:
        path = house.smtpd.control / "morercpthosts.cdb"
        client = house.greeted()
        client.ask(b"EHLO client.test")
        client.ask(b"MAIL FROM:<a@b.test>")
        for content, said in (
            (None, b"553 5.7.1"), (cdb.build([(b"second.test", b"")]), b"250 2.1.5"), (b"torn", b"451 4.3.0"),
            (cdb.build([(b".test", b"")]), b"250 2.1.5"), (cdb.build([(b"other.test", b"")]), b"553 5.7.1"),
        ):  # fmt: skip
            if content is not None:
                new = path.with_suffix(".new")
                new.write_bytes(content)
                new.rename(path)
            assert client.ask(b"RCPT TO:<x@second.test>").startswith(said)
            assert client.ask(b"RCPT TO:<x@first.test>")[:3] == b"250"
    assert f"{path}: it is shorter than its head" in (place / "journal").read_text()
