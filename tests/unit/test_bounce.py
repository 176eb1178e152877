"""Bounces, read back by the email package and a QSBMF parser of this test; what hostile notes cannot do."""

from __future__ import annotations

import email
import email.policy
import re
from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmaild.message import bounce, header, verp

ORIGINAL = b"From: a@b\nSubject: hello\n\nthe text\n"


def composed(
    *failures: tuple[bytes, bytes],
    original: bytes = ORIGINAL,
    is_whole: bool = True,
    is_double: bool = False,
    sender: bytes = b"sender@away.example",
    boundary: bytes = b"bound",
) -> bytes:
    subject = bounce.Subject(42, sender, 1_000_000_000, is_double, failures, original, is_whole)
    envelope = bounce.Envelope(
        b"MAILER-DAEMON@host.example",
        sender or b"postmaster@host.example",
        b"host.example",
        1_000_000_100,
        boundary,
    )
    return bounce.compose(subject, envelope)


def parts_of(content: bytes) -> tuple[Message, list[Message]]:
    message = email.message_from_bytes(content)
    parts = message.get_payload()
    assert isinstance(parts, list) and not message.defects and not any(part.defects for part in parts)
    return message, [part for part in parts if isinstance(part, Message)]


def status_groups(part: Message) -> list[Message]:
    """Parse the groups of a status part (the email package does it for the US-ASCII kind only)."""
    text = part.as_bytes(policy=email.policy.compat32.clone(max_line_length=None)).partition(b"\n\n")[2]
    return [email.message_from_bytes(group) for group in text.strip(b"\n").split(b"\n\n")]


def qsbmf(text: bytes) -> list[tuple[bytes, bytes]]:
    """Return (recipient, text) of each failure: a blank line ends a paragraph, one with - the list."""
    paragraphs = text.split(b"\n\n")
    assert paragraphs[0].startswith(b"Hi. This is the")
    found: list[tuple[bytes, bytes]] = []
    for paragraph in paragraphs[1:]:
        if paragraph.startswith(b"-"):
            return found
        first, _, rest = paragraph.partition(b"\n")
        assert first.startswith(b"<") and first.endswith(b">:")
        found.append((first[1:-2], rest))
    raise AssertionError("no break paragraph")


def text_of(part: Message) -> bytes:
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload


def test_a_bounce_is_a_report_of_three_parts_about_every_failure() -> None:
    content = composed(
        (b"a@far.example", bounce.note(b"5.1.1", 550, b"192.0.2.1", b"no such user\r\nreally not\r\n")),
        (b"b@host.example", bounce.note(b"5.2.2", 0, b"", b"mailbox full")),
    )
    message, parts = parts_of(content)
    assert (message.get_content_type(), message.get_param("report-type")) == (
        "multipart/report",
        "delivery-status",
    )
    assert message["From"] == "MAILER-DAEMON@host.example"
    assert (message["To"], message["Subject"]) == ("sender@away.example", "failure notice")
    assert (message["Auto-Submitted"], message["MIME-Version"]) == ("auto-replied", "1.0")
    assert message["Message-ID"] and message["Date"] == "9 Sep 2001 01:48:20 -0000"
    assert [part.get_content_type() for part in parts] == [
        "text/plain",
        "message/delivery-status",
        "message/rfc822",
    ]
    assert qsbmf(text_of(parts[0])) == [
        (b"a@far.example", b"no such user\nreally not"),
        (b"b@host.example", b"mailbox full"),
    ]
    about, first, second = status_groups(parts[1])
    assert (about["Reporting-MTA"], about["Arrival-Date"]) == (
        "dns; host.example",
        "9 Sep 2001 01:46:40 -0000",
    )
    assert (first["Final-Recipient"], first["Action"], first["Status"]) == (
        "rfc822; a@far.example",
        "failed",
        "5.1.1",
    )
    assert (first["Remote-MTA"], first["Diagnostic-Code"]) == (
        "dns; 192.0.2.1",
        "smtp; 550 no such user\n really not",
    )
    assert (second["Remote-MTA"], second["Diagnostic-Code"]) == (None, "x-qmaild; mailbox full")
    copy = parts[2].get_payload(0)
    assert isinstance(copy, Message)
    assert (copy["Return-Path"], copy["Subject"], copy.get_payload()) == (
        "<sender@away.example>",
        "hello",
        "the text\n",
    )


