"""local, spawn and program together, as real processes: what an order and a question come to."""

from __future__ import annotations

from tests.unit.local_house import MESSAGE, House, files_in, house

__all__ = ["house"]

LINES = b"Return-Path: <from@x.test>\nDelivered-To: bob@here.test\n"


def test_a_fresh_user_gets_mail_in_a_maildir_that_is_made(house: House) -> None:
    home = house.user("bob")
    with house.running() as (orders, _):
        report = house.order(orders, b"bob@here.test")
    assert (report.outcomes, report.enhanced, report.texts) == (b"K", [b"2.0.0"], [b"did 1+0+0"])
    assert files_in(home / "Maildir/new") == [LINES + MESSAGE]
    assert files_in(home / "Maildir/tmp") == [] and (home / "Maildir/cur").is_dir()
