"""The QMQP door as a process: real clients on the network, and an intake behind it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmaild.protocol import frames
from qmaild.protocol.netstring import encode, encode_all

from .peers import Peer, accepting
from .processes import SECONDS, Running


@pytest.fixture
def intake(tmp_path: Path) -> Iterator[Peer]:
    with Peer(tmp_path, "intake", accepting) as peer:
        yield peer


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QMAILD_STANDALONE", str(tmp_path))
    return tmp_path


def serving(place: Path, **settings: str) -> Running:
    return Running("qmqpd", ["qmqp", "control"], place, **{"qmqpclients": "127.0.0.1", **settings})


def package(content: bytes, *paths: bytes) -> bytes:
    return encode(encode(content) + encode_all(paths))


def send(running: Running, data: bytes, source: str = "127.0.0.1", step: int = 0) -> bytes:
    """Everything the server says to these bytes until it closes."""
    with socket.create_connection(("127.0.0.1", running.ports["qmqp"]), SECONDS, (source, 0)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(0, len(data), step or len(data)):
            sock.sendall(data[place : place + step] if step else data)
        said = b""
        while more := sock.recv(4096):
            said += more
        return said


def test_a_package_is_handed_to_intake_and_answered(place: Path, intake: Peer) -> None:
    with serving(place) as qmqpd:
        said = send(qmqpd, package(b"Subject: x\n\ntext\n", b"a@b.test", b"c@d.test", b"nobody@host.test"))
        message = intake.next()
        assert (message.sender, message.recipients) == (b"a@b.test", [b"c@d.test", b"nobody@host.test"])
        assert message.origin == b"qmqp 127.0.0.1"
        received, by, text = message.content.split(b"\n", 2)
        assert received == b"Received: from unknown (127.0.0.1)"
        assert by.startswith(b"  by host.test with QMQP; ")
        assert text == b"Subject: x\n\ntext\n"
        assert said == encode(said[said.index(b":") + 1 : -1])
        assert b":Kok " in said and said.endswith(b" qp %d," % (1000 + message.tag))
    records = [json.loads(line) for line in (place / "journal").read_text().splitlines()]
    accepted, = [each for each in records if each.get("QMAILD_EVENT") == "accepted"]
    assert (accepted["QMAILD_PROTOCOL"], accepted["QMAILD_BYTES"], accepted["QMAILD_RECIPIENTS"]) == ("qmqp", "17", "2")


def test_a_package_in_small_pieces(place: Path, intake: Peer) -> None:
    with serving(place) as qmqpd:
        assert b":Kok " in send(qmqpd, package(b"text\n", b"", b"c@d.test"), step=3)


def test_a_large_package_streams(place: Path, intake: Peer) -> None:
    content = b"line\n" * 300_000
    with serving(place) as qmqpd:
        assert b":Kok " in send(qmqpd, package(content, b"", b"c@d.test"))
        asked = [intake.next()]
        while not isinstance(asked[-1], frames.End):
            asked.append(intake.next())
        assert isinstance(asked[0], frames.Open)
        assert intake.streamed[asked[0].tag] == content
        assert asked[-1].recipients == [b"c@d.test"]


@pytest.mark.parametrize(("data", "said"), [
    (package(b"x" * 1001, b"", b"c@d.test"), b":Dsorry, that message size exceeds"),
    (package(b"x", b"", b"c" * 1000), b":Dsorry, I can't handle that envelope address"),
    (package(b"x", b"a\0b", b"c@d.test"), b":Dsorry, I can't handle that envelope address"),
    (package(b"x", b"a@b.test"), b":Dsorry, there is no recipient"),
    (package(b"Received: x\n" * 3, b"", b"c@d.test"), b":Dtoo many hops"),
])  # fmt: skip
def test_what_is_refused(place: Path, intake: Peer, data: bytes, said: bytes) -> None:
    with serving(place, databytes="1000", maxhops="3") as qmqpd:
        assert said in send(qmqpd, data)
        assert intake.asked.empty()


@pytest.mark.parametrize(("outcome", "letter"), [(frames.TEMPORARY, b":Z"), (frames.PERMANENT, b":D")])
def test_what_intake_refuses_is_refused(place: Path, intake: Peer, outcome: bytes, letter: bytes) -> None:
    intake.answer = lambda frame: frames.Refused(frame.tag, outcome, b"4.3.1", b"no room")
    with serving(place) as qmqpd:
        assert letter + b"no room (#4.3.1)," in send(qmqpd, package(b"x", b"", b"c@d.test"))


def test_no_queue_is_temporary(place: Path) -> None:
    with serving(place) as qmqpd:
        assert b":Zthe queue cannot be reached" in send(qmqpd, package(b"x", b"", b"c@d.test"))


def test_strangers_get_nothing_but_a_temporary_refusal(place: Path, intake: Peer) -> None:
    with serving(place) as qmqpd:
        with socket.create_connection(("127.0.0.1", qmqpd.ports["qmqp"]), SECONDS, ("127.0.0.2", 0)) as sock:
            assert b":Zsorry, your address may not use QMQP" in sock.recv(4096)
        assert b":Kok " in send(qmqpd, package(b"x", b"", b"c@d.test"))


def test_nonsense_costs_only_its_connection(place: Path, intake: Peer) -> None:
    with serving(place) as qmqpd:
        assert send(qmqpd, b"EHLO qmqp\r\n") == b""
        assert b":Kok " in send(qmqpd, package(b"x", b"", b"c@d.test"))


def test_a_silent_client_is_cut_off(place: Path, intake: Peer) -> None:
    with serving(place, timeoutsmtpd="1") as qmqpd:
        begun = time.monotonic()
        assert send(qmqpd, package(b"x", b"", b"c@d.test")[:-1]) == b""
        assert time.monotonic() - begun > 0.9
