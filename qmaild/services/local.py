"""qmaild-local: takes orders from send and questions from the doors; decides whose child delivers, delivers nothing itself."""

from __future__ import annotations

import os
from typing import Any

from qmaild.delivery.dispatch import Dispatcher
from qmaild.delivery.explanations import Explanations
from qmaild.delivery.lookups import Lookups
from qmaild.policy.dotqmail import PROGRAM_SECONDS
from qmaild.protocol import frames
from qmaild.runtime import paths, service
from qmaild.runtime.accounts import Accounts
from qmaild.runtime.caller import Caller
from qmaild.runtime.channel import Channel
from qmaild.runtime.children import Children
from qmaild.runtime.intake import Intake
from qmaild.runtime.resolver import Resolver

SPAWN_SECONDS = 600.0  # a deliverer that answers nothing for so long hangs; an mbox lock alone may take 30 s
PROGRAM_GRACE = 600.0  # beyond what the child itself allows its programs
# Deliveries of one user at a time, below concurrencylocal: a user whose programs hang must not stop all others.
MAILBOX_WINDOW, PROGRAM_WINDOW = 100, 16
MAX_QUESTION = 16 << 10  # bytes of a look-up: one address


def build(unit: service.Service) -> None:
    accounts = Accounts(unit.loop)
    resolver = Resolver(accounts, lambda: unit.settings)
    mailboxes = Children(unit.loop, paths.socket_of("spawn"), SPAWN_SECONDS, window=MAILBOX_WINDOW)
    programs = Children(unit.loop, paths.socket_of("program"), PROGRAM_SECONDS + PROGRAM_GRACE, window=PROGRAM_WINDOW)
    intake = Intake(Caller(unit.loop, paths.socket_of("intake"), b"local"))
    dispatcher = Dispatcher(resolver, mailboxes, programs, intake, lambda: unit.settings)
    lookups = Lookups(resolver, mailboxes)
    explanations = Explanations(resolver, mailboxes, lambda: unit.settings)

    def ordered(channel: Channel, frame: Any, descriptor: int) -> None:
        if isinstance(frame, frames.Order):
            dispatcher.order(channel, frame, descriptor)
        else:
            if descriptor >= 0:
                os.close(descriptor)
            channel.close()

    def asked(channel: Channel, frame: Any, descriptor: int) -> None:
        if isinstance(frame, frames.Who):
            lookups.who(channel, frame)
        else:
            channel.close()

    unit.serve("local", ordered, dispatcher.forget, takes_descriptors=True, says_leaving=True)
    unit.serve("lookup", asked, limit=MAX_QUESTION, says_leaving=True)
    unit.questions[b"explain"] = explanations.ask
    unit.is_busy = lambda: dispatcher.outstanding + lookups.outstanding + explanations.outstanding > 0
    unit.status = lambda: f"{dispatcher.outstanding} orders, {mailboxes.count + programs.count} deliverers"
    unit.on_reload = accounts.forget


if __name__ == "__main__":
    service.run("local", build)
