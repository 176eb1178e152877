"""What a report tells about the destination itself: the table from what the peer said, and where, to evidence.

Knows what remote and dial report: a code of 0 where no reply stands behind a result, an empty peer where no
connection was made, and a text that says which command a refusal answered.
"""

from __future__ import annotations

import enum

from qmaild.protocol import frames
from qmaild.protocol.smtp_client import Step, step_of


class Evidence(enum.IntEnum):
    """In the order in which they count when an order's recipients differ."""

    NONE = 0  # our own trouble, or DNS's: the destination was not asked
    ANSWERED = 1  # it is there, and what it said is about a recipient (greylisting is)
    GOOD = 2  # it did its work: took a message, or refused a recipient for good
    PRESSURE = 3  # it is there and would rather have less
    BAD = 4  # it cannot be reached, or will not talk to us now


# Of a temporary refusal by the step that it answered. A step that is not here is about a recipient.
STEPS: dict[Step, Evidence] = {
    Step.GREETING: Evidence.BAD,
    Step.EHLO: Evidence.BAD,
    Step.HELO: Evidence.BAD,
    Step.RSET: Evidence.BAD,
    Step.MAIL: Evidence.PRESSURE,
    Step.DATA: Evidence.PRESSURE,
    Step.DOT: Evidence.PRESSURE,
}

CLOSING = 421  # RFC 5321 3.8: the server is leaving
NETWORK = b"4.4."  # RFC 3463 3.5: no connection, or a lost one, when no reply stands behind it
NO_SMTP = b"4.5.0"  # likewise: the peer does not speak the protocol


def of_recipient(outcome: bytes, code: int, status: bytes, text: bytes, peer: bytes) -> Evidence:
    """Return what one recipient's result tells."""
    if outcome == frames.SUCCESS:
        return Evidence.GOOD
    if outcome == frames.PERMANENT:
        return Evidence.GOOD if code or peer else Evidence.NONE  # without a peer it is DNS that said no
    if code == CLOSING:
        return Evidence.BAD
    if not code:
        return Evidence.BAD if status.startswith(NETWORK) or status == NO_SMTP else Evidence.NONE
    step = step_of(text)
    return Evidence.ANSWERED if step is None else STEPS.get(step, Evidence.ANSWERED)


def of_report(report: frames.Report) -> Evidence:
    """Return what a whole report tells. A connection lost behind an answer says less than one that never was."""
    _, outcomes, codes, enhanced, texts, peers = report
    if outcomes and not outcomes.strip(frames.SUCCESS):
        return Evidence.GOOD
    found = {
        of_recipient(outcomes[place : place + 1], codes[place], enhanced[place], texts[place], peers[place])
        for place in range(len(outcomes))
    }
    if Evidence.BAD in found and Evidence.GOOD in found:
        return Evidence.PRESSURE
    return max(found, default=Evidence.NONE)
