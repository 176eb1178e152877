"""qmaild-inject: the door for local users. Wires the sessions to the queue and to the system's accounts."""

from __future__ import annotations

from qmaild.message.invocation import Kind
from qmaild.runtime import dialogue, paths, posting
from qmaild.runtime.caller import Caller
from qmaild.runtime.injection import MAX_INVOKE, Door
from qmaild.runtime.service import Service, run


def build(service: Service) -> None:
    caller = Caller(service.loop, paths.socket_of("intake"), b"inject")
    works = {Kind.MESSAGE: posting.compose, Kind.RAW: posting.raw, Kind.DIALOGUE: dialogue.talk}
    door = Door(service.loop, caller, lambda: service.settings, works)
    service.serve("inject", door.frame, door.closed, door.opened, MAX_INVOKE, door.accepted)
    service.is_busy = lambda: door.is_busy
    service.status = lambda: f"{door.turns.active} messages under way"


if __name__ == "__main__":
    run("inject", build)
