"""Dates as messages write them, from seconds since the epoch. Knows no clock and no time zone but UTC."""

from __future__ import annotations

_MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_WEEKDAYS = b"Mon Tue Wed Thu Fri Sat Sun".split()


def civil(seconds: int) -> tuple[int, int, int, int, int, int, int]:
    """Return (year, month, day, hour, minute, second, weekday with Monday 0) in UTC."""
    days, rest = divmod(seconds, 86400)
    hour, rest = divmod(rest, 3600)
    minute, second = divmod(rest, 60)
    # Days are counted from 1 March 0000, so that a leap day is the last of its year and its era has 146,097 days.
    era, day_of_era = divmod(days + 719468, 146097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = year_of_era + era * 400 + (month <= 2)
    return year, month, day_of_year - (153 * shifted + 2) // 5 + 1, hour, minute, second, (days + 3) % 7


def field_date(seconds: int) -> bytes:
    """Return `23 Nov 2026 09:05:07 -0000`, the form of qmail's Date and Received fields."""
    year, month, day, hour, minute, second, _ = civil(seconds)
    return b"%d %b %d %02d:%02d:%02d -0000" % (day, _MONTHS[month - 1], year, hour, minute, second)


def from_line_date(seconds: int) -> bytes:
    """Return `Mon Nov 23 09:05:07 2026`, the form of an mbox From_ line (day with a zero, as qmail's UFLINE)."""
    year, month, day, hour, minute, second, weekday = civil(seconds)
    return b"%b %b %02d %02d:%02d:%02d %d" % (_WEEKDAYS[weekday], _MONTHS[month - 1], day, hour, minute, second, year)
