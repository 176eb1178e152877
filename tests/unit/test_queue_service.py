"""The queue service as a process: doors on one side, a send on the other, an administrator beside it."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qmaild.protocol import frames, netstring
from qmaild.queue.intake import MAX_PIECE
from qmaild.runtime import system

from .processes import SECONDS, Client, Running


class Send:
    """What the queue connects to: takes jobs, says what came of them."""

    def __init__(self, directory: Path) -> None:
        (directory / "run").mkdir(exist_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / "run/manage.sock"))
        self._listener.listen()
        self._listener.settimeout(SECONDS)
        self._sock: socket.socket | None = None
        self._frames: list[Any] = []
        self._descriptors: list[int] = []

    def receive(self) -> Any:
        """The next frame; a descriptor that came with it is self.descriptor."""
        if self._sock is None:
            self._sock, _ = self._listener.accept()
            self._sock.settimeout(SECONDS)
            self._reader = netstring.Reader(frames.MAX_FRAME)
            assert isinstance(self.receive(), frames.Hello)
        while not self._frames:
            data, descriptors, _, _ = socket.recv_fds(self._sock, 1 << 16, 16)
            assert data, "the queue closed the connection"
            self._descriptors += descriptors
            self._frames += [frames.decode(payload) for payload in self._reader.feed(data)]
        frame = self._frames.pop(0)
        self.descriptor = self._descriptors.pop(0) if getattr(frame, "descriptor", 0) else -1
        return frame

    def send(self, *answers: frames.Frame) -> None:
        assert self._sock is not None
        self._sock.sendall(b"".join(frames.encode(answer) for answer in answers))

    def wait_for_connection(self, seconds: float) -> None:
        """TimeoutError if the queue does not connect within so long."""
        self._listener.settimeout(seconds)
        try:
            self._sock, _ = self._listener.accept()
        finally:
            self._listener.settimeout(SECONDS)

    def quiet_after(self, seconds: float) -> None:
        """Wait no longer than this for the next frame."""
        assert self._sock is not None
        self._sock.settimeout(seconds)

    def drop(self) -> None:
        assert self._sock is not None
        self._sock.close()
        self._sock = None
        self._frames = []

    def close(self) -> None:
        if self._sock:
            self._sock.close()
        self._listener.close()


@pytest.fixture
def send(tmp_path: Path) -> Iterator[Send]:
    end = Send(tmp_path)
    yield end
    end.close()


@pytest.fixture
def queue(tmp_path: Path, send: Send, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "queue"))
    monkeypatch.setenv("QMAILD_STANDALONE", str(tmp_path))  # every peer is our own uid
    with start(tmp_path) as running:
        yield running
        send.close()  # a queue that stops waits for its answers


def start(directory: Path) -> Running:
    (directory / "run/control").mkdir(parents=True, exist_ok=True)
    for name in ("intake", "control"):
        (directory / f"run/{name}.sock").unlink(missing_ok=True)
    return Running("queue", ["intake", "control"], directory)


def message(
    tag: int, *recipients: bytes, sender: bytes = b"a@b.test", content: bytes = b"Subject: x\n\nhi\n",
    serves: tuple[int, int] = (0, 0),
) -> frames.Message:  # fmt: skip
    return frames.Message(tag, 0, b"smtp 192.0.2.1", sender, list(recipients), content, *serves)


def accept(door: Client, *recipients: bytes, **how: Any) -> int:
    door.send(message(1, *recipients, **how))
    answer, _ = door.receive()
    assert isinstance(answer, frames.Accepted)
    return answer.number


def ask(running: Running, *words: str) -> tuple[int, str]:
    client = running.client("control")
    client.send(frames.Command(7, [word.encode() for word in words]))
    answer, _ = client.receive()
    client.close()
    assert isinstance(answer, frames.Answer)
    return answer.code, answer.text.decode()


def listed(running: Running, verb: str = "list") -> list[str]:
    """The lines about all messages, slice by slice."""
    lines, after = [], "0"
    while True:
        code, text = ask(running, "sweep", verb, after)
        assert code == 0
        head, *more = text.splitlines()
        lines += more
        after = head.split()[0]
        if after == "0":
            return lines


def until_empty(running: Running) -> None:
    deadline = time.monotonic() + SECONDS
    while listed(running):
        assert time.monotonic() < deadline, "the queue did not empty"


def test_an_accepted_message_is_handed_out_whole_and_ends_when_all_are_done(queue: Running, send: Send) -> None:
    number = accept(queue.client("intake"), b"c@d.test", b"e@f.test")
    job = send.receive()
    assert isinstance(job, frames.Job)
    assert (job.number, job.origin, job.sender, job.content) == (number, b"smtp 192.0.2.1", b"a@b.test", b"Subject: x\n\nhi\n")
    assert dict(zip(job.indexes, job.recipients, strict=True)) == {0: b"c@d.test", 1: b"e@f.test"}
    send.send(frames.Done(number, [0]), frames.Done(number, [1]))
    until_empty(queue)


def test_many_messages_in_flight_are_answered_each_once(queue: Running, send: Send) -> None:
    door = queue.client("intake")
    for tag in range(500):
        door.send(message(tag, b"c@d.test"))
    answers = [door.receive()[0] for _ in range(500)]
    assert sorted(answer.tag for answer in answers) == list(range(500))
    assert len({answer.number for answer in answers}) == 500
    handed = [send.receive().number for _ in range(500)]
    assert sorted(handed) == sorted(answer.number for answer in answers)


def test_what_was_accepted_survives_kill_9_and_a_lost_send_makes_it_due_again(queue: Running, send: Send, tmp_path: Path) -> None:
    number = accept(queue.client("intake"), b"c@d.test")
    assert send.receive().number == number
    send.drop()
    assert send.receive().number == number
    queue.process.kill()
    queue.process.wait()
    send.drop()
    with start(tmp_path):
        assert send.receive().number == number


def test_a_deferral_is_kept_and_an_administrator_can_retry_it(queue: Running, send: Send) -> None:
    number = accept(queue.client("intake"), b"c@d.test")
    send.receive()
    due = time.time_ns() // 1000 + 3_600_000_000
    send.send(frames.Deferred(number, b"remote:d.test", due, [0]))
    deadline = time.monotonic() + SECONDS
    while "waiting" not in (shown := ask(queue, "show", str(number), "0")[1]):
        assert time.monotonic() < deadline, shown
    assert "remote:d.test" in shown and "c@d.test" in shown
    entry = json.loads(listed(queue, "json")[0])
    assert entry["recipients"][0]["lane"] == "remote:d.test" and abs(entry["recipients"][0]["due"] * 1e6 - due) < 1e3
    assert ask(queue, "retry", str(number))[0] == 0
    assert send.receive().number == number


def test_queueonly_accepts_and_keeps_until_it_is_taken_back(queue: Running, send: Send) -> None:
    (queue.control / "queueonly").write_text("1\n")
    assert ask(queue, "reload") == (0, "")
    number = accept(queue.client("intake"), b"c@d.test")
    with pytest.raises(TimeoutError):
        send.wait_for_connection(0.3)
    assert "queueonly" in ask(queue, "status")[1]
    (queue.control / "queueonly").unlink()
    assert ask(queue, "reload") == (0, "")
    assert send.receive().number == number


def test_a_failure_is_finished_by_a_bounce_that_ends_the_message(queue: Running, send: Send) -> None:
    number = accept(queue.client("intake"), b"c@d.test", b"e@f.test")
    send.receive()
    send.send(frames.Failed(number, 1, b"no such"), frames.Done(number, [0]))
    finish = send.receive()
    assert isinstance(finish, frames.Finish)
    assert (finish.number, finish.recipients, finish.notes) == (number, [b"e@f.test"], [b"no such"])
    send.send(frames.Bounce(number, b"", [b"a@b.test"], b"Subject: failure notice\n\n"))
    answers = [send.receive(), send.receive()]
    bounced = next(answer for answer in answers if isinstance(answer, frames.Bounced))
    job = next(answer for answer in answers if isinstance(answer, frames.Job))
    assert bounced.number == number and bounced.bounce == job.number
    assert (job.sender, job.origin) == (b"", b"bounce")
    send.send(frames.Done(job.number, [0]))
    until_empty(queue)


def test_long_notes_about_many_recipients_never_make_a_frame_too_large(queue: Running, send: Send) -> None:
    count = 6000  # with a page of text each they are more than one frame may be
    number = accept(queue.client("intake"), *[b"u%d@d.test" % place for place in range(count)])
    send.receive()
    send.send(*[frames.Failed(number, place, b"5.1.1 550 x\n" + b"n" * 4000) for place in range(count)])
    finish = send.receive()
    assert isinstance(finish, frames.Finish) and len(finish.recipients) == count
    assert all(note.startswith(b"5.1.1 550 x\n") for note in finish.notes)
    assert sum(map(len, finish.notes)) < 1 << 20  # so much is kept in memory, too


def test_a_large_message_streams_in_and_goes_out_as_a_descriptor(queue: Running, send: Send) -> None:
    door = queue.client("intake")
    body = os.urandom(60_000) * 10
    door.send(frames.Open(5))
    for place in range(0, len(body), 60_000):
        assert door.piece(5, body[place : place + 60_000]) == frames.Taken(5, 60_000)
    door.send(frames.End(5, 1, b"smtp 192.0.2.1", b"a@b.test", [b"c@d.test"], b"Received: here\n", 0, 0))
    answer, _ = door.receive()
    job = send.receive()
    assert (job.number, job.content, job.flags, job.size) == (answer.number, b"Received: here\n", 1, 15 + len(body))
    assert os.pread(send.descriptor, len(body) + 1, 0) == body
    with pytest.raises(OSError):
        os.write(send.descriptor, b"x")
    os.close(send.descriptor)
    send.send(frames.Done(job.number, [0]))
    until_empty(queue)


def _memory(content: bytes) -> int:
    memory = os.memfd_create("open", os.MFD_ALLOW_SEALING)
    os.write(memory, content)
    return memory


@pytest.mark.parametrize(("make", "size"), [
    (lambda: _memory(b"x" * 10), 10),  # may change while it is read
    (lambda: os.open("/dev/zero", os.O_RDONLY), 10),
    (lambda: os.pipe2(os.O_NONBLOCK)[0], 10),  # reading it may take for ever
    (lambda: system.sealed_memfd(b"x" * 10), 11),
    (lambda: system.sealed_memfd(b"x" * 10), 9),
    (lambda: system.sealed_memfd(b""), 0),
    (lambda: system.sealed_memfd(bytes(MAX_PIECE + 1)), MAX_PIECE + 1),
])  # fmt: skip
def test_a_piece_that_is_not_sealed_memory_of_its_size_ends_the_connection(
    queue: Running, make: Callable[[], int], size: int
) -> None:
    honest, door = queue.client("intake"), queue.client("intake")
    accept(honest, b"c@d.test")
    descriptors = len(os.listdir(f"/proc/{queue.process.pid}/fd"))
    door.send(frames.Open(5))
    memory = make()
    door.send(frames.Piece(5, size, 1), memory)
    os.close(memory)
    assert door.is_closed_by_service()
    accept(honest, b"c@d.test")
    assert len(os.listdir(f"/proc/{queue.process.pid}/fd")) <= descriptors


def test_a_piece_of_a_message_that_was_refused_is_dropped(queue: Running) -> None:
    (queue.control / "databytes").write_text("100\n")
    assert ask(queue, "reload")[0] == 0
    door = queue.client("intake")
    door.send(frames.Open(5))
    while isinstance(refused := door.piece(5, bytes(1 << 20)), frames.Taken):
        pass
    assert (refused.outcome, refused.enhanced) == (frames.PERMANENT, b"5.3.4")
    memory = system.sealed_memfd(b"late")
    door.send(frames.Piece(5, 4, 1), memory)
    os.close(memory)
    door.send(message(6, b"c@d.test"))
    assert isinstance(door.receive()[0], frames.Accepted)


def test_a_middling_message_goes_out_as_sealed_memory(queue: Running, send: Send) -> None:
    content = b"x" * (frames.INLINE_BYTES + 1)
    accept(queue.client("intake"), b"c@d.test", content=content)
    job = send.receive()
    assert (job.content, job.descriptor) == (b"", 1)
    assert os.pread(send.descriptor, len(content) + 1, 0) == content
    with pytest.raises(OSError):
        os.ftruncate(send.descriptor, 0)
    os.close(send.descriptor)


def test_no_more_sealed_memory_is_out_than_the_window_has_room_for(queue: Running, send: Send) -> None:
    door = queue.client("intake")
    content = bytes(250 << 10)
    fit = (64 << 20) // len(content)
    for tag in range(fit + 250):
        door.send(message(tag, b"c@d.test", content=content))
        assert isinstance(door.receive()[0], frames.Accepted)
    handed = []
    with pytest.raises(TimeoutError):
        while True:
            handed.append(send.receive().number)
            os.close(send.descriptor)
            send.quiet_after(1.0)
    assert fit <= len(handed) <= fit + 200  # a batch is handed out whole
    send.send(*[frames.Done(number, [0]) for number in handed])
    send.quiet_after(SECONDS)
    assert send.receive().number not in handed
    os.close(send.descriptor)


def test_an_aborted_or_abandoned_large_message_leaves_nothing(queue: Running, send: Send, tmp_path: Path) -> None:
    for end in (lambda door: door.send(frames.Abort(5)), lambda door: door.close()):
        door = queue.client("intake")
        door.send(frames.Open(5))
        door.piece(5, b"x" * 60_000)
        end(door)
    deadline = time.monotonic() + SECONDS
    while os.listdir(tmp_path / "queue/large"):
        assert time.monotonic() < deadline
    assert listed(queue) == []


def test_a_forward_ends_the_delivery_it_serves_and_no_other(queue: Running, send: Send) -> None:
    door = queue.client("intake")
    number = accept(door, b"bob@host.test")
    send.receive()
    door.send(message(2, b"x@y.test", serves=(number, 7)))
    assert door.receive()[0].outcome == frames.TEMPORARY
    forward = accept(door, b"x@y.test", serves=(number, 0))
    assert send.receive().number == forward
    assert json.loads(listed(queue, "json")[0])["number"] == forward
    door.send(message(3, b"x@y.test", serves=(number, 0)))
    assert door.receive()[0].outcome == frames.TEMPORARY


def test_local_finishes_no_delivery_that_goes_elsewhere(queue: Running, send: Send) -> None:
    door, control = queue.client("intake"), queue.client("control")
    number = accept(door, b"bob@host.test", b"c@d.test", b"info@virtual.test")
    assert send.receive().indexes == [0, 1, 2]
    for index in (1, 2):
        door.send(message(2, b"x@y.test", serves=(number, index)))
        assert door.receive()[0].outcome == frames.TEMPORARY
    (queue.control / "virtualdomains").write_text("virtual.test:bob\n")
    control.send(frames.Command(1, [b"reload"]))
    assert control.receive()[0] == frames.Answer(1, 0, b"")
    for index in (0, 2):
        accept(door, b"x@y.test", serves=(number, index))
    door.send(message(2, b"x@y.test", serves=(number, 1)))
    assert door.receive()[0].outcome == frames.TEMPORARY
    assert json.loads(listed(queue, "json")[0])["number"] == number, "one recipient is left"


def test_addresses_and_counts_beyond_the_limits_are_refused_for_good(queue: Running) -> None:
    door = queue.client("intake")
    for recipients in ([b"x" * 1003], [b"a\0b@c"], [b"a@b"] * 100_001, [b"x" * 1000] * 8_389):
        door.send(message(1, *recipients))
        answer, _ = door.receive()
        assert isinstance(answer, frames.Refused) and answer.outcome == frames.PERMANENT


def test_a_list_costs_little_however_many_recipients_there_are_and_shows_one_origin(queue: Running) -> None:
    door = queue.client("intake")
    recipients = [b"u%d@d.test" % place for place in range(100_000)]
    for tag in range(5):
        door.send(message(tag, *recipients)._replace(origin=b"uid %d" % (tag % 2)))
        door.receive()
    found, last, questions = b"", 0, 0
    while True:
        door.send(frames.List(1, b"uid 1", last, 500))
        answer, _ = door.receive()
        assert isinstance(answer, frames.Listed)
        found += answer.text
        questions += 1
        last = answer.last
        if not last:
            break
    assert [line.split(b"  ")[-1] for line in found.splitlines()] == [
        b"u0@d.test, u1@d.test, u2@d.test and 99997 more"] * 2  # fmt: skip
    assert questions > 1, "one answer looks at no more than a bounded number of bytes"


def test_deleted_messages_are_gone_and_late_answers_about_them_harm_nothing(queue: Running, send: Send) -> None:
    number = accept(queue.client("intake"), b"c@d.test")
    send.receive()
    assert ask(queue, "delete", str(number)) == (0, f"message {number} is deleted")
    send.send(frames.Deferred(number, b"local", 1, [0]), frames.Done(number, [0]), frames.Done(10**9, [3]))
    assert ask(queue, "show", str(number), "0")[0] == 1
    other = accept(queue.client("intake"), b"e@f.test")
    assert send.receive().number == other


@pytest.mark.parametrize(
    "words",
    [["sweep"], ["sweep", "list", "x"], ["sweep", "list", "-1"], ["sweep", "dance", "0"], ["show"], ["show", "x"],
     ["show", "1"], ["show", "1", "x"], ["retry"], ["delete", "x"], ["dance"]],
)  # fmt: skip
def test_commands_called_wrongly_say_how(queue: Running, words: list[str]) -> None:
    code, text = ask(queue, *words)
    assert code == 100 and text


def test_a_directory_of_a_foreign_format_is_refused_with_111_and_its_name(
    tmp_path: Path, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue").mkdir(mode=0o700)
    (tmp_path / "queue/format").write_text("somebody else's queue 9\n")
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "queue"))
    monkeypatch.setenv("QMAILD_STANDALONE", str(tmp_path))
    running = start(tmp_path)
    assert running.process.wait(SECONDS) == 111
    assert str(tmp_path / "queue") in (tmp_path / "journal").read_text()


def test_a_stop_waits_for_the_answers_of_what_is_in_flight(queue: Running, send: Send, tmp_path: Path) -> None:
    number = accept(queue.client("intake"), b"c@d.test")
    assert send.receive().number == number
    for client in queue.clients:
        client.close()
    queue.process.terminate()
    assert isinstance(send.receive(), frames.Leaving)
    send.send(frames.Done(number, [0]))
    send.drop()
    assert queue.process.wait(SECONDS) == 0
    with start(tmp_path) as again:
        assert listed(again) == []
