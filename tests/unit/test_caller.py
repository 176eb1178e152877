"""The asking end when its server leaves, or is not there though its socket is."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qmaild.protocol import frames, netstring
from qmaild.runtime import caller as module
from qmaild.runtime import system
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


def test_a_server_that_sends_a_descriptor_where_answers_have_none_is_cut_off(asker: Asker) -> None:
    said: list[Any] = []
    tag = asker.caller.ask(lambda *answer: said.append(answer), frames.Who, b"anybody")
    asker.until(lambda: not asker.server.asked.empty())
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(asker.server._connections[0], [frames.encode(frames.Connected(tag, b"smtp", b"", b"", 25, 0, 1))], [0])
    asker.until(lambda: bool(said) and asker.server.is_closed(0))
    assert said == [(None, -1)]
    asker.until(lambda: len(os.listdir("/proc/self/fd")) == before - 2)  # both ends of the connection


def test_a_descriptor_for_a_server_that_is_gone_is_closed(asker: Asker) -> None:
    memory = system.sealed_memfd(b"x")
    asker.caller.send(frames.Piece(77, 1, 1), memory)
    with pytest.raises(OSError):
        os.fstat(memory)


def test_what_a_server_takes_of_a_stream_is_told_and_answers_nothing(asker: Asker) -> None:
    said: list[frames.Frame] = []
    asker.caller.on_taken = said.append
    stream = asker.caller.ask(lambda answer, descriptor: said.append(answer), frames.Open)
    asker.until(lambda: not asker.server.asked.empty())
    asker.server.next()
    for each in (frames.Taken(stream, 1), frames.Accepted(stream, 7)):
        asker.server.say(each)
    last = asker.ask(b"last")
    asker.server.say(_yes(last))
    asker.until(lambda: b"last" in asker.answers)
    assert said == [frames.Taken(stream, 1), frames.Accepted(stream, 7)]


def test_a_server_that_says_it_has_taken_what_is_no_stream_is_out_of_step(asker: Asker) -> None:
    said: list[Any] = []
    tag = asker.caller.ask(lambda answer, descriptor: said.append(answer), frames.Who, b"anybody")
    asker.until(lambda: not asker.server.asked.empty())
    for each in (frames.Taken(tag, 1), _yes(tag)):
        asker.server.say(each)
    asker.until(lambda: bool(said) and asker.server.is_closed(0))
    assert said == [None] and asker.caller.outstanding == 0


def test_a_stream_goes_on_over_the_connection_that_it_was_opened_on(asker: Asker) -> None:
    stream = asker.caller.ask(lambda answer, descriptor: asker.answers.setdefault(b"stream", answer), frames.Open)
    asker.until(lambda: not asker.server.asked.empty())
    asker.server.next()
    asker.leave()
    asker.caller.send(frames.Abort(stream))
    asker.until(lambda: not asker.server.asked.empty())
    assert asker.server.next() == frames.Abort(stream)
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


class Held:
    """A socket that is listened on while nobody serves it, or a server does that the test plays by hand."""

    def __init__(self, directory: Path) -> None:
        (directory / "run").mkdir()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(directory / "run/lookup.sock"))
        self.listener.listen(5)
        self.loop = asyncio.SelectorEventLoop()
        self.caller = Caller(self.loop, str(directory / "run/lookup.sock"), b"test")
        self.answers: list[Any] = []

    def ask(self, address: bytes, descriptor: int = -1) -> int:
        return self.caller.ask(lambda answer, _: self.answers.append(answer), frames.Who, address, descriptor=descriptor)

    def until(self, is_so: Callable[[], bool]) -> None:
        async def wait() -> None:
            while not is_so():
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(asyncio.wait_for(wait(), SECONDS))

    async def said(self, sock: socket.socket, count: int) -> list[Any]:
        """The next frames of this connection."""
        sock.setblocking(False)
        reader = netstring.Reader(frames.MAX_FRAME)
        said: list[Any] = []
        while len(said) < count:
            data = await asyncio.wait_for(self.loop.sock_recv(sock, 1 << 16), SECONDS)
            assert data, said
            said += [frames.decode(payload) for payload in reader.feed(data)]
        return said

    def hear(self, sock: socket.socket, count: int) -> list[Any]:
        return self.loop.run_until_complete(self.said(sock, count))


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    made = Held(tmp_path)
    yield made
    made.caller.close()
    made.loop.close()
    made.listener.close()


MINE = frames.Hello(frames.VERSION, b"test")
THEIRS = frames.encode(frames.Hello(frames.VERSION, b"local"))


def test_nothing_is_asked_before_the_server_has_said_hello(held: Held) -> None:
    first, second = held.ask(b"first"), held.ask(b"second")
    held.until(lambda: held.caller._channel is not None)
    with held.listener.accept()[0] as server:
        assert held.hear(server, 1) == [MINE]
        held.loop.run_until_complete(asyncio.sleep(0))
        with pytest.raises(BlockingIOError):
            server.recv(1)
        assert held.caller.queued > len("firstsecond")
        server.sendall(THEIRS)
        assert held.hear(server, 2) == [frames.Who(first, b"first"), frames.Who(second, b"second")]
        server.sendall(frames.encode(_yes(second)) + frames.encode(_yes(first)))
        held.until(lambda: len(held.answers) == 2)
    assert held.answers == [_yes(second), _yes(first)]


def test_what_nobody_has_taken_up_in_time_is_none_and_was_never_sent(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.1)
    ours, theirs = os.pipe()
    held.ask(b"first", descriptor=theirs)
    held.until(lambda: held.answers == [None])
    assert os.read(ours, 1) == b""  # the descriptor was closed too
    os.close(ours)
    with held.listener.accept()[0] as server:
        assert server.recv(1 << 16) == frames.encode(MINE)
        assert server.recv(1) == b""
    assert (held.caller.outstanding, held.caller.queued) == (0, 0)
    again = held.ask(b"again")
    held.until(lambda: held.caller._channel is not None)
    with held.listener.accept()[0] as server:
        server.sendall(THEIRS)
        assert held.hear(server, 2) == [MINE, frames.Who(again, b"again")]


def test_a_server_that_goes_before_its_hello_is_followed_by_another(held: Held) -> None:
    tag = held.ask(b"first")
    held.until(lambda: held.caller._channel is not None)
    held.listener.accept()[0].close()
    held.until(lambda: held.caller._channel is None)
    held.until(lambda: held.caller._channel is not None)
    with held.listener.accept()[0] as server:
        server.sendall(THEIRS)
        assert held.hear(server, 2) == [MINE, frames.Who(tag, b"first")]
    assert held.answers == []


@pytest.mark.parametrize(
    "said", [frames.encode(frames.Hello(frames.VERSION - 1, b"local")), THEIRS + THEIRS], ids=["version", "twice"]
)
def test_a_server_of_another_version_or_out_of_step_answers_nothing(held: Held, said: bytes) -> None:
    held.ask(b"first")
    held.until(lambda: held.caller._channel is not None)
    with held.listener.accept()[0] as server:
        server.sendall(said)
        held.until(lambda: held.answers == [None])


def test_an_answer_before_the_hello_is_none_of_ours(held: Held) -> None:
    tag = held.ask(b"first")
    held.until(lambda: held.caller._channel is not None)
    with held.listener.accept()[0] as server:
        server.sendall(frames.encode(_yes(tag)))
        held.until(lambda: held.caller._channel is None)
    assert held.answers == []


def test_a_service_does_nothing_of_what_a_client_has_said_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QMAILD_STANDALONE", str(tmp_path))
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "run/intake.sock"))
        listener.listen(5)
        gone = socket.socket(socket.AF_UNIX)
        gone.connect(str(tmp_path / "run/intake.sock"))
        message = frames.Message(1, 0, b"smtp 192.0.2.1", b"a@b.test", [b"c@d.test"], b"text", 0, 0)
        gone.sendall(frames.encode(MINE) + frames.encode(message))
        gone.close()
        monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "queue"))
        with Running("queue", ["intake", "control"], tmp_path, held={"intake": listener}) as queue:
            queue.client("intake").send(message)
            assert isinstance(queue.clients[0].receive()[0], frames.Accepted)
            asker = queue.client("control")
            asker.send(frames.Command(1, [b"status"]))
            answer, _ = asker.receive()
            assert answer.text.startswith(b"1 messages")  # type: ignore[attr-defined]
