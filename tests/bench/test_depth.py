"""The depth tool: its backlog is what it says, and a small one goes through the real server."""

from __future__ import annotations

import os
import socket
from collections import Counter
from pathlib import Path

import pytest

from qmaild.queue.store import Store

from . import depth
from .backlog import HANGING, REFUSING, Backlog, fill, make_due
from .house import OWNER, hanging_port


def test_a_backlog_has_all_its_domains_and_a_tenth_for_each_dead_one() -> None:
    backlog = Backlog(1000, 42, 500)
    found = Counter(backlog.domain_of(n) for n in range(1000))
    assert found[REFUSING] == found[HANGING] == 100
    assert set(found) == {REFUSING, HANGING, *backlog.living_domains()}
    assert len(found) == 42


def test_messages_of_a_backlog_wait_until_they_are_made_due(tmp_path: Path) -> None:
    queue = tmp_path / "queue"
    queue.mkdir(mode=0o700)
    dead = fill(queue, OWNER, Backlog(50, 5, 300))
    assert {domain: len(numbers) for domain, numbers in dead.items()} == {REFUSING: 5, HANGING: 5}
    make_due(queue, OWNER, REFUSING, dead[REFUSING])
    for path in (queue, *queue.rglob("*")):
        os.chown(path, os.geteuid(), os.geteuid())
    store = Store.open(str(queue))
    try:
        shown = store.messages(0, 100)
        now = min(each.birth for each in shown) + 60 * 1_000_000
        due = [each for each in shown if each.due is not None and each.due < now]
        assert len(shown) == 50
        assert {each.recipients[0].lane for each in due} == {b"remote:@refusing.test"}
        assert len(due) == 5
        assert all(each.recipients[0].state == "waiting" and each.size == 300 for each in shown)
    finally:
        store.close()


def test_a_hanging_port_neither_opens_nor_fails() -> None:
    with hanging_port("127.0.0.3") as port, socket.socket() as client:
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.connect(("127.0.0.3", port))


@pytest.mark.skipif(os.geteuid() != 0, reason="the server's account owns the queue, so only root can fill it")
def test_a_small_backlog_is_carried_through_restarts_and_delays_nobody() -> None:
    arguments = ["--messages=10000", "--domains=100", "--parts=turns,restart,refused", "--lone=10", "--no-cold"]
    with depth.parts(depth.options(arguments)) as measured:
        measured.run()
    found = {line.what: line for line in measured.lines}
    restarts = [what for what in found if what.endswith("to the first 250")]
    memory = [what for what in found if what.startswith("memory")]
    turns = [what for what in found if what.startswith("the loop's CPU")]
    delays = [what for what in found if what.startswith("a new message")]
    assert (len(restarts), len(memory), len(delays), len(turns)) == (4, 2, 2, 3)
    assert "the loop's CPU, making 10000 messages due" in turns
    assert found["an orderly stop"].is_met
    assert all(found[what].is_met for what in memory)
    backlog = Backlog(10_000, 100, 1)
    for domain in ("d0.test", REFUSING):
        waiting = sum(backlog.domain_of(n) == domain for n in range(10_000))
        assert f", {waiting} lines" in found[f"qmailctl queue list --domain {domain}"].found
    assert all("p99" in found[what].found for what in delays)
    assert " of 1000 tried until then" in measured.raw[-1]
