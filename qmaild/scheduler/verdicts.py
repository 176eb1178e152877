"""What a recipient's outcome means: the table from (outcome, is it the last attempt) to what happens next."""

from __future__ import annotations

import enum

from qmaild.protocol import frames

TOO_OLD_STATUS = b"5.4.7"  # RFC 3463: delivery time expired
TOO_OLD_TEXT = b"This message has been in the queue too long; it is not tried again. (#5.4.7)"


class Verdict(enum.IntEnum):
    SERVED = enum.auto()  # Done
    AGAIN = enum.auto()  # Deferred
    FAILED = enum.auto()  # Failed, with what was said
    EXPIRED = enum.auto()  # Failed, with what was said and why there is no next attempt


VERDICTS: dict[tuple[bytes, bool], Verdict] = {
    (frames.SUCCESS, False): Verdict.SERVED,
    (frames.SUCCESS, True): Verdict.SERVED,
    (frames.TEMPORARY, False): Verdict.AGAIN,
    (frames.TEMPORARY, True): Verdict.EXPIRED,
    (frames.PERMANENT, False): Verdict.FAILED,
    (frames.PERMANENT, True): Verdict.FAILED,
}

OUTCOMES = {
    Verdict.SERVED: "success",
    Verdict.AGAIN: "temporary",
    Verdict.FAILED: "permanent",
    Verdict.EXPIRED: "permanent",
}


def judge(outcome: bytes, is_last: bool) -> Verdict:
    """Return the verdict. Rule 7: an outcome we do not know is temporary."""
    return VERDICTS.get((outcome, is_last)) or VERDICTS[frames.TEMPORARY, is_last]


def is_whole(report: frames.Report, recipients: int) -> bool:
    """Return whether the report speaks of exactly these recipients: its five lists are that long."""
    _, outcomes, codes, enhanced, texts, peers = report
    return len(outcomes) == len(codes) == len(enhanced) == len(texts) == len(peers) == recipients
