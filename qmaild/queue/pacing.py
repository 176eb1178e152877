"""When something may go to send, and how many at a time. Knows times of a clock handed in; no store, no connection."""

from __future__ import annotations

# The first of a burst goes out at once, what comes within this time behind it as one batch: a lone message waits for
# nothing, and a busy host wakes everybody on the way a hundred times a second and not for each message.
PACE_SECONDS = 0.010
BATCH = 200  # jobs in one look: the loop stays responsive
RETRY_SHARE = 50  # of these, what was deferred; so many go every PACE_SECONDS
# The same while new mail comes: it does not starve, but leaves the processes on the way time to spare, for who has used
# up its time waits for a processor behind all others on the machine, and new mail with it.
RETRY_BESIDE = 10
BESIDE_SECONDS = 1.0  # after a new message


class Pace:
    """Times are seconds of the loop's clock."""

    def __init__(self) -> None:
        self._next = 0.0  # nothing new is handed out before this time
        self._next_retries = 0.0  # and nothing that was deferred before this one
        self._fresh_until = 0.0  # new mail comes

    def wait(self, now: float) -> float:
        """Return in how many seconds the next look may be; 0 or less is now."""
        return self._next - now

    def retry_wait(self, now: float) -> float:
        """Return in how many seconds something that was deferred may go."""
        return self._next_retries - now

    def retries(self, now: float) -> int:
        """Return how many of what was deferred go with the look that begins now; the next such look is one pace later."""
        self._next_retries = now + PACE_SECONDS
        return RETRY_BESIDE if now < self._fresh_until else RETRY_SHARE

    def fresh_went(self, now: float) -> None:
        """New messages went with the look that began now."""
        self._next, self._fresh_until = now + PACE_SECONDS, now + BESIDE_SECONDS
