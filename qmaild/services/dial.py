"""The unit qmaild-dial: asks DNS and opens connections for remote; reads no message and no reply."""

from __future__ import annotations

import asyncio
from typing import Any

from qmaild.policy.mailhosts import Verdict
from qmaild.protocol import frames
from qmaild.runtime import journal
from qmaild.runtime.channel import Channel
from qmaild.runtime.dialing import Dialer, Reached
from qmaild.runtime.dns import Resolver
from qmaild.runtime.service import Service, run

MAX_NAME = 1024  # longer than any domain or key of smtproutes
MAX_SKIP = 100
MAX_RUNNING = 2000  # more than any sane concurrencyremote


def build(service: Service) -> None:
    resolver = Resolver(service.loop)
    dialer = Dialer(service.loop, resolver, lambda: service.settings)
    running: set[asyncio.Task[None]] = set()

    async def connect(channel: Channel, question: frames.Connect) -> None:
        reached: Reached | Verdict
        try:
            reached = await dialer.connect(question.purpose, question.name, frozenset(question.skip), bool(question.is_probe))
        except Exception as error:  # rule 7: what nobody foresaw is temporary, and no question stays open
            journal.note(journal.ERROR, f"no connection for {question.name!r}: {error!r}")
            reached = Verdict(frames.TEMPORARY, b"4.3.0", b"I could not make a connection.")
        if isinstance(reached, Reached):
            where = (reached.protocol, reached.host, reached.address, reached.port, int(reached.more))
            channel.send(frames.Connected(question.tag, *where, 1), reached.sock.detach())
        else:
            channel.send(frames.NotConnected(question.tag, *reached))

    def on_frame(channel: Channel, frame: Any, descriptor: int) -> None:
        if not isinstance(frame, frames.Connect) or len(frame.name) > MAX_NAME or len(frame.skip) > MAX_SKIP:
            channel.close()
            return
        if len(running) >= MAX_RUNNING:
            text = b"Too many connections are being made."
            channel.send(frames.NotConnected(frame.tag, frames.TEMPORARY, b"4.3.2", text))
            return
        task = service.loop.create_task(connect(channel, frame))
        running.add(task)
        task.add_done_callback(running.discard)

    def tcpto(words: list[bytes]) -> tuple[int, bytes]:
        return 0, "\n".join(dialer.dead.lines(service.loop.time())).encode()

    def tcpok(words: list[bytes]) -> tuple[int, bytes]:
        dialer.dead.forget_all()
        resolver.forget_all()
        return 0, b""

    def give_up() -> None:
        for task in running:  # their askers see the connection end: temporary
            task.cancel()
        resolver.give_up()

    service.on_stop = give_up
    service.commands.update({b"tcpto": tcpto, b"tcpok": tcpok})
    service.is_busy = lambda: bool(running) or resolver.is_busy
    service.status = lambda: f"{len(running)} connections being made"
    service.serve("dial", on_frame, says_leaving=True)


if __name__ == "__main__":
    run("dial", build)