@pytest.mark.parametrize(
    "peer, shown",
    [
        (b"mx.far.example[192.0.2.1]:25", "dns; mx.far.example"),
        (b"[192.0.2.1]:25", "dns; [192.0.2.1]:25"),
        (b"/run/lmtp", "x-unix; /run/lmtp"),
        (b"", None),
    ],
)
def test_the_remote_mta_is_named_by_its_host(peer: bytes, shown: str | None) -> None:
    _, parts = parts_of(composed((b"a@far.example", bounce.note(b"5.1.1", 550, peer, b"no"))))
    assert status_groups(parts[1])[1]["Remote-MTA"] == shown


def test_a_message_too_large_goes_back_as_its_header_section() -> None:
    _, parts = parts_of(composed((b"a@b", b""), original=b"Subject: large\n", is_whole=False))
    assert parts[2].get_content_type() == "text/rfc822-headers"
    assert text_of(parts[2]) == b"Return-Path: <sender@away.example>\nSubject: large\n"


def test_a_double_bounce_says_so() -> None:
    _, parts = parts_of(composed((b"a@b", bounce.note(b"5.1.1", 550, b"", b"no")), is_double=True, sender=b""))
    assert b"--- Below this line is the original bounce.\n" in text_of(parts[0])
    assert qsbmf(text_of(parts[0])) == [(b"a@b", b"no")]


def test_eight_bits_are_announced_where_they_are_and_nowhere_else() -> None:
    note = bounce.note(b"5.1.1", 550, b"", b"no")
    plain, parts = parts_of(composed((b"a@b", note)))
    assert [each["Content-Transfer-Encoding"] for each in (plain, *parts)] == [None] * 4
    body, parts = parts_of(composed((b"a@b", note), original=b"Subject: x\n\n\xe9t\xe9\n"))
    assert [each["Content-Transfer-Encoding"] for each in (body, *parts)] == ["8bit", None, None, "8bit"]
    assert parts[2].get_content_type() == "message/rfc822"
    _, parts = parts_of(composed((b"a@b", note), original="Subject: é\n\nx\n".encode()))
    assert parts[2].get_content_type() == "message/global"


def test_an_address_beyond_ascii_is_reported_as_rfc_6533_says() -> None:
    content = composed(("jürgen@bücher.example".encode(), bounce.note(b"5.1.1", 550, b"", "unzustellbar: ü".encode())))
    _, parts = parts_of(content)
    assert parts[0].get_content_charset() == "utf-8"
    assert qsbmf(text_of(parts[0]))[0] == ("jürgen@bücher.example".encode(), "unzustellbar: ü".encode())
    assert parts[1].get_content_type() == "message/global-delivery-status"
    assert "Final-Recipient: utf-8; jürgen@bücher.example\n".encode() in content
    assert b"Diagnostic-Code: smtp; 550 unzustellbar: ??\n" in content


@pytest.mark.parametrize(
    "text, kept",
    [
        (b"", b"No reason was given.\n"),
        (b"one\n\n\ntwo", b"one\n/\n/\ntwo\n"),
        (b"one\r\n\r\ntwo\r\n", b"one\n/\ntwo\n"),
        (b"bell\x07 null\0 cr\r end", b"bell? null? cr? end\n"),
        (b"\xff\xfe", b"??\n"),
        (b"x" * 2000, b"x" * 900 + b"\n" + b"x" * 900 + b"\n" + b"x" * 200 + b"\n"),
    ],
)
def test_a_notes_text_is_lines_without_blank_ones(text: bytes, kept: bytes) -> None:
    assert bounce.parse_note(bounce.note(b"5.0.0", 0, b"", text)).text == kept


def test_a_note_is_bounded() -> None:
    assert len(bounce.note(b"5.0.0", 554, b"p" * 10_000, "ü".encode() * 10_000)) < 6_000


