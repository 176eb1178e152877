"""What local makes of the answers of a child, which may be anybody's: nothing a child says harms another recipient."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from qmaild.control import settings
from qmaild.delivery.dispatch import MAX_TEXT, Dispatcher
from qmaild.policy.aliases import Expansion
from qmaild.protocol import frames
from qmaild.runtime.caller import Caller
from qmaild.runtime.intake import Intake
from qmaild.runtime.resolver import Mailbox, Target
from qmaild.runtime.system import Account

SETTINGS, _ = settings.parse({}, b"here.test")
BOB = Mailbox(Account(b"bob", 1000, 1000, b"/home/bob", b""), b"", b"")


class Scene:
    """Stands for resolver, children and channel: every local part leads to `target`, every child answers `answer`."""

    def __init__(self, answer: Any, target: Target = BOB) -> None:
        self.answer, self.target = answer, target
        self.is_open = True
        self.asked: list[frames.Deliver] = []
        self.reports: list[frames.Report] = []

    def resolve(self, local: bytes, done: Callable[[Target], None]) -> None:
        done(self.target)

    def alias_user(self, dash: bytes, extension: bytes, done: Callable[[Target], None]) -> None:
        done(BOB)

    mailbox = resolve

    def ask(self, uid: int, done: Callable[[Any], None], kind: Callable[..., Any], *fields: Any, descriptor: int = -1,
            is_wanted: Callable[[], bool]) -> None:  # fmt: skip
        self.asked.append(kind(1, *fields))
        done(self.answer)

    def send(self, frame: frames.Report) -> None:
        self.reports.append(frame)

    def run(self) -> frames.Report:
        loop = asyncio.SelectorEventLoop()
        caller = Caller(loop, "/nonexistent/intake", b"local")
        any_self: Any = self
        dispatcher = Dispatcher(any_self, any_self, any_self, Intake(caller), lambda: SETTINGS)
        order = frames.Order(5, 7, 0, 0, b"local", b"s@x.test", [3], [b"bob@here.test"], 10, b"S: x\n\nhello\n", 0)
        dispatcher.order(any_self, order, -1)
        while not self.reports:
            loop.call_soon(loop.stop)
            loop.run_forever()
        loop.close()
        assert dispatcher.outstanding == 0 and len(self.reports) == 1
        return self.reports[0]


def delivered(**fields: Any) -> frames.Delivered:
    return frames.Delivered(1, b"K", b"2.0.0", b"did 1+0+0", b"", [])._replace(**fields)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        frames.NeedsProgram(1),
        frames.Is(1, b"K", b""),
        delivered(outcome=b"X"),
        delivered(outcome=b"KK"),
        delivered(outcome=b""),
        delivered(enhanced=b"2.0.0\r\n250"),
        delivered(enhanced=b"9.0.0"),
        delivered(forwards=[b"a" * 2000]),
        delivered(forwards=[b"a\0b"]),
        delivered(forwards=[b"a@b"], new_sender=b"x\ny"),
    ],
)
def test_an_answer_that_makes_no_sense_is_a_temporary_failure(answer: Any) -> None:
    report = Scene(answer).run()
    assert (report.outcomes, report.codes, report.enhanced) == (b"Z", [450], [b"4.3.0"])


def test_a_sensible_answer_is_passed_on_with_a_bounded_text() -> None:
    report = Scene(delivered(outcome=b"D", enhanced=b"5.3.0", text=b"x" * 100_000)).run()
    assert report == frames.Report(5, b"D", [550], [b"5.3.0"], [b"x" * MAX_TEXT], [b"bob"])


def test_a_child_that_wants_programs_twice_is_asked_twice_and_no_more() -> None:
    scene = Scene(frames.NeedsProgram(1))
    scene.run()
    assert len(scene.asked) == 2


def test_an_alias_that_leads_nowhere_is_a_success_that_did_nothing() -> None:
    report = Scene(delivered(), Expansion((), (), (), False)).run()
    assert report.outcomes == b"K"


def test_an_alias_with_lines_is_followed_by_the_alias_users_child_alone() -> None:
    scene = Scene(delivered(), Expansion((), (b"|true", b"/var/x"), (), False))
    assert scene.run().outcomes == b"K"
    assert [(ask.instructions, ask.fixed) for ask in scene.asked] == [(b"|true\n/var/x", 1)]


def test_a_failed_step_of_an_alias_forwards_nothing() -> None:
    scene = Scene(delivered(outcome=b"Z", enhanced=b"4.2.1"), Expansion((b"a@b.test",), (b"|false",), (), False))
    assert scene.run().enhanced == [b"4.2.1"]


def test_nothing_is_begun_for_an_asker_that_is_gone() -> None:
    scene = Scene(None)
    scene.is_open = False
    assert scene.run().outcomes == b"Z"  # to nobody: its channel drops it
    assert scene.asked == []
