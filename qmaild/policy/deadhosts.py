"""Which addresses did not answer lately, so that a dead host costs little (qmail's tcpto). Knows no clock, and what ports are."""

from __future__ import annotations

from typing import NamedTuple

MAX_HOSTS = 1000
FIRST_SECONDS, LONGEST_SECONDS = 120.0, 1920.0  # of silence towards a host: doubled by each further timeout


class _Record(NamedTuple):
    timeouts: int
    since: float
    until: float


class DeadHosts:
    """Addresses, as the caller names them with their ports, by their last connection timeouts.

    Differs: qmail skips an address from its second timeout on, for about an hour; we from the first on, for
    minutes, for here many deliveries would wait for one dead host at the same time.
    """

    def __init__(self) -> None:
        self._records: dict[bytes, _Record] = {}

    def is_dead(self, address: bytes, now: float) -> bool:
        """Return whether it is too early to try this address again."""
        record = self._records.get(address)
        return record is not None and now < record.until

    def timed_out(self, address: bytes, now: float) -> None:
        """Note a timeout. Of attempts that ran side by side only the first counts."""
        record = self._records.pop(address, None)
        if record and now < record.until:
            self._records[address] = record
            return
        timeouts = record.timeouts + 1 if record else 1
        if len(self._records) >= MAX_HOSTS:
            del self._records[next(iter(self._records))]  # the one whose last timeout is oldest
        until = now + min(FIRST_SECONDS * 2 ** min(timeouts - 1, 10), LONGEST_SECONDS)
        self._records[address] = _Record(timeouts, now, until)

    def answered(self, address: bytes) -> None:
        """The host is there: it took the connection or refused it."""
        self._records.pop(address, None)

    def forget_all(self) -> None:
        self._records.clear()

    def lines(self, now: float) -> list[str]:
        """Return one line for each host, as qmail-tcpto prints it."""
        return [
            f"{host.decode()} timed out {int(now - since)} seconds ago; # recent timeouts: {timeouts}"
            for host, (timeouts, since, _) in self._records.items()
        ]
