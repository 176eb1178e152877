"""qmail-inject and sendmail as programs: what they make of a message, who sends it and who gets it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from qmaild.protocol import frames
from tests.unit.peers import Peer, accepting
from tests.unit.processes import ROOT, SECONDS, Running

NAMES = ("qmail-inject", "sendmail", "newaliases")
ALL = b"Date: x\nMessage-ID: <x>\nFrom: f@f.test\nTo: t@t.test\n"
DATE = rb"\d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d -0000\n"


class Sent(NamedTuple):
    """What came of a call. Without a message, sender is "-"."""

    code: int
    output: bytes
    sender: bytes = b"-"
    recipients: list[bytes] | None = None
    content: bytes = b""  # below the Received field that inject puts on top
    pid: int = 0

    @property
    def fields(self) -> list[bytes]:
        """The lines of the header section."""
        return self.content.partition(b"\n\n")[0].split(b"\n")


class Programs:
    """The programs by their names, the service behind them, and an intake that shows what the queue is given."""

    def __init__(self, top: Path, intake: Peer) -> None:
        self.top = top
        self._intake = intake
        for name in NAMES:
            shutil.copy(ROOT / "build/client", top / name)

    def run(self, name: str, *words: str, given: bytes = b"", **variables: str) -> Sent:
        environment = {"QMAILD_RUN": str(self.top / "run"), "USER": "u", **variables}
        with subprocess.Popen([self.top / name, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env={key: value for key, value in environment.items() if value}) as process:  # fmt: skip
            output, _ = process.communicate(given, SECONDS)
            if self._intake.asked.empty():
                return Sent(process.returncode, output)
            message = self._intake.next()
        assert isinstance(message, frames.Message) and self._intake.asked.empty()
        content = re.sub(rb"\AReceived: .*\n(?:[ \t].*\n)*", b"", message.content)
        return Sent(process.returncode, output, message.sender, list(message.recipients), content, process.pid)

    def inject(self, given: bytes, *words: str, **variables: str) -> Sent:
        """Run qmail-inject; it must succeed."""
        sent = self.run("qmail-inject", *words, given=given, **variables)
        assert sent.code == 0
        return sent


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    top = tmp_path_factory.mktemp("i")
    (top / "aliases").write_text("root: joe\n")
    settings = {"defaulthost": "h.test", "defaultdomain": "d.test", "plusdomain": "p.test", "idhost": "id.test"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QMAILD_STANDALONE", str(top))
        patch.setenv("QMAILD_ALIASES", str(top / "aliases"))
        with Peer(top, "intake", accepting) as intake, Running("inject", ["inject"], top, **settings):
            yield Programs(top, intake)


def test_f122_what_a_message_must_have_is_put_on_top_in_order(programs: Programs) -> None:
    sent = programs.inject(b"Subject: s\n\nbody\n", "r@r.test")
    expected = (rb"Date: " + DATE + rb"Message-ID: <\d{14}\.%d\.qmail@id\.test>\nFrom: u@h\.test\n" % sent.pid
                + rb"Cc: recipient list not shown: ;\nSubject: s\n\nbody\n")  # fmt: skip
    assert re.fullmatch(expected, sent.content)


def test_f123_a_blank_parts_two_addresses(programs: Programs) -> None:
    sent = programs.inject(b"To: a b\n")
    assert b"To: a@h.test, b@h.test" in sent.fields
    assert sent.recipients == [b"b@h.test", b"a@h.test"]


def test_f124_hosts_are_completed(programs: Programs) -> None:
    assert b"To: x@cs.p.test, y@dom.d.test, z@full.dom" in programs.inject(b"To: x@cs+, y@dom, z@full.dom.\n").fields


def test_f125_a_route_is_dropped(programs: Programs) -> None:
    sent = programs.inject(b"To: W <@r:w@q.r>\n")
    assert b"To: W <w@q.r>" in sent.fields
    assert sent.recipients == [b"w@q.r"]


def test_f126_bcc_counts_and_goes_and_return_path_becomes_the_sender(programs: Programs) -> None:
    sent = programs.inject(ALL + b"Bcc: hidden@b.test\nContent-Length: 9\nReturn-Path: <back@p.test>\n")
    assert sent.content == ALL + b"\n"
    assert (sent.sender, sent.recipients) == (b"back@p.test", [b"t@t.test", b"hidden@b.test"])


def test_f127_the_recipients_of_a_field_come_from_right_to_left(programs: Programs) -> None:
    assert programs.inject(b"To: a@a.test, b@b.test, c@c.test\n").recipients == [b"c@c.test", b"b@b.test", b"a@a.test"]


def test_f128_a_resent_message_goes_to_whom_it_is_resent_to(programs: Programs) -> None:
    sent = programs.inject(b"Resent-To: r@r.test\nTo: t@t.test\n")
    assert [line.partition(b":")[0] for line in sent.fields] == [
        b"Resent-Date", b"Resent-Message-ID", b"Resent-From", b"Resent-To", b"To"]  # fmt: skip
    assert sent.recipients == [b"r@r.test"]


@pytest.mark.parametrize("field", [b"From: (x\n", b"To: (x\n"])
def test_f129_a_field_whose_addresses_cannot_be_read_is_refused(programs: Programs, field: bytes) -> None:
    # Differs from notqmail, which passes To on and sends to nobody in it; qmail 1.03 refuses both.
    sent = programs.run("qmail-inject", given=field)
    assert (sent.code, sent.sender) == (100, b"-")
    assert b"To: (x" in programs.inject(b"To: (x\n", "r@r.test").fields


def test_f130_a_line_of_an_mbox_becomes_a_field(programs: Programs) -> None:
    assert programs.inject(b"Date: x\nFrom x y\nTo: t@t.test\n").fields[-3:] == [
        b"Date: x", b"MBOX-Line: From x y", b"To: t@t.test"]  # fmt: skip


def test_f131_a_line_that_is_no_field_begins_the_body(programs: Programs) -> None:
    assert programs.inject(ALL + b"no field\nTo: x@x.test\n").content == ALL + b"\nno field\nTo: x@x.test\n"


def test_f132_letters_of_qmailinject(programs: Programs) -> None:
    assert b"From: u@h.test (Full Name)" in programs.inject(b"To: t@t.test\n", QMAILINJECT="c", NAME="Full Name").fields
    assert b'From: "Full Name" <u@h.test>' in programs.inject(b"To: t@t.test\n", NAME="Full Name").fields
    for letters, expected in (("m", rb"u-\d+\.%d@h\.test"), ("rm", rb"u-\d+\.%d-@h\.test-@\[\]"), ("r", rb"u-@h\.test-@\[\]")):
        sent = programs.inject(b"To: t@t.test\n", QMAILINJECT=letters)
        assert re.fullmatch(expected % sent.pid if b"%d" in expected else expected, sent.sender)


def test_f133_r_leaves_f_alone_and_changes_a_return_path(programs: Programs) -> None:
    assert programs.inject(b"To: t@t.test\n", "-fa@b.test", QMAILINJECT="r").sender == b"a@b.test"
    assert programs.inject(b"To: t@t.test\nReturn-Path: a@b.test\n", QMAILINJECT="r").sender == b"a@b.test-@[]"


def test_f134_a_list_of_qmailmftfile_makes_a_mail_followup_to(programs: Programs) -> None:
    lists = programs.top / "lists"
    lists.write_text("list@l.test\n")
    given = b"To: list@l.test, b@b.test\nCc: c@c.test\n"
    assert b"Mail-Followup-To: b@b.test, list@l.test, c@c.test" in programs.inject(given, QMAILMFTFILE=str(lists)).fields
    assert b"Mail-Followup-To" not in programs.inject(b"To: b@b.test\n", QMAILMFTFILE=str(lists)).content


def test_f135_without_a_variable_the_author_is_the_account(programs: Programs) -> None:
    name = subprocess.run(["id", "-un"], capture_output=True, check=True).stdout.strip()
    # Differs: `anonymous` in qmail.
    assert b"From: %b@h.test" % name in programs.inject(b"To: t@t.test\n", USER="").fields
    for variables, user in (({"LOGNAME": "l"}, b"l"), ({"LOGNAME": "l", "USER": "u"}, b"u"), ({"QMAILUSER": "q"}, b"q")):
        assert b"From: %b@h.test" % user in programs.inject(b"To: t@t.test\n", **{"USER": "", **variables}).fields


@pytest.mark.parametrize(("words", "recipients"), [
    (["-a", "x@x.test"], [b"x@x.test"]), (["-h", "x@x.test"], [b"t@t.test"]),
    (["-H", "x@x.test"], [b"x@x.test", b"t@t.test"]), (["x@x.test"], [b"x@x.test"]), ([], [b"t@t.test"]),
    (["-A"], [b"t@t.test"]),
])  # fmt: skip
def test_f136_who_receives_by_arguments_and_by_the_message(programs: Programs, words: list[str], recipients: list[bytes]) -> None:
    assert programs.inject(ALL, *words).recipients == recipients


def test_f137_n_prints_the_message_below_its_return_path_and_queues_nothing(programs: Programs) -> None:
    sent = programs.inject(ALL + b"\nbody\n", "-n", "-fs@s.test")
    assert (sent.output, sent.sender) == (b"Return-Path: <s@s.test>\n" + ALL + b"\nbody\n", b"-")


def test_f138_sendmail_t_takes_recipients_of_both(programs: Programs) -> None:
    sent = programs.run("sendmail", "-t", "a@a.test", given=b"To: b@b.test\n")
    assert (sent.code, sent.recipients) == (0, [b"a@a.test", b"b@b.test"])


def test_f139_what_sendmail_does_not_do(programs: Programs) -> None:
    # Differs: qmail's exits with 100 for each of these.
    calls = ("-bd", "-bi", "-q", "-n r@r.test", "-N never r@r.test")
    assert [programs.run("sendmail", *words.split()).code for words in calls] == [os.EX_USAGE, 0, 0, 0, 0]


def test_f140_sendmail_f_is_the_author_without_a_name(programs: Programs) -> None:
    sent = programs.run("sendmail", "-f", "x@y.test", "-F", "Name", "r@r.test", NAME="Other")
    assert sent.sender == b"x@y.test"
    assert b"From: x@y.test" in sent.fields


@pytest.mark.parametrize("name", ["sendmail", "qmail-inject"])
def test_f141_a_lone_dot_does_not_end_a_message(programs: Programs, name: str) -> None:
    assert programs.run(name, "r@r.test", given=ALL + b"\na\n.\nb\n").content == ALL + b"\na\n.\nb\n"


def test_f142_sendmail_bs_takes_recipients_anywhere(programs: Programs) -> None:
    said = b"HELO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<r@anywhere.test>\r\nDATA\r\nSubject: x\r\n\r\n.\r\nQUIT\r\n"
    sent = programs.run("sendmail", "-bs", given=said)
    assert re.findall(rb"(?m)^\d+", sent.output) == [b"220", b"250", b"250", b"250", b"354", b"250", b"221"]
    assert (sent.code, sent.recipients) == (0, [b"r@anywhere.test"])


def test_f143_newaliases_looks_at_the_file_there_is(programs: Programs) -> None:
    # Differs: qmail's exits with 100.
    assert programs.run("newaliases").code == 0
    (programs.top / "aliases").write_text("no colon\n")
    assert programs.run("newaliases").code == os.EX_DATAERR
    (programs.top / "aliases").write_text("root: joe\n")
