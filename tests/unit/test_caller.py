"""The asking end when its server leaves: what was asked before is answered there, what is asked later by the successor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qmaild.protocol import frames
from qmaild.runtime.caller import Caller

from .peers import Peer
from .processes import SECONDS, Running


class Asker:
    """A caller in a loop, and its server, which answers when the test does."""

    def __init__(self, directory: Path, server: Peer) -> None:
        self.server = server
        self.loop = asyncio.SelectorEventLoop()
        self.caller = Caller(self.loop, str(directory / "run/lookup.sock"), b"test")
        self.answers: dict[bytes, Any] = {}

    def until(self, is_so: Callable[[], bool]) -> None:
        async def wait() -> None:
            while not is_so():
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(asyncio.wait_for(wait(), SECONDS))

    def ask(self, address: bytes) -> int:
        """Ask, and wait until the server has the question."""
        tag = self.caller.ask(lambda answer, descriptor: self.answers.setdefault(address, answer), frames.Who, address)
        self.until(lambda: not self.server.asked.empty())
        assert self.server.next() == frames.Who(tag, address)
        return tag

    def leave(self) -> None:
        """The server leaves; the caller has heard it when it has connected anew."""
        before = self.server.connections
        self.server.say(frames.Leaving(5))
        tag = self.caller.ask(lambda answer, descriptor: None, frames.Who, b"anybody")
        self.until(lambda: not self.server.asked.empty())
        self.server.next()
        if self.server.connections == before:  # it had not heard yet
            self.server.say(_yes(tag))
            self.until(lambda: self.caller._channel is None)


def _yes(tag: int) -> frames.Is:
    return frames.Is(tag, frames.SUCCESS, b"")


@pytest.fixture
def asker(tmp_path: Path) -> Iterator[Asker]:
    with Peer(tmp_path, "lookup", lambda frame: None) as server:
        made = Asker(tmp_path, server)
        yield made
        made.caller.close()
        made.loop.close()


def test_a_server_that_leaves_answers_what_it_was_asked_and_its_successor_the_rest(asker: Asker) -> None:
    before = asker.ask(b"before")
    asker.leave()
    after = asker.ask(b"after")
    assert asker.server.connections == 2
    asker.server.say(_yes(before), connection=0)
    asker.until(lambda: asker.server.is_closed(0))  # with its last answer, by its client
    assert asker.answers == {b"before": _yes(before)}
    asker.server.say(_yes(after))
    asker.until(lambda: b"after" in asker.answers)
    assert asker.answers[b"after"] == _yes(after) and not asker.server.is_closed(1)


def test_a_server_that_was_asked_nothing_is_left_at_once(asker: Asker) -> None:
    tag = asker.ask(b"before")
    asker.server.say(_yes(tag))
    asker.until(lambda: bool(asker.answers))
    asker.server.say(frames.Leaving(5))
    asker.until(lambda: asker.server.is_closed(0))
    assert asker.caller.outstanding == 0


def test_what_a_server_had_not_answered_when_it_went_is_none_and_nothing_else_is(asker: Asker) -> None:
    asker.ask(b"before")
    asker.leave()
    after = asker.ask(b"after")
    asker.server._connections[0].shutdown(2)
    asker.until(lambda: b"before" in asker.answers)
    assert asker.answers == {b"before": None}
    asker.server.say(_yes(after))
    asker.until(lambda: b"after" in asker.answers)


def test_a_stream_goes_on_over_the_connection_that_it_was_opened_on(asker: Asker) -> None:
    stream = asker.caller.ask(lambda answer, descriptor: asker.answers.setdefault(b"stream", answer), frames.Open)
    asker.until(lambda: not asker.server.asked.empty())
    asker.server.next()
    asker.leave()
    asker.caller.send(frames.Data(stream, b"more"))
    asker.until(lambda: not asker.server.asked.empty())
    assert asker.server.next() == frames.Data(stream, b"more")
    asker.server.say(frames.Accepted(stream, 7), connection=0)
    asker.until(lambda: asker.answers == {b"stream": frames.Accepted(stream, 7)} and asker.server.is_closed(0))


def test_a_stopping_service_answers_what_it_is_asked_until_its_clients_have_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QMAILD_STANDALONE", str(tmp_path))
    with Running("local", ["local", "lookup", "control"], tmp_path) as service:
        client = service.client("lookup")
        client.send(frames.Who(1, b"root"))
        assert client.receive()[0].tag == 1  # type: ignore[attr-defined]
        service.process.terminate()
        assert isinstance(client.receive()[0], frames.Leaving)
        client.send(frames.Who(2, b"root"))
        assert client.receive()[0].tag == 2  # type: ignore[attr-defined]
        assert service.process.poll() is None
        client.close()
        assert service.process.wait(SECONDS) == 0
