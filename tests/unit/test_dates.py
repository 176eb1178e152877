"""Dates of fields and mbox lines, and of times that no calendar has."""

from __future__ import annotations

import pytest

from qmaild.message import dates


def test_a_moment_as_fields_and_as_mboxes_write_it() -> None:
    assert dates.field_date(1795424707) == b"23 Nov 2026 09:05:07 -0000"
    assert dates.from_line_date(1795424707) == b"Mon Nov 23 09:05:07 2026"


@pytest.mark.parametrize(("seconds", "year"), [(-(1 << 62), b"1970"), (1 << 62, b"9999"), (253402300800, b"9999")])
def test_a_time_beyond_all_calendars_is_the_nearest_that_there_is(seconds: int, year: bytes) -> None:
    assert dates.field_date(seconds).split()[2] == year
    assert dates.from_line_date(seconds).endswith(year)
