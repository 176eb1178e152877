"""The resolver against a real name server on loopback that answers, errs, stays silent, cuts short and lies."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import dns.message
import pytest

from qmaild.policy.mailhosts import Answer, Status
from qmaild.runtime import dns as subject

from .name_server import NameServer, reply, zone

SOA = "test 60 IN SOA ns.test. root.test. 1 3600 600 86400 60"


def ask(path: Path, *questions: tuple[bytes, str], text: str = "") -> list[Answer]:
    """Answers to questions asked one after the other of one resolver."""
    if text:
        (path / "resolv.conf").write_text(text)

    async def run() -> list[Answer]:
        resolver = subject.Resolver(asyncio.get_running_loop(), str(path / "resolv.conf"))
        answers = [await resolver.ask(*question) for question in questions]
        assert not resolver.is_busy
        return answers

    return asyncio.run(run())


def closed_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_mx_and_addresses_are_found(tmp_path: Path) -> None:
    records = {
        "a.test": ["MX 10 mx1.a.test.", "MX 20 mx2.a.test."],
        "mx1.a.test": ["A 192.0.2.1", "A 192.0.2.2", "AAAA 2001:db8::1"],
    }
    with NameServer(zone(records)) as server:
        mx, four, six = ask(tmp_path, (b"a.test", "MX"), (b"mx1.a.test", "A"), (b"mx1.a.test", "AAAA"), text=server.line())
    assert (mx.status, set(mx.values)) == (Status.FOUND, {(10, b"mx1.a.test"), (20, b"mx2.a.test")})
    assert set(four.values) == {b"192.0.2.1", b"192.0.2.2"}
    assert six.values == (b"2001:db8::1",)


def test_null_mx_is_an_empty_name(tmp_path: Path) -> None:
    with NameServer(zone({"a.test": ["MX 0 ."]})) as server:
        assert ask(tmp_path, (b"a.test", "MX"), text=server.line()) == [Answer(Status.FOUND, ((0, b""),))]


def test_no_name_and_no_record_are_two_answers(tmp_path: Path) -> None:
    with NameServer(zone({"a.test": ["A 192.0.2.1"]})) as server:
        answers = ask(tmp_path, (b"no.test", "MX"), (b"a.test", "MX"), text=server.line())
    assert [answer.status for answer in answers] == [Status.ABSENT, Status.EMPTY]


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "NOTIMP"])
def test_a_server_error_is_trouble(tmp_path: Path, rcode: str) -> None:
    with NameServer(lambda query, over: [reply(query, rcode=rcode)]) as server:
        assert ask(tmp_path, (b"a.test", "MX"), text=server.line())[0].status is Status.TROUBLE


def test_the_next_server_is_asked_after_an_error(tmp_path: Path) -> None:
    with NameServer(lambda query, over: [reply(query, rcode="SERVFAIL")]) as bad, \
         NameServer(zone({"a.test": ["A 192.0.2.1"]})) as good:  # fmt: skip
        text = f"nameserver 127.0.0.1#{closed_port()}\n" + bad.line() + good.line()
        assert ask(tmp_path, (b"a.test", "A"), text=text)[0].values == (b"192.0.2.1",)


def test_a_cname_is_followed(tmp_path: Path) -> None:
    def answers(query: Any, over: str) -> list[bytes]:
        return [reply(query, "a.test 60 IN CNAME b.test.", "b.test 60 IN MX 5 mx.b.test.")]

    with NameServer(answers) as server:
        assert ask(tmp_path, (b"a.test", "MX"), text=server.line())[0].values == ((5, b"mx.b.test"),)


def test_a_cname_loop_is_trouble(tmp_path: Path) -> None:
    def answers(query: Any, over: str) -> list[bytes]:
        return [reply(query, "a.test 60 IN CNAME b.test.", "b.test 60 IN CNAME a.test.")]

    with NameServer(answers) as server:
        assert ask(tmp_path, (b"a.test", "MX"), text=server.line())[0].status is Status.TROUBLE


def test_a_truncated_answer_is_fetched_over_tcp(tmp_path: Path) -> None:
    def answers(query: Any, over: str) -> list[bytes]:
        if over == "udp":
            return [reply(query, truncated=True)]
        return [reply(query, *[f"a.test 60 IN MX {number} mx{number}.a.test." for number in range(80)])]

    with NameServer(answers) as server:
        answer = ask(tmp_path, (b"a.test", "MX"), text=server.line())[0]
    assert server.asked == ["udp a.test MX", "tcp a.test MX"]
    assert len(answer.values) == 80


def test_a_server_from_before_edns_is_asked_without(tmp_path: Path) -> None:
    def answers(query: Any, over: str) -> list[bytes]:
        return [reply(query, "a.test 60 IN A 192.0.2.1", rcode="NOERROR" if query.edns < 0 else "FORMERR")]

    with NameServer(answers) as server:
        assert ask(tmp_path, (b"a.test", "A"), text=server.line())[0].values == (b"192.0.2.1",)


def test_an_answer_with_another_id_is_not_seen(tmp_path: Path) -> None:
    def answers(query: Any, over: str) -> list[bytes]:
        lie = bytearray(reply(query, "a.test 60 IN A 203.0.113.66"))
        lie[0] ^= 0xFF
        return [bytes(lie), b"", b"\xff", reply(query, "a.test 60 IN A 192.0.2.1")]

    with NameServer(answers) as server:
        assert ask(tmp_path, (b"a.test", "A"), text=server.line())[0].values == (b"192.0.2.1",)


def test_an_answer_to_another_question_is_trouble(tmp_path: Path) -> None:
    def answers(query: Any, over: str) -> list[bytes]:
        other = dns.message.make_query("b.test", "A")
        other.id = query.id
        return [reply(other, "a.test 60 IN A 203.0.113.66")]

    with NameServer(answers) as server:
        assert ask(tmp_path, (b"a.test", "A"), text=server.line())[0].status is Status.TROUBLE


def test_records_of_other_names_in_the_answer_do_not_count(tmp_path: Path) -> None:
    with NameServer(lambda query, over: [reply(query, "b.test 60 IN A 203.0.113.66", authority=SOA)]) as server:
        assert ask(tmp_path, (b"a.test", "A"), text=server.line())[0].status is Status.EMPTY


@pytest.mark.parametrize("garbage", [b"\xff" * 20, b"\0" * 10, b"\x80\0\0\1" + b"\xc0\x0c" * 30])
def test_garbage_is_trouble(tmp_path: Path, garbage: bytes) -> None:
    with NameServer(lambda query, over: [query.to_wire()[:2] + garbage]) as server:
        assert ask(tmp_path, (b"a.test", "A"), text=server.line())[0].status is Status.TROUBLE


def test_silence_is_trouble_after_a_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "ROUNDS", (0.05, 0.1))
    with NameServer(lambda query, over: []) as server:
        assert ask(tmp_path, (b"a.test", "A"), text=server.line())[0].status is Status.TROUBLE
    assert server.asked == ["udp a.test A"] * 2


def test_a_lost_datagram_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "ROUNDS", (0.05, 5.0))
    with NameServer(lambda query, over: [reply(query, "a.test 60 IN A 192.0.2.1")] * (len(server.asked) > 1)) as server:
        assert ask(tmp_path, (b"a.test", "A"), text=server.line())[0].values == (b"192.0.2.1",)


def test_a_question_is_kept_for_its_ttl_and_asked_once_at_a_time(tmp_path: Path) -> None:
    def answers(query: Any, over: str) -> list[bytes]:
        return [reply(query, f"a.test {0 if 'AAAA' in server.asked[-1] else 60} IN A 192.0.2.1")]

    async def run(path: str) -> None:
        resolver = subject.Resolver(asyncio.get_running_loop(), path)
        await asyncio.gather(*[resolver.ask(b"A.test", "A") for _ in range(5)])
        await resolver.ask(b"a.TEST", "A")
        assert len(server.asked) == 1
        resolver.forget_all()
        await resolver.ask(b"a.test", "A")
        assert len(server.asked) == 2

    with NameServer(answers) as server:
        (tmp_path / "resolv.conf").write_text(server.line())
        asyncio.run(run(str(tmp_path / "resolv.conf")))


def test_an_answer_with_ttl_0_is_not_kept(tmp_path: Path) -> None:
    with NameServer(lambda query, over: [reply(query, "a.test 0 IN A 192.0.2.1")]) as server:
        ask(tmp_path, (b"a.test", "A"), (b"a.test", "A"), text=server.line())
    assert len(server.asked) == 2


@pytest.mark.parametrize("name", [b"", b"a..test", b"x" * 64 + b".test", b"a." * 130 + b"test", b"\xff.test", b"."])
def test_a_name_that_cannot_exist_is_absent_without_a_question(tmp_path: Path, name: bytes) -> None:
    with NameServer(zone({})) as server:
        assert ask(tmp_path, (name, "MX"), text=server.line())[0].status is Status.ABSENT
    assert server.asked == []


def test_an_internationalized_name_is_asked_by_its_a_label(tmp_path: Path) -> None:
    with NameServer(zone({"xn--bcher-kva.test": ["A 192.0.2.1"]})) as server:
        assert ask(tmp_path, ("bücher.test".encode(), "A"), text=server.line())[0].values == (b"192.0.2.1",)


def test_a_changed_resolv_conf_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"

    async def run() -> None:
        resolver = subject.Resolver(asyncio.get_running_loop(), str(path))
        path.write_text(f"nameserver 127.0.0.1#{closed_port()}\n")
        assert (await resolver.ask(b"a.test", "A")).status is Status.TROUBLE
        resolver.forget_all()
        path.with_suffix(".new").write_text("# made by hand\noptions edns0\n" + server.line())
        os.replace(path.with_suffix(".new"), path)
        assert (await resolver.ask(b"a.test", "A")).values == (b"192.0.2.1",)

    with NameServer(zone({"a.test": ["A 192.0.2.1"]})) as server:
        asyncio.run(run())


@pytest.mark.parametrize("whole", [b"", b"\0" * 11])
def test_a_stream_with_nothing_in_it_is_trouble(tmp_path: Path, whole: bytes) -> None:
    def answers(query: Any, over: str) -> list[bytes]:
        return [reply(query, truncated=True) if over == "udp" else whole]

    with NameServer(answers) as server:
        assert ask(tmp_path, (b"a.test", "MX"), text=server.line()) == [Answer(Status.TROUBLE)]
        assert any(each.startswith("tcp") for each in server.asked)


def test_of_thousands_of_records_a_bounded_number_is_taken(tmp_path: Path) -> None:
    lines = [f"a.test 60 IN MX {number} mx{number}.a.test." for number in range(2000)]

    def answers(query: Any, over: str) -> list[bytes]:
        return [reply(query, truncated=True) if over == "udp" else query.id.to_bytes(2, "big") + whole[2:]]

    # Made before anybody waits for it: on a busy machine that takes seconds.
    whole = reply(dns.message.make_query("a.test", "MX"), *lines)
    with NameServer(answers) as server:
        answer, = ask(tmp_path, (b"a.test", "MX"), text=server.line())
    assert answer.status is Status.FOUND
    assert 0 < len(answer.values) <= subject.MAX_VALUES
