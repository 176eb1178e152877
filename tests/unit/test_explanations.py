"""What `qmailctl explain` says: the way of an address through the rules, and what a child's words about its files come to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qmaild.commands import qmailctl
from qmaild.control.settings import Settings, parse
from qmaild.delivery import explanations, questions
from qmaild.delivery.explanations import Explanations
from qmaild.policy import aliases
from qmaild.protocol import frames
from qmaild.runtime.control_client import Reply
from qmaild.runtime.resolver import BY_NAME, BY_NOBODY, Mailbox, Target, Unsure
from qmaild.runtime.system import Account

CONTROL = {
    "me": b"host.test", "virtualdomains": b"virt.test:bob-v\nx@one.test:bob-one\n.sub.test:bob\nno.sub.test:\n",
    "percenthack": b"pct.test\n", "smtproutes": b"smart.test:relay.test\n", "defaultdelivery": b"./Maildir/\n",
}  # fmt: skip


class Fixed:
    """Resolver and children at once: bob has a home, everything else is as told."""

    def __init__(self, home: Path) -> None:
        self.home = os.fsencode(home)
        self.answer: Callable[[Any], Any] = questions.answer
        self.asked: list[Any] = []
        self.target: Target | None = None

    def bob(self, dash: bytes, extension: bytes, rule: bytes = BY_NAME) -> Mailbox:
        return Mailbox(Account(b"bob", 1000, 1000, self.home, b""), dash, extension, rule)

    def resolve(self, local: bytes, done: Callable[[Target], None]) -> None:
        if self.target:
            done(self.target)
        else:
            self.mailbox(local, done)

    def mailbox(self, local: bytes, done: Callable[[Target], None]) -> None:
        name, dash, extension = local.partition(b"-")
        done(self.bob(dash, extension) if name == b"bob" else Unsure(b"no account can be looked up now"))

    def alias_user(self, dash: bytes, extension: bytes, done: Callable[[Target], None]) -> None:
        done(self.bob(dash, extension, BY_NOBODY))

    def ask(self, uid: int, answered: Callable[[Any], None], kind: Any, *fields: Any) -> None:
        assert uid == 1000
        self.asked.append(kind(5, *fields))
        answered(self.answer(self.asked[-1]))


@pytest.fixture
def fixed(tmp_path: Path) -> Fixed:
    tmp_path.chmod(0o700)
    return Fixed(tmp_path)


def settings() -> Settings:
    found, problems = parse({name: value for name, value in CONTROL.items()}, b"host.test")
    assert not problems
    return found


def explain(fixed: Fixed, address: bytes, form: bytes = b"full", sender: bytes = b"s@x.test") -> tuple[int, list[str]]:
    said: list[tuple[int, bytes]] = []
    asker = Explanations(fixed, fixed, settings)  # type: ignore[arg-type]
    asker.ask([form, sender, address], lambda code, text: said.append((code, text)))
    ((code, text),) = said
    assert asker.outstanding == 0
    return code, text.decode().split("\n")


def words(lines: list[str]) -> dict[str, str]:
    return {line[:11].strip(): line[11:] for line in lines}


@pytest.mark.parametrize(
    ("address", "rule", "becomes", "remote"),
    [
        (b"a@far.test", "neither locals nor virtualdomains has far.test", None, "the mail hosts of far.test"),
        (b"a@smart.test", "neither locals nor virtualdomains has smart.test", None, "smtproutes has smart.test:relay.test"),
        (b"a@no.sub.test", "virtualdomains has no.sub.test:", None, "the mail hosts of no.sub.test"),
        (b"u%far.test@PCT.test", "neither locals nor virtualdomains has far.test", "u@far.test", "the mail hosts of far.test"),
    ],
)
def test_an_address_elsewhere_is_told_with_the_rule_and_the_way(
    fixed: Fixed, address: bytes, rule: str, becomes: str | None, remote: str
) -> None:
    code, lines = explain(fixed, address)
    found = words(lines)
    assert (code, found["rule"], found.get("becomes"), found["remote"]) == (0, rule, becomes, remote)
    assert found["would do"] == "0+0+0" and not fixed.asked


@pytest.mark.parametrize(
    ("address", "rule", "becomes", "extension"),
    [
        (b"Y@virt.test", "virtualdomains has virt.test:bob-v", "bob-v-Y@virt.test", "v-Y"),
        (b"x@one.test", "virtualdomains has x@one.test:bob-one", "bob-one-x@one.test", "one-x"),
        (b"z@a.sub.test", "virtualdomains has .sub.test:bob", "bob-z@a.sub.test", "z"),
        (b"bob-q", "locals has host.test", "bob-q@host.test", "q"),
    ],
)
def test_an_address_here_is_told_with_the_rule_and_whose_it_is(
    fixed: Fixed, address: bytes, rule: str, becomes: str, extension: str
) -> None:
    (Path(os.fsdecode(fixed.home)) / ".qmail-default").write_text("&a@b.test\n")
    code, lines = explain(fixed, address)
    found = words(lines)
    assert code == 0 and found == {
        "address": address.decode(), "rule": rule, "becomes": becomes, "found by": "the account of this name",
        "user": f"bob, uid 1000, home {os.fsdecode(fixed.home)}", "extension": extension, "DEFAULT": extension,
        "file": os.fsdecode(fixed.home) + "/.qmail-default", "line 1": "forward a@b.test", "would do": "0+1+0",
    }  # fmt: skip


def test_the_file_is_told_with_its_lines_by_number_and_nothing_of_it_is_done(fixed: Fixed) -> None:
    home = Path(os.fsdecode(fixed.home))
    text = "# all kinds\n./Maildir/ \n|touch ran\t\n\n./mbox\n&a@b.test\nc@d.test\n+foo\n"
    (home / ".qmail-list").write_text(text)
    for name in ("owner", "owner-default"):
        (home / f".qmail-list-{name}").touch()
    code, lines = explain(fixed, b"bob-list@host.test")
    assert code == 0 and lines[-8:] == [
        f"file       {home}/.qmail-list", "sender     bob-list-owner-@host.test-@[]", "line 2     maildir ./Maildir/",
        "line 3     program touch ran", "line 5     mbox ./mbox", "line 6     forward a@b.test", "line 7     forward c@d.test",
        "would do   2+2+1",
    ]  # fmt: skip
    assert "sender" not in words(explain(fixed, b"bob-list@host.test", sender=b"")[1])
    assert sorted(path.name for path in home.iterdir()) == [".qmail-list", ".qmail-list-owner", ".qmail-list-owner-default"]


def test_without_a_file_the_default_delivery_is_told(fixed: Fixed) -> None:
    code, lines = explain(fixed, b"bob@host.test")
    found = words(lines)
    assert (code, found["line 1"], found["would do"]) == (0, "maildir ./Maildir/", "1+0+0")
    assert found["file"] == "none, or an empty one: control/defaultdelivery counts"


@pytest.mark.parametrize(
    ("content", "mode", "code", "text"),
    [
        ("&a@b\n+list\n|x\n", 0o600, 111, "deferral (4.7.0) .qmail-x:3: a file or program line where only forwards may stand"),
        ("|x\n", 0o602, 111, "deferral (4.7.0) .qmail-x: the file is writable by everybody"),
        (None, 0, 1, "failure (5.1.1) there is no mailbox of this name here"),
    ],
)
def test_what_would_not_be_delivered_is_told_with_the_reason(
    fixed: Fixed, content: str | None, mode: int, code: int, text: str
) -> None:
    path = Path(os.fsdecode(fixed.home)) / ".qmail-x"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    said, lines = explain(fixed, b"bob-x@host.test")
    assert (said, lines[-1]) == (code, text)
    assert explain(fixed, b"bob-x@host.test", b"lines") == (code, [text])


def test_an_alias_is_told_with_all_that_it_leads_to(fixed: Fixed) -> None:
    fixed.target = aliases.Expansion((b"a@far.test",), (b"|cat", b":include:/list"), (b"bob",), True)
    code, lines = explain(fixed, b"staff@host.test")
    assert code == 0 and [line[:11].strip() for line in lines] == [
        "address", "rule", "alias", "sender", "entry", "found by", "user", "file", "line 1", "found by", "user", "extension",
        "line 1", "line 2", "would do"]  # fmt: skip
    assert [lines[place][11:] for place in (2, 3, 4, 8, -3, -2, -1)] == [
        "staff",
        "owner-staff@host.test", "forward a@far.test", "maildir ./Maildir/", "program cat", "include /list", "1+1+1"]  # fmt: skip
    fixed.target = aliases.Expansion((), (), (b"nobody",), False)
    assert explain(fixed, b"staff@host.test")[0] == 111


def test_what_cannot_be_told_now_is_a_deferral(fixed: Fixed) -> None:
    fixed.target = Unsure(b"the alias file cannot be used")
    assert explain(fixed, b"bob@host.test")[1][-1] == "deferral (4.3.0) the alias file cannot be used"
    fixed.target = None
    lies = frames.Explained(5, b"Q", b"", b"", b"", b"", b"", [], [], 0, 0, 0)
    for lie in (None, frames.Is(5, b"K", b""), lies, lies._replace(outcome=b"K", numbers=[1])):
        fixed.answer = lambda question, lie=lie: lie  # type: ignore[misc]
        code, lines = explain(fixed, b"bob@host.test")
        assert (code, lines[-1]) == (111, "deferral (4.3.0) the deliverer of this user gave no sensible answer")


def test_no_child_adds_a_line_of_its_own(fixed: Fixed) -> None:
    forged = frames.Explained(5, b"K", b"2.0.0", b"w\nline 9", b"f\n", b"d\x1b[0m", b"n", [1], [b"forward\nx"], 0, 0, 1)
    fixed.answer = lambda question: forged
    lines = explain(fixed, b"bob@host.test")[1]
    assert [line for line in lines if line.startswith("line 9")] == []
    assert all(line.isprintable() for line in lines)


def test_a_long_file_is_told_by_its_beginning_and_counted_whole(fixed: Fixed) -> None:
    (Path(os.fsdecode(fixed.home)) / ".qmail").write_bytes(b"&" + b"x" * 5000 + b"\n" + b"a@b\n" * 200_000)
    code, lines = explain(fixed, b"bob@host.test", b"lines")
    assert (code, len(lines), lines[-1]) == (0, questions.MAX_LINES + 1, "did 0+200001+0")
    assert len(lines[0]) == questions.MAX_LINE


@pytest.mark.parametrize("asked", [[], [b"full"], [b"x", b"", b"a"], [b"full", b"", b""], [b"full", b"", b"a\nb"],
                                   [b"full", b"s\0", b"a"], [b"full", b"", b"a" * 5000], [b"full", b"", b"a", b"b"]])  # fmt: skip
def test_a_question_that_is_none_is_a_wrong_call(fixed: Fixed, asked: list[bytes]) -> None:
    said: list[int] = []
    Explanations(fixed, fixed, settings).ask(asked, lambda code, text: said.append(code))  # type: ignore[arg-type]
    assert said == [100]


def test_more_questions_than_people_ask_are_put_off(fixed: Fixed) -> None:
    asker = Explanations(fixed, fixed, settings)  # type: ignore[arg-type]
    fixed.ask = lambda *words: None  # type: ignore[method-assign]
    said: list[int] = []
    for _ in range(explanations.MAX_QUESTIONS + 1):
        asker.ask([b"full", b"", b"bob@host.test"], lambda code, text: said.append(code))
    assert said == [111] and asker.outstanding == explanations.MAX_QUESTIONS


def test_qmailctl_prints_an_answer_and_returns_its_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, ...]] = []

    def ask(*words: str) -> Reply:
        asked.append(words)
        return Reply(1, "failure (5.1.1) x")

    monkeypatch.setattr(qmailctl, "ask", ask)
    assert qmailctl.main(["explain", "a@b"]) == 1
    assert capsys.readouterr() == ("failure (5.1.1) x\n", "")
    assert qmailctl.main(["explain", "-n", "--sender", "<>", "a@b"]) == 1
    assert capsys.readouterr() == ("", "failure (5.1.1) x\n")
    assert asked == [("local", "explain", "full", "sender@invalid", "a@b"), ("local", "explain", "lines", "", "a@b")]
