"""local's children as local sees them: places, waiting, silence, lies; with a spawner of the test's own."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qmaild.protocol import frames, netstring
from qmaild.runtime import children
from qmaild.runtime.children import Children

from .processes import no_descriptor_free

SECONDS = 15.0


class Spawner:
    """Keeps the socket that each uid's child would have."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: Path) -> None:
        self._loop = loop
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(5)
        self.listener.setblocking(False)
        self.made: list[tuple[int, socket.socket]] = []
        loop.add_reader(self.listener.fileno(), self._accept)
        self._clients: list[socket.socket] = []

    def _accept(self) -> None:
        client, _ = self.listener.accept()
        client.setblocking(False)
        self._clients.append(client)
        self._loop.add_reader(client.fileno(), self._request, client)

    def _request(self, client: socket.socket) -> None:
        data, descriptors, _, _ = socket.recv_fds(client, 8, 1)
        if not data:
            self._loop.remove_reader(client.fileno())
            client.close()
            return
        version, uid = struct.unpack("!II", data)
        assert version == 1
        end = socket.socket(fileno=descriptors[0])
        end.settimeout(SECONDS)
        self.made.append((uid, end))

    def close(self) -> None:
        self._loop.remove_reader(self.listener.fileno())
        for client in self._clients:
            if client.fileno() >= 0:
                self._loop.remove_reader(client.fileno())
        for sock in (self.listener, *self._clients, *[end for _, end in self.made]):
            sock.close()


class Scene:
    def __init__(self, path: Path) -> None:
        self.loop = asyncio.SelectorEventLoop()
        self.path = path
        self.spawner = Spawner(self.loop, path)
        self.answers: list[tuple[str, Any]] = []

    def children(self, patience: float = SECONDS, limit: int = 2, window: int = children.MAX_OUTSTANDING) -> Children:
        self.made = Children(self.loop, str(self.path), patience, limit, window)
        return self.made

    def ask(self, uid: int, name: str) -> None:
        self.made.ask(uid, lambda frame: self.answers.append((name, frame and frame[0])), frames.Exists, b"/", b"-", b"x")

    def until(self, is_so: Any) -> None:
        async def wait() -> None:
            while not is_so():
                await asyncio.sleep(0.005)

        self.loop.run_until_complete(asyncio.wait_for(wait(), SECONDS))

    def answer(self, place: int, tag: int, frame: frames.Frame | None = None) -> None:
        self.spawner.made[place][1].sendall(frames.encode(frame or frames.Is(tag, b"K", b"")))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "s")
    yield made
    made.made.close()
    made.spawner.close()
    made.loop.close()


def uids(scene: Scene) -> list[int]:
    return [uid for uid, _ in scene.spawner.made]


def tags_at(end: socket.socket, count: int) -> list[int]:
    reader = netstring.Reader(frames.MAX_FRAME)
    found: list[int] = []
    while len(found) < count:
        found += [frames.decode(payload)[0] for payload in reader.feed(end.recv(65536))]
    return found


def test_one_child_serves_all_questions_of_its_uid(scene: Scene) -> None:
    scene.children()
    for name in "abc":
        scene.ask(7, name)
    scene.until(lambda: scene.spawner.made)
    for tag in reversed(tags_at(scene.spawner.made[0][1], 3)):
        scene.answer(0, tag)
    scene.until(lambda: len(scene.answers) == 3)
    assert scene.answers == [("c", 3), ("b", 2), ("a", 1)] and uids(scene) == [7]


def test_the_least_recently_used_child_gives_up_its_place(scene: Scene) -> None:
    scene.children(limit=2)
    for place, uid in enumerate((7, 8)):
        scene.ask(uid, str(uid))
        scene.until(lambda place=place: len(scene.spawner.made) > place)
        scene.answer(place, place + 1)
    scene.until(lambda: len(scene.answers) == 2)
    scene.ask(7, "again")
    scene.answer(0, 3)
    scene.until(lambda: len(scene.answers) == 3)
    scene.ask(9, "new")
    scene.until(lambda: len(scene.spawner.made) == 3)
    tags_at(scene.spawner.made[1][1], 1)
    assert scene.spawner.made[1][1].recv(1) == b""  # 8 was closed, 7 was not
    scene.answer(2, 4)
    scene.until(lambda: scene.answers[-1] == ("new", 4))
    assert uids(scene) == [7, 8, 9] and scene.made.count == 2


