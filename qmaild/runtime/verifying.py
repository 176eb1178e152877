"""`sendmail -bv`: whether recipients exist. Asks what the SMTP door asks, takes no message and reads no input."""

from __future__ import annotations

import asyncio

from qmaild.message import inject
from qmaild.message.invocation import Invocation
from qmaild.policy import recipients
from qmaild.protocol import frames
from qmaild.runtime.injection import Session
from qmaild.runtime.lookup import Lookup

NO_USER, NOT_NOW = 67, 75  # sysexits: EX_NOUSER, EX_TEMPFAIL


async def verify(lookup: Lookup, client: Session, request: Invocation) -> None:
    """Print a line for each recipient and end the session. An unknown one decides the exit code."""
    settings = client.door.settings()
    codes = [0]
    try:
        addresses = inject.arguments(request, client.door.place(request).hosts)
    except inject.Unacceptable as error:
        client.exit(client.failures.unacceptable, str(error))
        return
    for address in addresses:
        target = recipients.rewrite(address, settings)
        if target.is_local:
            code, text = _judged(await _asked(lookup, target.address))
        else:
            code, text = 0, b"goes to %b" % target.domain
        codes.append(code)
        await client.print(b"%b %b\n" % (address, text))
    client.exit(NO_USER if NO_USER in codes else max(codes))


async def _asked(lookup: Lookup, address: bytes) -> frames.Is | None:
    known = lookup.known(address)
    if known is not None:
        return known
    answer: asyncio.Future[frames.Is | None] = asyncio.get_running_loop().create_future()
    lookup.ask(address, answer.set_result)
    return await answer


def _judged(answer: frames.Is | None) -> tuple[int, bytes]:
    """Return (exit code, what is printed): nothing that a user's child said. Unknown means temporary."""
    if answer is not None and answer.outcome == frames.SUCCESS:
        return 0, b"has a mailbox here"
    if answer is not None and answer.outcome == frames.PERMANENT:
        return NO_USER, b"is not known here"
    return NOT_NOW, b"cannot be looked up now; try again later"
