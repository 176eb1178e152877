"""Dates as messages write them, from seconds since the epoch. Knows no clock and no time zone but UTC."""

from __future__ import annotations

from datetime import UTC, datetime

_MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_WEEKDAYS = b"Mon Tue Wed Thu Fri Sat Sun".split()
_LAST = 253402300799  # of the year 9999


def _moment(seconds: int) -> datetime:
    """Seconds may come from a damaged record: what no calendar has becomes the nearest that it has."""
    return datetime.fromtimestamp(min(max(seconds, 0), _LAST), UTC)


def field_date(seconds: int) -> bytes:
    """Return `23 Nov 2026 09:05:07 -0000`, the form of qmail's Date and Received fields."""
    at = _moment(seconds)
    return b"%d %b %d %02d:%02d:%02d -0000" % (at.day, _MONTHS[at.month - 1], at.year, at.hour, at.minute, at.second)


def from_line_date(seconds: int) -> bytes:
    """Return `Mon Nov 23 09:05:07 2026`, the form of an mbox From_ line (day with a zero, as qmail's UFLINE)."""
    at = _moment(seconds)
    return b"%b %b %02d %02d:%02d:%02d %d" % (
        _WEEKDAYS[at.weekday()], _MONTHS[at.month - 1], at.day, at.hour, at.minute, at.second, at.year)  # fmt: skip
