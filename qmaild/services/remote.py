"""The unit qmaild-remote: takes orders from send, speaks SMTP and LMTP on sockets that dial hands in."""

from __future__ import annotations

import os
from typing import Any

from qmaild.delivery.lanes import Lanes
from qmaild.protocol import frames
from qmaild.runtime import paths
from qmaild.runtime.caller import Caller
from qmaild.runtime.channel import Channel
from qmaild.runtime.service import Service, run


def build(service: Service) -> None:
    dial = Caller(service.loop, paths.socket_of("dial"), b"remote", takes_descriptors=True)
    lanes = Lanes(service.loop, dial.ask, lambda: service.settings)

    def on_frame(channel: Channel, frame: Any, descriptor: int) -> None:
        if not isinstance(frame, frames.Order):
            if descriptor >= 0:
                os.close(descriptor)
            channel.close()
            return
        service.touch()
        lanes.deliver(channel, frame, descriptor, channel.send)

    service.is_busy = lambda: lanes.connections > 0
    service.status = lambda: f"{lanes.orders} orders, {lanes.connections} connections, {lanes.idle} idle"
    service.on_stop = lanes.stop
    service.serve("remote", on_frame, lanes.forget, takes_descriptors=True, says_leaving=True)


if __name__ == "__main__":
    run("remote", build)
