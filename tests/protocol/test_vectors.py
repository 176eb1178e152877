"""Messages and dialogues that other projects test with. They lie beside this tree, if they are there at all."""

from __future__ import annotations

import email
import email.policy
import re
from pathlib import Path

import pytest

from qmaild.message import bounce, fields, header, inject
from qmaild.message.addresslist import Hosts
from qmaild.message.invocation import parse

from .smtp.owner import Owner

VECTORS = Path(__file__).resolve().parents[2].parent / "shared/vectors"
if not VECTORS.is_dir():
    pytest.skip(f"the vectors of other projects are not here ({VECTORS})", allow_module_level=True)

DIALOGUES = {path.stem: path for path in sorted((VECTORS / "james-smtp").glob("*.test"))}
LEFT_OUT = {
    "authplain": "AUTH is not offered",
    "starttls": "STARTTLS is not offered",
    "starttls_session_fixation": "AUTH and STARTTLS are not offered",
    "starttls_with_injection": "STARTTLS is not offered",
}
PLAYED = sorted(DIALOGUES.keys() - LEFT_OUT.keys())

MESSAGES = [*sorted((VECTORS / "mime-malformed").glob("*.eml")), *sorted((VECTORS / "mime-rfc").glob("*.eml"))]
PLACE = inject.Where(Hosts(b"h", b"d.example", b"p.example", frozenset()), b"id.example", 100)
WHEN = inject.When(1_795_424_707, 77, b"account")


def codes(replies: str) -> list[str]:
    """The codes of the replies, without the lines that are not the last of theirs."""
    return re.findall(r"(?m)^(\d{3}) ", replies)


def test_every_dialogue_is_played_or_left_out_by_name() -> None:
    assert DIALOGUES.keys() >= LEFT_OUT.keys()
    assert len(PLAYED) == 4


@pytest.mark.parametrize("name", PLAYED)
def test_a_dialogue_has_the_reply_codes_of_the_server_it_was_written_for(name: str) -> None:
    text = DIALOGUES[name].read_text()
    owner = Owner()
    said = owner.greeting()
    for line in re.findall(r"(?m)^C:(?: (.*))?$", text):
        said += owner.feed(line.encode() + b"\r\n")
    assert codes(said.decode()) == codes("\n".join(re.findall(r"(?m)^S: (.*)$", text)))
    assert len(owner.messages) == 1


def read(message: bytes, piece: int) -> tuple[list[bytes], bytes]:
    """The fields and the body of a message that a program gives to sendmail in pieces of this size."""
    ends, reader = fields.LineEnds(), fields.SectionReader()
    body: bytes | None = None
    for place in range(0, len(message), piece):
        text = ends.feed(message[place : place + piece])
        if body is None:
            body = reader.feed(text)
        else:
            body += text
    left = ends.finish()
    if body is None:
        body = reader.feed(left) if left else None
        body = reader.finish() if body is None else body
        return reader.fields, body
    return reader.fields, body + left


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_strange_message_is_read_alike_however_it_is_cut_and_goes_on_whole(path: Path) -> None:
    message = path.read_bytes()
    lines, body = read(message, len(message))
    assert read(message, 1) == (lines, body)
    assert read(message.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"), 7) == (lines, body)
    try:
        composed = inject.compose(lines, parse(b"sendmail", [b"r@r.example"], []), PLACE, WHEN)
    except inject.Unacceptable as error:
        assert re.match(r"[\w-]+: ", str(error)), "an error names its field"
        return
    assert composed.recipients == (b"r@r.example",)
    section, rest = header.split(composed.section + body)
    assert section + b"\n" == composed.section and rest == body
    again = inject.compose(read(composed.section, 1)[0], parse(b"sendmail", [b"r@r.example"], []), PLACE, WHEN)
    assert again.section == composed.section


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_bounce_of_a_strange_message_is_a_report_with_three_parts(path: Path) -> None:
    original = path.read_bytes().replace(b"\r\n", b"\n")
    note = bounce.note(b"5.1.1", 550, b"192.0.2.1", b"no such user")
    subject = bounce.Subject(7, b"s@s.example", 1_795_424_000, False, ((b"r@r.example", note),), original, True)
    made = bounce.Envelope(b"MAILER-DAEMON@h", b"s@s.example", b"h", 1_795_424_707, b"7.1.qmaild")
    report = email.message_from_bytes(bounce.compose(subject, made), policy=email.policy.compat32)
    assert report.get_content_type() == "multipart/report"
    kinds = [part.get_content_type() for part in report.get_payload()]
    assert kinds[:2] == ["text/plain", "message/delivery-status"] and len(kinds) == 3
