"""Who waits for whom in a session: with a transport and an intake that do nothing by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qmaild.protocol.smtp import session
from qmaild.runtime import doors
from qmaild.runtime.smtp_flow import Flow


class Transport:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.calls.append(name)


class Intake:
    is_congested = False

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def when_drained(self, go_on: Callable[[], None]) -> None:
        self.waiting.append(go_on)


class Door:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.intake: Any = Intake()
        self.sessions = doors.Sessions(loop, lambda count: None, lambda: 60)


@pytest.fixture
def door() -> Iterator[Door]:
    loop = asyncio.SelectorEventLoop()
    yield Door(loop)
    loop.close()


def begun(door: Door) -> Flow:
    flow = Flow(door, session.Profile(b"host.test", b"host.test", 0), b"192.0.2.1", False)
    flow.transport = Transport()
    return flow


def test_a_session_that_is_over_ends_when_its_client_takes_no_replies_though_we_did_not_read_either(door: Door) -> None:
    flow = begun(door)
    flow._is_reading = False
    flow.time_out()
    assert (flow.may_go, flow.transport.calls) == (False, [])  # it was we who did not read
    flow.transport.closing = True
    assert flow.may_go
    flow.time_out()
    assert flow.transport.calls == ["abort"]


def test_who_was_not_read_for_another_reason_also_goes_on_when_the_queue_has_taken_enough(door: Door) -> None:
    flow = begun(door)
    flow._draft = object()  # type: ignore[assignment]
    flow.pause_writing()
    door.intake.is_congested = True
    flow.resume_writing()
    flow.resume_writing()
    assert flow.transport.calls == ["pause_reading"]
    assert len(door.intake.waiting) == 1
    door.intake.is_congested = False
    door.intake.waiting.pop()()
    assert flow.transport.calls == ["pause_reading", "resume_reading"]
    door.intake.is_congested = True
    flow._read_if_possible()
    assert len(door.intake.waiting) == 1, "the next time, too"
