"""Foreign text that we pass on or act upon: notes of failures and the bounces made of them, trace fields, answers of the DNS.

The first byte of an input chooses the reader: its letter in READERS.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import dns.message
import dns.name
import dns.rdatatype

from qmaild.message import bounce, envelope, trace, verp
from qmaild.policy import mailhosts
from qmaild.runtime import dns as resolver

MAX_LINE = 998  # RFC 5322 2.1.1
LONGEST = envelope.MAX_PATH  # the queue takes no longer address
BOUNDARY = b"boundary"
ENVELOPE = bounce.Envelope(b"MAILER-DAEMON@mx.test", b"a@b.test", b"mx.test", 1795424707, BOUNDARY)


def note(data: bytes) -> None:
    """A note that is read and written again says the same."""
    first = bounce.parse_note(data)
    again = bounce.parse_note(bounce.note(*first))
    assert again._replace(text=b"") == first._replace(text=b"")
    assert bounce.parse_note(bounce.note(*again)) == again
    for text in (first.text, again.text):
        assert text.endswith(b"\n") and b"\n\n" not in text and not text.startswith(b"\n")
        assert all(len(line) <= MAX_LINE for line in text.split(b"\n"))
        text.decode()


def report(data: bytes) -> None:
    """Lines: sender, recipient, what the server said up to a line `=`; then the message. It has three parts, no more."""
    said, _, original = data.partition(b"\n=\n")
    sender, recipient, text = (*said.split(b"\n", 2), b"", b"")[:3]
    sender, recipient = sender[:LONGEST], recipient[:LONGEST]
    noted = bounce.note(b"5.1.1", 550, b"192.0.2.1", text)
    for is_whole in (False, True):
        failures = ((recipient, noted), (b"x@y.test", text))
        subject = bounce.Subject(4711, sender, 1795424000, not sender, failures, original, is_whole)
        made = bounce.compose(subject, ENVELOPE)
        head, _, body = made.partition(b"\n\n")
        boundary = head.partition(b'boundary="')[2].partition(b'"')[0]
        assert boundary.startswith(BOUNDARY)
        lines = (b"\n" + body).split(b"\n")
        assert lines.count(b"--" + boundary) == 3 and lines.count(b"--" + boundary + b"--") == 1
        assert sum(boundary in line for line in lines) == 4
        ours = body[: body.rindex(b"\n--" + boundary + b"\n")] if is_whole else body
        assert b"\0" not in head and b"\r" not in head and all(len(line) <= MAX_LINE for line in head.split(b"\n"))
        told = ours.split(b"--" + boundary)[1]
        assert all(len(line) <= max(MAX_LINE, len(b"<>:") + LONGEST) for line in told.split(b"\n"))


def trace_fields(data: bytes) -> None:
    field = trace.received(data, data, data, b"SMTP", 1795424707)
    assert field.count(b"\n") == 2 and field.startswith(b"Received: ") and field.isascii()
    sender, _, recipient = data.partition(b"\n")
    if verp.is_verp(sender):
        verp.expand(sender, recipient)
        assert not verp.is_verp(verp.collect(sender)) or sender.count(b"-@[]") > 1


def _reply(wire: bytes, kind: str) -> None:
    """What a name server sends to our question: hosts, or none, or of no use; never anything else."""
    name = dns.name.from_text("example.test.")
    query = dns.message.make_query(name, kind, use_edns=0, payload=1232)
    query.id = 7
    try:
        answer, ttl = resolver._read(resolver._parse(wire, query), name, dns.rdatatype.from_text(kind))
    except resolver._Unusable:
        return
    assert 0 <= ttl <= resolver.MAX_TTL and len(answer.values) <= resolver.MAX_VALUES
    if kind == "MX":
        groups = mailhosts.hosts_of(b"example.test", answer, lambda items: None)
        if not isinstance(groups, mailhosts.Verdict):
            assert 0 < sum(map(len, groups)) <= mailhosts.MAX_HOSTS
            for host in groups[0]:
                resolver._name_of(host.name)
                mailhosts.literal(host.name)
    else:
        for candidate in mailhosts.candidates_of([(b"example.test", answer)], lambda items: None):
            mailhosts.is_never_mail(candidate.address)


_QUESTION = b"\7example\4test\0"


def answers(data: bytes) -> None:
    """A count and records behind a header and question that fit ours."""
    for kind, number in (("MX", 15), ("A", 1), ("AAAA", 28)):
        count = data[0] % 16 if data else 0
        head = struct.pack("!6H", 7, 0x8180 | (data[1] & 15 if data[1:] else 0), 1, count, 0, 0)
        _reply(head + _QUESTION + struct.pack("!2H", number, 1) + data[2:], kind)


def datagram(data: bytes) -> None:
    """All of it from the other side, but for the number that lets it in."""
    _reply(b"\0\7" + data, "MX")


def host_name(data: bytes) -> None:
    """A domain of an address, on its way into a question."""
    name = resolver._name_of(data)
    if name is not None:
        assert name.is_absolute()
        resolver._name_of(resolver._text_of(name))


READERS: dict[bytes, Callable[[bytes], Any]] = {
    b"n": note, b"r": report, b"t": trace_fields, b"a": answers, b"d": datagram, b"h": host_name,
}  # fmt: skip


def one_input(data: bytes) -> None:
    READERS.get(data[:1], note)(data[1:])


def _many_failures(data: bytes) -> None:
    failures = tuple([(b"r@x.test", data[:50])] * (len(data) // 50))
    bounce.compose(bounce.Subject(1, b"a@b.test", 1, False, failures, data, True), ENVELOPE)


def _datagram(data: bytes) -> None:
    datagram(data[:65000])


def _host_name(data: bytes) -> None:
    host_name(data[:1000])


GROWTH = {"note": note, "report": report, "datagram": _datagram, "host name": _host_name}
DRIBBLE = {"failures": _many_failures}
