"""One job in the brain, one order of it in flight, and the journal's record of what came of a recipient."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from qmaild.control import events
from qmaild.policy import retry
from qmaild.protocol import frames
from qmaild.scheduler.channels import Lane
from qmaild.scheduler.moves import Record
from qmaild.scheduler.verdicts import OUTCOMES, Verdict


@dataclasses.dataclass(slots=True, eq=False)
class Job:
    """open counts the recipients not answered yet; addresses are as rewritten; jitter is from 0 to 1."""

    frame: frames.Job
    token: int
    jitter: float
    open: int
    is_verp: bool
    addresses: list[bytes]
    is_lost: bool = False


class Attempt(NamedTuple):
    """One order in flight: positions of its recipients in the job, and when it started."""

    job: Job
    lane: Lane
    positions: list[int]
    started: int


class Said(NamedTuple):
    """What is known of one recipient's outcome: code 0 and no peer where no server spoke."""

    code: int
    status: bytes
    text: bytes
    peer: bytes


def delivery(job: Job, position: int, is_local: bool, verdict: Verdict, said: Said, now: int, took: int, due: int) -> Record:
    frame = job.frame
    values: dict[str, Any] = {
        "message": frame.number,
        "sender": frame.sender,
        "recipient": frame.recipients[position],
        "channel": "local" if is_local else "remote",
        "outcome": OUTCOMES[verdict],
        "code": said.code or "",
        "enhanced": said.status,
        "text": said.text.rstrip().replace(b"\n", b"/"),
        "peer": said.peer,
        "delay": (now - frame.birth) / retry.SECOND,
        "took": took / retry.SECOND,
    }
    if verdict is Verdict.AGAIN:
        values["due"] = due // retry.SECOND
    return Record(events.DELIVERY, values)