def test_with_every_place_at_work_a_uid_waits_and_nobody_passes_it(scene: Scene) -> None:
    scene.children(limit=2)
    for uid in (7, 8, 9, 7):
        scene.ask(uid, str(uid))
    scene.until(lambda: len(scene.spawner.made) == 2)
    assert scene.made.outstanding == 4 and tags_at(scene.spawner.made[0][1], 1) == [1]
    scene.answer(0, 1)
    scene.until(lambda: len(scene.spawner.made) == 3)
    assert uids(scene) == [7, 8, 9]
    scene.answer(1, 2)
    scene.until(lambda: len(scene.spawner.made) == 4)
    scene.answer(2, 3)
    scene.answer(3, 4)
    scene.until(lambda: len(scene.answers) == 4)
    assert [name for name, _ in scene.answers] == ["7", "8", "9", "7"] and all(tag for _, tag in scene.answers)


@pytest.mark.parametrize("says", [b"", b"junk", frames.encode(frames.Is(99, b"K", b""))])
def test_a_child_that_dies_or_makes_no_sense_answers_nothing(scene: Scene, says: bytes) -> None:
    scene.children()
    scene.ask(7, "a")
    scene.ask(7, "b")
    scene.until(lambda: scene.spawner.made)
    end = scene.spawner.made[0][1]
    tags_at(end, 2)
    end.sendall(says)
    end.shutdown(socket.SHUT_WR)
    scene.until(lambda: len(scene.answers) == 2)
    assert scene.answers == [("a", None), ("b", None)] and scene.made.count == 0


def test_a_silent_child_is_given_up_and_an_idle_one_is_closed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "SWEEP_SECONDS", 0.01)
    monkeypatch.setattr(children, "IDLE_SECONDS", 0.05)
    scene.children(patience=0.1)
    scene.ask(7, "silent")
    scene.until(lambda: scene.answers)
    assert scene.answers == [("silent", None)]
    scene.ask(7, "quick")
    scene.until(lambda: len(scene.spawner.made) == 2)
    scene.answer(1, 2)
    scene.until(lambda: scene.made.count == 0)
    assert scene.answers[-1] == ("quick", 2)


def test_without_a_spawner_the_answer_is_none_and_later_it_is_asked_anew(scene: Scene) -> None:
    scene.children()
    scene.path.rename(scene.path.with_name("away"))
    scene.ask(7, "a")
    scene.ask(7, "b")
    scene.until(lambda: len(scene.answers) == 2)
    assert scene.answers == [("a", None), ("b", None)] and scene.made.count == 0
    scene.path.with_name("away").rename(scene.path)
    scene.ask(7, "c")
    scene.until(lambda: scene.spawner.made)
    scene.answer(0, 3)
    scene.until(lambda: scene.answers[-1] == ("c", 3))


def test_a_child_has_a_window_of_questions_and_each_answer_makes_room(scene: Scene) -> None:
    scene.children(window=2)
    for name in "abc":
        scene.ask(7, name)
    scene.until(lambda: scene.spawner.made)
    _, end = scene.spawner.made[0]
    assert tags_at(end, 2) == [1, 2]
    scene.answer(0, 1)
    scene.until(lambda: scene.answers == [("a", 1)])
    assert tags_at(end, 1) == [3]
    assert scene.made.outstanding == 2


def test_what_waits_behind_a_child_that_hangs_is_given_up_soon_and_what_comes_then_at_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "CROWDED_SECONDS", 0.1)
    monkeypatch.setattr(children, "SWEEP_SECONDS", 0.02)
    scene.children(window=1)
    for name in "abc":
        scene.ask(7, name)
    scene.until(lambda: scene.answers == [("b", None), ("c", None)])
    scene.ask(7, "d")
    assert scene.made.outstanding == 1
    scene.until(lambda: scene.answers[2:] == [("d", None)])
    scene.ask(8, "e")
    scene.until(lambda: len(scene.spawner.made) == 2)
    assert tags_at(scene.spawner.made[0][1], 1) == [1], "nothing that was given up is done"
    assert tags_at(scene.spawner.made[1][1], 1) == [5]


def test_a_uid_whose_child_found_no_free_descriptor_gets_one_later(scene: Scene) -> None:
    scene.children()
    with no_descriptor_free(os.getpid()):
        scene.ask(7, "refused")
        scene.until(lambda: scene.answers == [("refused", None)])
    scene.ask(7, "served")
    scene.until(lambda: scene.spawner.made)
    tag, = tags_at(scene.spawner.made[0][1], 1)
    scene.answer(0, tag)
    scene.until(lambda: scene.answers[1:] == [("served", tag)])