@given(st.binary(max_size=40), st.integers(0, 999), st.binary(max_size=40), st.binary(max_size=400))
def test_a_note_reads_back_as_it_was_made_whatever_it_is_made_of(status: bytes, code: int, peer: bytes, text: bytes) -> None:
    made = bounce.note(status, code, peer, text)
    read = bounce.parse_note(made)
    assert bounce.note(*read) == made
    assert read.code == code
    assert b"\n\n" not in read.text and read.text.endswith(b"\n") and not read.text.startswith(b"\n")


@given(
    st.lists(st.tuples(st.binary(max_size=30), st.binary(max_size=300)), min_size=1, max_size=5),
    st.binary(max_size=200),
    st.binary(max_size=30),
)
def test_whatever_notes_addresses_and_messages_hold_the_report_has_its_shape(
    failures: list[tuple[bytes, bytes]],
    original: bytes,
    sender: bytes,
) -> None:
    original = original.replace(b"\r", b"")
    content = composed(*failures, original=original, sender=sender)
    head = header.split(content)[0]
    names = re.findall(rb"(?m)^([!-9;-~]+):", head)
    assert names[:6] == [b"Received", b"Date", b"From", b"To", b"Subject", b"Message-ID"]
    message, parts = email.message_from_bytes(content), email.message_from_bytes(content).get_payload()
    assert isinstance(parts, list) and len(parts) == 3
    assert len(qsbmf(text_of(parts[0]))) == len(failures)
    groups = status_groups(parts[1])
    assert len(groups) == 1 + len(failures)
    assert all(group["Action"] == "failed" and group["Status"] for group in groups[1:])
    assert message["Subject"] == "failure notice"


def test_a_guessed_boundary_ends_no_part() -> None:
    guess = b"\n--bound--\n\n--bound\nContent-Type: text/html\n\n<b>\n"
    _, parts = parts_of(composed((b"a@b", bounce.note(b"5.0.0", 0, b"", guess)), original=ORIGINAL + guess))
    assert len(parts) == 3


def test_a_hundred_thousand_failures_fit_in_one_frame() -> None:
    note = bounce.note(b"5.1.1", 550, b"192.0.2.1", b"x" * 100)
    content = composed(*[(b"user%d@far.example" % number, note) for number in range(100_000)])
    assert len(content) < 14 << 20
    _, parts = parts_of(content)
    assert b"more failed addresses" in text_of(parts[0])


@pytest.mark.parametrize(
    "sender, recipient, expanded",
    [
        (b"list-owner-@host-@[]", b"user@dom", b"list-owner-user=dom@host"),
        (b"list-owner-@host-@[]", b"a@b@dom", b"list-owner-a@b=dom@host"),
        (b"list-owner-@host-@[]", b"user", b"list-owner-@host-@[]"),
    ],
)
def test_verp_senders_expand_to_one_for_each_recipient(sender: bytes, recipient: bytes, expanded: bytes) -> None:
    assert verp.is_verp(sender)
    assert verp.expand(sender, recipient) == expanded
    assert verp.collect(sender) == b"list-owner-@host"


@pytest.mark.parametrize("sender", [b"", b"#@[]", b"a@b", b"-@[]", b"local-@[]"])
def test_other_senders_are_no_verp_senders(sender: bytes) -> None:
    assert not verp.is_verp(sender)
    assert verp.collect(sender) == sender


@pytest.mark.parametrize(
    "message, section, body",
    [
        (b"A: 1\n\nbody", b"A: 1\n", b"body"),
        (b"\nbody", b"", b"body"),
        (b"A: 1\n", b"A: 1\n", b""),
        (b"", b"", b""),
    ],
)
def test_the_header_section_ends_at_the_first_blank_line(message: bytes, section: bytes, body: bytes) -> None:
    assert header.split(message) == (section, body)


def test_a_section_is_cut_between_fields() -> None:
    section = b"A: 1\nB: 2\n folded\nC: 3\n"
    assert header.bounded(section, len(section)) == section
    assert header.bounded(section, 15) == b"A: 1\n"
    assert header.bounded(section, 20) == b"A: 1\nB: 2\n folded\n"
    assert header.bounded(section, 3) == b""
