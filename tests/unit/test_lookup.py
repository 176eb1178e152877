"""What doors ask of local, and that nobody waits for it twice while it is away."""

from __future__ import annotations

import socket
import types
from typing import Any

import pytest

from qmaild.protocol import frames
from qmaild.runtime import caller, controls
from qmaild.runtime.intake import Intake
from qmaild.runtime.lookup import Lookup
from qmaild.runtime.smtp_server import Server

from .processes import SECONDS
from .test_caller import MINE, THEIRS, Held, held

__all__ = ["held"]


def test_when_one_has_waited_in_vain_nobody_else_does_until_local_is_heard_of(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caller, "PATIENCE_SECONDS", 0.1)
    lookup, answers = Lookup(held.loop, held.caller), list[Any]()
    lookup.ask(b"first", answers.append)
    assert answers == []
    held.until(lambda: answers == [None])
    monkeypatch.setattr(caller, "PATIENCE_SECONDS", SECONDS)
    for number in range(50):
        lookup.ask(b"next%d" % number, answers.append)
    assert answers == [None] * 51
    assert held.caller.outstanding == 1, "one question waits for all"
    held.until(lambda: held.caller._channel is not None)
    held.listener.accept()[0].close()  # the connection of the first
    with held.listener.accept()[0] as server:
        server.sendall(THEIRS)
        assert held.hear(server, 2) == [MINE, frames.Who(2, b"next0")]
        server.sendall(frames.encode(frames.Is(2, frames.SUCCESS, b"")))
        held.until(lambda: lookup.known(b"next0") is not None)
        lookup.ask(b"second", answers.append)
        assert len(answers) == 51
        assert held.hear(server, 1) == [frames.Who(3, b"second")]
        server.sendall(frames.encode(frames.Is(3, frames.PERMANENT, b"")))
        held.until(lambda: len(answers) == 52)
    assert answers[-1].outcome == frames.PERMANENT


def test_a_session_with_many_recipients_is_answered_at_once_while_local_is_away(
    held: Held, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(caller, "PATIENCE_SECONDS", 0.5)
    (tmp_path / "me").write_text("host.test\n")
    queue: Any = types.SimpleNamespace(on_drained=None, on_taken=None)
    server = Server(held.loop, controls.read(str(tmp_path)), Intake(queue), Lookup(held.loop, held.caller), lambda count: None)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        server.accept(listener.accept()[0])
        client.sendall(b"EHLO x\r\nMAIL FROM:<a@b.test>\r\n" + b"".join([b"RCPT TO:<u%d@host.test>\r\n" % n for n in range(50)])
                       + b"NOOP\r\n")  # fmt: skip
        client.setblocking(False)
        said = b""

        def is_answered() -> bool:
            nonlocal said
            try:
                said += client.recv(1 << 16)
            except BlockingIOError:
                return False
            return said.count(b"\r\n451 4.3.0 ") == 50

        held.until(is_answered)
