"""qmaild-inject: the door for local users. Wires the sessions to the queue and to the system's accounts."""

from __future__ import annotations

import functools

from qmaild.message.invocation import Kind
from qmaild.runtime import dialogue, paths, posting, verifying
from qmaild.runtime.caller import Caller
from qmaild.runtime.injection import MAX_INVOKE, Door, Work
from qmaild.runtime.lookup import Lookup
from qmaild.runtime.service import Service, run


def build(service: Service) -> None:
    caller = Caller(service.loop, paths.socket_of("intake"), b"inject")
    lookup = Lookup(service.loop, Caller(service.loop, paths.socket_of("lookup"), b"inject"))
    works: dict[Kind, Work] = {
        Kind.MESSAGE: posting.compose, Kind.RAW: posting.raw, Kind.DIALOGUE: dialogue.talk,
        Kind.VERIFY: functools.partial(verifying.verify, lookup),
    }  # fmt: skip
    door = Door(service.loop, caller, lambda: service.settings, works)
    service.serve("inject", door.frame, door.closed, door.opened, MAX_INVOKE, door.accepted)
    service.on_reload = lookup.forget
    service.is_busy = lambda: door.is_busy
    service.status = lambda: f"{door.turns.active} messages under way"


if __name__ == "__main__":
    run("inject", build)
