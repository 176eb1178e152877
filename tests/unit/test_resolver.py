"""Who a local part belongs to: accounts asked off the loop, the alias user, trouble of the name service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmaild.control import settings
from qmaild.policy.aliases import Expansion
from qmaild.runtime import accounts as module
from qmaild.runtime.accounts import Accounts
from qmaild.runtime.resolver import Mailbox, Resolver, Target, Unsure
from qmaild.runtime.system import Absent, Account, Answer, Found, Trouble

UIDS = {b"bob": 1000, b"bob-x": 1001, b"root": 0, b"daemon": 1, b"qmaild-alias": 990, b"nobody": 65534}
SETTINGS, _ = settings.parse({}, b"here.test")


class Scene:
    def __init__(self, path: Path) -> None:
        self.loop = asyncio.SelectorEventLoop()
        self.accounts = Accounts(self.loop)
        self.accounts._ask = self.account
        self.path = path
        self.resolver = Resolver(self.accounts, lambda: SETTINGS, str(path))
        self.asked: list[bytes] = []
        self.troubled: set[bytes] = set()
        self.uids = dict(UIDS)
        self.gate = threading.Event()
        self.gate.set()

    def account(self, name: bytes) -> Answer:
        assert threading.current_thread() is not threading.main_thread()
        self.gate.wait(10)
        self.asked.append(name)
        if name in self.troubled:
            return Trouble(5)
        if name in self.uids:
            return Found(Account(name, self.uids[name], 100, b"/home/" + name, b"/bin/sh"))
        return Absent()

    def resolve(self, *locals: bytes) -> list[Target]:
        found: dict[int, Target] = {}
        for place, local in enumerate(locals):
            self.resolver.resolve(local, lambda target, place=place: found.__setitem__(place, target))  # type: ignore[misc]
        self.gate.set()

        async def wait() -> None:
            while len(found) < len(locals):
                await asyncio.sleep(0.002)

        self.loop.run_until_complete(asyncio.wait_for(wait(), 10))
        return [found[place] for place in range(len(locals))]

    def who(self, local: bytes) -> tuple[bytes, bytes, bytes] | str:
        target = self.resolve(local)[0]
        if isinstance(target, Mailbox):
            return target.account.name, target.dash, target.extension
        return type(target).__name__


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "aliases")
    yield made
    made.accounts.close()
    made.loop.close()


def test_the_longest_account_wins_and_the_rest_is_its_extension(scene: Scene) -> None:
    assert scene.who(b"Bob") == (b"bob", b"", b"")
    assert scene.who(b"bob-X-Y") == (b"bob-x", b"-", b"Y")
    assert scene.who(b"bob-Z-x") == (b"bob", b"-", b"Z-x")


def test_root_system_accounts_and_strangers_belong_to_the_alias_user(scene: Scene) -> None:
    for local in (b"root", b"Daemon", b"nobody", b"joe", b"joe-x", b"/etc", b"", b"x" * 500):
        assert scene.who(local) == (b"qmaild-alias", b"-", local)


def test_a_name_service_in_trouble_makes_it_unsure_never_unknown(scene: Scene) -> None:
    scene.troubled = {b"bob-z"}
    assert scene.who(b"bob-z") == "Unsure"
    assert scene.who(b"bob") == (b"bob", b"", b"")
    scene.troubled = {b"qmaild-alias"}
    assert scene.who(b"joe") == "Unsure"
    scene.troubled = set()
    assert scene.who(b"bob-z") == (b"bob", b"-", b"z")


def test_without_an_alias_user_nothing_is_bounced(scene: Scene) -> None:
    del scene.uids[b"qmaild-alias"]
    assert scene.who(b"joe") == "Unsure"


def test_a_name_asked_for_many_times_at_once_is_looked_up_once_and_remembered(scene: Scene) -> None:
    scene.gate.clear()
    targets = scene.resolve(*[b"bob"] * 50)
    assert len(set(targets)) == 1 and scene.asked == [b"bob"]
    scene.resolve(b"bob")
    assert scene.asked == [b"bob"]
    scene.accounts.forget()
    scene.resolve(b"bob")
    assert scene.asked == [b"bob", b"bob"]


def test_what_was_remembered_is_looked_up_anew_after_a_while(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ABSENT_SECONDS", 0.0)
    assert scene.who(b"new") == (b"qmaild-alias", b"-", b"new")
    scene.uids[b"new"] = 2000
    assert scene.who(b"new") == (b"new", b"", b"")


def test_memory_of_names_is_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REMEMBERED", 20)
    for place in range(10):
        scene.resolve(*[b"n%d" % (place * 10 + k) for k in range(10)])
    assert len(scene.accounts._known) <= 20


def test_an_alias_comes_before_the_account_and_an_unreadable_file_makes_it_unsure(scene: Scene) -> None:
    scene.path.write_text("bob: a@x.test\n")
    assert scene.resolve(b"bob") == [Expansion((b"a@x.test",), (), (), False)]
    other = Scene(scene.path.with_name("folder"))
    other.path.mkdir()
    assert isinstance(other.resolve(b"bob")[0], Unsure)
    other.accounts.close()
    other.loop.close()
