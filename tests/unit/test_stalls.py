"""Mail hosts that stall, drip, babble and break off, in every state of a session with our remote."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmaild.protocol import frames

from .processes import SECONDS, Client, Running
from .smtp_peer import DEAF, DRIP, ENDLESS, RESET, SILENCE, Peer
from .test_remote_service import order, report

STATES = ("GREETING", "EHLO", "MAIL", "RCPT", "DATA", ".")
CONTENT = b"Subject: hi\n\nbody\n"


class House:
    """A peer for each state that is strange there, one that is not, and remote with dial before them."""

    def __init__(self, client: Client, peers: dict[str, Peer]) -> None:
        self.client = client
        self.peers = peers

    def deliver(self, *states: str, content: bytes = CONTENT) -> dict[str, frames.Report]:
        """Send an order to each of these at once, and return what was reported of each."""
        for tag, state in enumerate(states):
            self.client.send(order(tag, lane=b"remote:@" + _domain(state).encode(), content=content))
        reports = [report(self.client) for _ in states]
        return {states[each.tag]: each for each in reports}


def _domain(state: str) -> str:
    return {".": "end"}.get(state, state.lower()) + ".test"


@contextlib.contextmanager
def strange(tmp_path: Path, how: str, *states: str) -> Iterator[House]:
    def replies(state: str) -> Peer:
        return Peer(lambda command, count: how if command.startswith(state) else None)

    with contextlib.ExitStack() as stack:
        peers = {state: stack.enter_context(replies(state)) for state in states}
        peers["good"] = stack.enter_context(Peer())
        routes = "\n".join(f"{_domain(state)}:[127.0.0.1]:{peer.port}" for state, peer in peers.items())
        stack.enter_context(Running("dial", ["dial"], tmp_path, smtproutes=routes))
        remote = stack.enter_context(Running("remote", ["remote"], tmp_path, timeoutremote="1"))
        client = remote.client("remote")
        stack.callback(client.close)
        yield House(client, peers)


@pytest.mark.parametrize("how", [SILENCE, DRIP, ENDLESS, RESET])
def test_a_peer_that_is_strange_in_any_state_costs_a_bounded_time_and_its_own_message_only(tmp_path: Path, how: str) -> None:
    with strange(tmp_path, how, *STATES) as house:
        begun = time.monotonic()
        done = house.deliver(*STATES, "good")
        assert time.monotonic() - begun < SECONDS / 2
        assert done["good"].outcomes == b"K"
        for state in STATES:
            said = done[state]
            assert (said.outcomes, said.enhanced[0][:1]) == (b"Z", b"4"), (state, said)
            assert (b"Possible duplicate" in said.texts[0]) == (state == "." and how != ENDLESS), (state, said)
        for state in STATES if how != RESET else ():
            house.peers[state].ended.get(timeout=SECONDS)
        assert house.deliver("good")["good"].outcomes == b"K"


def test_a_peer_that_does_not_read_the_message_is_left(tmp_path: Path) -> None:
    with strange(tmp_path, DEAF, "DATA") as house:
        done = house.deliver("DATA", content=b"Subject: long\n\n" + b"line\n" * 12_000)
        assert done["DATA"].outcomes == b"Z"
        assert b"fell silent" in done["DATA"].texts[0]
        assert house.deliver("good")["good"].outcomes == b"K"
