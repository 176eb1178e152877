"""send's brain: orders, verdicts, limits, turns, losses; every recipient is answered exactly once."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmaild.control import events
from qmaild.control.settings import Settings, parse
from qmaild.policy import retry
from qmaild.protocol import frames
from qmaild.scheduler.brain import Brain
from qmaild.scheduler.lanes import LOCAL_BATCH, MAX_HELD, MAX_LANE, MAX_LANE_BYTES, MAX_REMOTE, REMOTE_BATCH
from qmaild.scheduler.moves import (
    NO_TOKEN,
    Arrived,
    Changed,
    Command,
    Committed,
    Continued,
    Finished,
    Lost,
    More,
    Place,
    Record,
    Release,
    Reported,
    Stopping,
)
from qmaild.scheduler.paces import FIRST_LIMIT
from qmaild.scheduler.verdicts import VERDICTS, Verdict, is_whole, judge

BIRTH = 1_700_000_000 * retry.SECOND
NOW = BIRTH + 5 * retry.SECOND
WEEK = 604_800 * retry.SECOND


def configured(**files: bytes) -> Settings:
    parsed, problems = parse({"me": b"host.example", **files}, b"host.example")
    assert not problems
    return parsed


def brain(**files: bytes) -> Brain:
    return Brain(configured(**files), lambda: 0.0)


def job(*recipients: bytes, number: int = 1, sender: bytes = b"s@away.example", birth: int = BIRTH) -> frames.Job:
    indexes = [10 + place for place in range(len(recipients))]
    return frames.Job(number, birth, 0, b"smtp", sender, indexes, list(recipients), 5, b"\nx\n", 0)


def many(count: int, domain: bytes = b"far.example") -> list[bytes]:
    return [b"user%d@%b" % (place, domain) for place in range(count)]


def report(order: frames.Order, outcomes: bytes, text: bytes = b"said") -> Reported:
    count = len(outcomes)
    return Reported(
        order.tag,
        frames.Report(order.tag, outcomes, [250] * count, [b"5.1.1"] * count, [text] * count, [b"peer"] * count),
    )


def whole(send: Brain, event: Any, now: int = NOW) -> list[Command]:
    """What an event leads to, with all that follows when the rest of the loop has had its turns."""
    commands = send.handle(event, now)
    while commands and More() in commands:
        commands.remove(More())
        commands += send.handle(Continued(), now)
    return commands


def orders(commands: list[Command]) -> list[frames.Order]:
    return [command.order for command in commands if isinstance(command, Place)]


def answers(commands: list[Command]) -> list[Any]:
    return [command for command in commands if isinstance(command, (frames.Done, frames.Failed, frames.Deferred))]


def records(commands: list[Command]) -> list[Record]:
    return [command for command in commands if isinstance(command, Record)]


# --- verdicts


@pytest.mark.parametrize(
    "outcome, is_last, verdict",
    [
        (b"K", False, Verdict.SERVED),
        (b"K", True, Verdict.SERVED),
        (b"Z", False, Verdict.AGAIN),
        (b"Z", True, Verdict.EXPIRED),
        (b"D", False, Verdict.FAILED),
        (b"D", True, Verdict.FAILED),
        (b"?", False, Verdict.AGAIN),
        (b"?", True, Verdict.EXPIRED),
        (b"", False, Verdict.AGAIN),
        (b"", True, Verdict.EXPIRED),
    ],
)
def test_every_outcome_has_one_verdict(outcome: bytes, is_last: bool, verdict: Verdict) -> None:
    assert judge(outcome, is_last) is verdict


def test_the_table_of_verdicts_is_complete() -> None:
    assert set(VERDICTS) == set(itertools.product((b"K", b"Z", b"D"), (False, True)))
    assert set(VERDICTS.values()) == set(Verdict)


def test_a_report_with_a_column_too_short_or_long_is_not_whole() -> None:
    columns = [b"KZ", [250, 450], [b"2.0.0"] * 2, [b"a"] * 2, [b"p"] * 2]
    assert is_whole(frames.Report(1, *columns), 2)  # type: ignore[arg-type]
    assert not is_whole(frames.Report(1, *columns), 1)  # type: ignore[arg-type]
    for place, column in enumerate(columns):
        cut = [*columns[:place], column[:1], *columns[place + 1 :]]
        assert not is_whole(frames.Report(1, *cut), 2)  # type: ignore[arg-type]


# --- routing and orders


def test_recipients_are_rewritten_and_grouped_by_lane() -> None:
    send = brain(virtualdomains=b"virt.example:prefix\n", smtproutes=b".relayed.example:hub\n")
    found = orders(
        send.handle(
            Arrived(
                job(
                    b"plain",
                    b"u@virt.example",
                    b"a@Far.example",
                    b"b@x.relayed.example",
                    b"c@far.EXAMPLE",
                    b"d@y.relayed.example",
                ),
                NO_TOKEN,
            ),
            NOW,
        )
    )
    assert [(order.lane, order.recipients, order.indexes) for order in found] == [
        (b"local", [b"plain@host.example", b"prefix-u@virt.example"], [10, 11]),
        (b"remote:far.example", [b"a@Far.example", b"c@far.EXAMPLE"], [12, 14]),
        (b"remote:@.relayed.example", [b"b@x.relayed.example", b"d@y.relayed.example"], [13, 15]),
    ]
    assert all(
        (order.number, order.birth, order.sender, order.content) == (1, BIRTH, b"s@away.example", b"\nx\n") for order in found
    )


def test_a_thousand_recipients_of_one_site_are_ten_orders() -> None:
    send = brain()
    found = orders(send.handle(Arrived(job(*many(1000)), NO_TOKEN), NOW))
    assert len(found) == FIRST_LIMIT
    for order in found:  # grows as they succeed
        found += orders(send.handle(report(order, b"K" * REMOTE_BATCH), NOW))
    assert [len(order.recipients) for order in found] == [REMOTE_BATCH] * 10


def test_local_recipients_of_one_message_share_orders() -> None:
    found = orders(brain().handle(Arrived(job(*many(120, b"host.example")), NO_TOKEN), NOW))
    assert [len(order.recipients) for order in found] == [LOCAL_BATCH, LOCAL_BATCH, 20]


def test_a_verp_sender_is_expanded_with_the_rewritten_recipient_in_orders_of_their_own() -> None:
    send = brain(virtualdomains=b"virt.example:prefix\n")
    found = orders(
        send.handle(
            Arrived(job(b"a@far.example", b"b@far.example", b"u@virt.example", sender=b"l-@host-@[]"), NO_TOKEN),
            NOW,
        )
    )
    assert {(order.sender, *order.recipients) for order in found} == {
        (b"l-a=far.example@host", b"a@far.example"),
        (b"l-b=far.example@host", b"b@far.example"),
        (b"l-prefix-u=virt.example@host", b"prefix-u@virt.example"),
    }


def test_a_token_rides_with_each_order_and_is_released_once_when_all_is_settled() -> None:
    send = brain()
    first, second = [
        command for command in send.handle(Arrived(job(b"a@x.example", b"b@y.example"), 33), NOW) if isinstance(command, Place)
    ]
    assert (first.token, first.order.descriptor, second.token) == (33, 1, 33)
    assert Release(33) not in send.handle(report(first.order, b"K"), NOW)
    assert Release(33) in send.handle(report(second.order, b"Z"), NOW)
    assert (send.jobs, send.in_flight, send.waiting) == (0, 0, 0)


def test_a_job_without_recipients_only_releases_its_token() -> None:
    assert brain().handle(Arrived(job(), 9), NOW) == [Release(9)]


# --- reports


def test_each_outcome_of_a_report_is_answered_and_recorded() -> None:
    send = brain()
    (order,) = orders(send.handle(Arrived(job(*many(4)), NO_TOKEN), NOW))
    commands = send.handle(report(order, b"KZDK", b"so it is"), NOW + 2 * retry.SECOND)
    assert sorted(answers(commands), key=lambda frame: type(frame).__name__) == [
        frames.Deferred(1, b"remote:far.example", BIRTH + (2 + 20) ** 2 * retry.SECOND, [11]),
        frames.Done(1, [10, 13]),
        frames.Failed(1, 12, b"5.1.1 250 peer\nso it is\n"),
    ]
    made = records(commands)
    assert [record.values["outcome"] for record in made] == ["success", "temporary", "permanent", "success"]
    assert [record.values.get("due") for record in made] == [None, (BIRTH // retry.SECOND) + 484, None, None]
    assert made[0].event is events.DELIVERY
    assert made[0].values == {
        "message": 1,
        "sender": b"s@away.example",
        "recipient": b"user0@far.example",
        "channel": "remote",
        "outcome": "success",
        "code": 250,
        "enhanced": b"5.1.1",
        "text": b"so it is",
        "peer": b"peer",
        "delay": 7.0,
        "took": 2.0,
    }


def test_an_attempt_that_started_after_the_lifetime_turns_temporary_into_permanent() -> None:
    send = brain()
    (order,) = orders(send.handle(Arrived(job(b"a@far.example"), NO_TOKEN), BIRTH + WEEK + 1))
    commands = send.handle(report(order, b"Z", b"busy\n"), BIRTH + WEEK + 2)
    (failed,) = answers(commands)
    assert failed.note == (
        b"5.4.7 250 peer\nbusy\nThis message has been in the queue too long; it is not tried again. (#5.4.7)\n"
    )
    assert records(commands)[0].values["outcome"] == "permanent"


def test_an_attempt_that_only_ends_after_the_lifetime_is_not_the_last() -> None:
    send = brain()
    (order,) = orders(send.handle(Arrived(job(b"a@far.example"), NO_TOKEN), BIRTH + WEEK))
    (deferred,) = answers(send.handle(report(order, b"Z"), BIRTH + WEEK + 60 * retry.SECOND))
    assert isinstance(deferred, frames.Deferred)


@pytest.mark.parametrize("started", [NOW, BIRTH + 2 * WEEK])
def test_a_lost_service_is_temporary_within_a_minute_and_never_the_last_attempt(started: int) -> None:
    send = brain()
    (order,) = orders(send.handle(Arrived(job(*many(3)), NO_TOKEN), started))
    commands = send.handle(Reported(order.tag, None), started + 7)
    assert answers(commands) == [frames.Deferred(1, b"remote:far.example", started + 7 + 60 * retry.SECOND, [10, 11, 12])]
    assert {record.values["outcome"] for record in records(commands)} == {"temporary"}


def test_a_mangled_report_is_a_lost_one() -> None:
    send = brain()
    (order,) = orders(send.handle(Arrived(job(*many(3)), NO_TOKEN), NOW))
    assert [type(frame) for frame in answers(send.handle(report(order, b"KK"), NOW))] == [frames.Deferred]


# --- limits and turns


def test_remote_limits_count_orders_and_local_ones_recipients() -> None:
    send = brain(concurrencyremote=b"3", concurrencylocal=b"60", destinationconcurrency=b"2")
    found = orders(
        send.handle(Arrived(job(*many(500), *many(200, b"host.example"), *many(500, b"other.example")), NO_TOKEN), NOW)
    )
    assert Counter(order.lane for order in found) == {
        b"local": 2,
        b"remote:far.example": 2,
        b"remote:other.example": 1,
    }
    assert [len(order.recipients) for order in found if order.lane == b"local"] == [50, 10]


def test_a_report_makes_room_for_the_next_order() -> None:
    send = brain(concurrencyremote=b"1")
    (first,) = orders(send.handle(Arrived(job(b"a@x.example", b"b@y.example"), NO_TOKEN), NOW))
    (second,) = orders(send.handle(report(first, b"K"), NOW))
    assert (first.recipients, second.recipients) == ([b"a@x.example"], [b"b@y.example"])


@pytest.mark.parametrize("name, recipient", [("concurrencylocal", b"a@host.example"), ("concurrencyremote", b"a@far.example")])
def test_zero_holds_a_channel_until_a_reload(name: str, recipient: bytes) -> None:
    send = brain(**{name: b"0"})
    assert orders(send.handle(Arrived(job(recipient), NO_TOKEN), NOW)) == []
    assert (send.jobs, send.waiting) == (1, 1)
    assert [order.recipients for order in orders(send.handle(Changed(configured()), NOW))] == [[recipient]]


def test_a_channel_on_hold_keeps_a_bounded_number_in_memory_and_leaves_the_other_alone() -> None:
    send = brain(concurrencyremote=b"0")
    for number in range(1, MAX_HELD + 1):
        assert send.handle(Arrived(job(b"a@far.example", number=number), NO_TOKEN), NOW) == []
    commands = send.handle(Arrived(job(b"a@far.example", b"b@host.example", number=5000), 9), NOW)
    assert answers(commands) == [frames.Deferred(5000, b"remote:far.example", NOW + 300 * retry.SECOND, [10])]
    assert records(commands) == []
    (order,) = orders(commands)
    assert order.recipients == [b"b@host.example"]
    assert send.handle(report(order, b"K"), NOW)[-1] == Release(9)
    assert (send.jobs, send.waiting) == (MAX_HELD, MAX_HELD)


def test_a_slow_destination_keeps_a_bounded_number_in_memory_and_leaves_room_for_others() -> None:
    send = brain(destinationconcurrency=b"1")
    send.handle(Arrived(job(b"a@slow.example"), NO_TOKEN), NOW)
    for number in range(2, MAX_LANE + 2):
        assert answers(send.handle(Arrived(job(b"a@slow.example", number=number), NO_TOKEN), NOW)) == []
    commands = send.handle(Arrived(job(b"a@slow.example", b"b@fast.example", number=90_000), NO_TOKEN), NOW)
    assert answers(commands) == [frames.Deferred(90_000, b"remote:slow.example", NOW + 30 * retry.SECOND, [10])]
    assert records(commands) == []
    assert [order.recipients for order in orders(commands)] == [[b"b@fast.example"]]


@pytest.mark.parametrize("is_sealed", [False, True])
def test_large_messages_for_a_slow_destination_leave_room_for_others(is_sealed: bool) -> None:
    send = brain(destinationconcurrency=b"1")
    content = bytes(64 << 10)

    def large(number: int, *recipients: bytes) -> Arrived:
        frame = job(*recipients, number=number)._replace(size=len(content), content=content)
        return Arrived(frame._replace(content=b"", descriptor=1) if is_sealed else frame, 9 if is_sealed else NO_TOKEN)

    count = MAX_LANE_BYTES // len(content)
    for number in range(count + 1):
        assert answers(send.handle(large(number, b"a@slow.example"), NOW)) == []
    commands = send.handle(large(90_000, b"a@slow.example", b"b@fast.example"), NOW)
    assert [answer.lane for answer in answers(commands)] == [b"remote:slow.example"]
    assert [order.recipients for order in orders(commands)] == [[b"b@fast.example"]]


def test_slow_destinations_together_leave_room_for_local_mail() -> None:
    send = brain(concurrencyremote=b"1")
    for number in range(MAX_REMOTE + 1):
        send.handle(Arrived(job(b"a@host%d.far" % (number // 100), number=number), NO_TOKEN), NOW)
    commands = send.handle(Arrived(job(b"a@another.far", b"b@host.example", number=90_000), NO_TOKEN), NOW)
    assert [answer.lane for answer in answers(commands)] == [b"remote:another.far"]
    assert [order.recipients for order in orders(commands)] == [[b"b@host.example"]]


def test_a_reload_routes_again_what_waits() -> None:
    send = brain(concurrencyremote=b"1")
    (first,) = orders(send.handle(Arrived(job(*many(150)), NO_TOKEN), NOW))
    after = send.handle(Changed(configured(locals=b"far.example", concurrencyremote=b"1")), NOW)
    assert [(order.lane, order.indexes) for order in orders(after)] == [(b"local", list(range(110, 160)))]
    assert len(first.recipients) == 100


def test_a_huge_message_delays_a_small_one_in_its_lane_by_one_round() -> None:
    send = brain(destinationconcurrency=b"1")
    (order,) = orders(whole(send, Arrived(job(*many(10_000)), NO_TOKEN)))
    send.handle(Arrived(job(b"small@far.example", number=2), NO_TOKEN), NOW)
    seen = []
    for _ in range(4):
        (order,) = orders(send.handle(report(order, b"K" * len(order.recipients)), NOW))
        seen.append(order.number)
    assert seen == [2, 1, 1, 1]


def test_lanes_take_turns_and_a_lane_serves_in_order() -> None:
    send = brain(concurrencyremote=b"1")
    (order,) = orders(send.handle(Arrived(job(*many(1)), NO_TOKEN), NOW))
    for number in range(2, 6):
        send.handle(Arrived(job(b"a@far.example", number=number), NO_TOKEN), NOW)
    send.handle(Arrived(job(b"a@other.example", number=6), NO_TOKEN), NOW)
    seen = []
    for _ in range(5):
        (order,) = orders(send.handle(report(order, b"K"), NOW))
        seen.append(order.number)
    assert seen == [6, 2, 3, 4, 5]


# --- destinations that cannot be reached

UNREACHED = b"I could not establish a connection."


def unreached(order: frames.Order) -> Reported:
    count = len(order.recipients)
    columns = ([0] * count, [b"4.4.1"] * count, [UNREACHED] * count, [b""] * count)
    return Reported(order.tag, frames.Report(order.tag, b"Z" * count, *columns))


def with_a_dead_destination(waiting: int = 0, **files: bytes) -> tuple[Brain, list[Command]]:
    """A brain whose far.example has just died, and what it said then; so many messages waited for it."""
    send = brain(**files)
    found: list[frames.Order] = []
    for number in range(100, 105 + waiting):
        found += orders(send.handle(Arrived(job(b"a@far.example", number=number), NO_TOKEN), NOW))
    commands: list[Command] = []
    while not send.paces.is_dead(b"remote:far.example", NOW):
        if not found:
            found = orders(send.handle(Arrived(job(b"a@far.example", number=99), NO_TOKEN), NOW))
        commands = send.handle(unreached(found.pop(0)), NOW)
        found += orders(commands)
    for order in found:
        assert orders(send.handle(unreached(order), NOW)) == []
    return send, commands


def test_mail_for_a_dead_destination_is_deferred_without_an_attempt() -> None:
    send, _ = with_a_dead_destination()
    commands = send.handle(Arrived(job(b"a@far.example", b"b@near.example", b"c@far.example"), NO_TOKEN), NOW)
    due = retry.next_attempt(BIRTH, NOW, False, 0.0)
    assert answers(commands) == [frames.Deferred(1, b"remote:far.example", due, [10, 12])]
    assert [order.recipients for order in orders(commands)] == [[b"b@near.example"]]
    assert [(record.values["recipient"], record.values["outcome"]) for record in records(commands)] == [
        (b"a@far.example", "temporary"),
        (b"c@far.example", "temporary"),
    ]
    assert b"could not be reached lately" in records(commands)[0].values["text"]
    assert (send.jobs, send.waiting) == (1, 0)


def test_what_waits_when_a_destination_dies_is_deferred_too() -> None:
    send, commands = with_a_dead_destination(waiting=40)
    deferred = [answer.number for answer in answers(commands)]
    assert len(deferred) > 20 and sorted(deferred[1:]) == list(range(max(deferred) - len(deferred) + 2, 145))
    assert (send.jobs, send.in_flight, send.waiting) == (0, 0, 0)


def test_a_message_past_its_lifetime_is_really_tried() -> None:
    send, _ = with_a_dead_destination()
    (order,) = orders(send.handle(Arrived(job(b"a@far.example", birth=NOW - WEEK - 1), NO_TOKEN), NOW))
    assert order.is_probe
    (failed,) = answers(send.handle(unreached(order), NOW))
    assert isinstance(failed, frames.Failed) and UNREACHED in failed.note


def test_after_its_time_one_order_goes_first_and_success_opens_the_rest() -> None:
    send, _ = with_a_dead_destination()
    later = NOW + 60 * retry.SECOND
    (probe,) = orders(send.handle(Arrived(job(b"a@far.example", number=2), NO_TOKEN), later))
    assert send.handle(Arrived(job(b"b@far.example", number=3), NO_TOKEN), later) == []
    rest = orders(send.handle(report(probe, b"K"), later))
    assert [(order.number, order.is_probe) for order in [probe, *rest]] == [(2, 1), (3, 0)]


def test_a_failed_probe_means_twice_the_time() -> None:
    send, _ = with_a_dead_destination()
    later = NOW + 60 * retry.SECOND
    (probe,) = orders(send.handle(Arrived(job(b"a@far.example", number=2), NO_TOKEN), later))
    send.handle(unreached(probe), later)
    assert send.paces.is_dead(b"remote:far.example", later + 120 * retry.SECOND - 1)
    assert not send.paces.is_dead(b"remote:far.example", later + 120 * retry.SECOND)


def test_a_reload_keeps_what_was_learnt_but_of_routes_that_changed() -> None:
    send, _ = with_a_dead_destination()
    send.handle(Changed(configured(smtproutes=b"near.example:hub")), NOW)
    assert send.paces.is_dead(b"remote:far.example", NOW)

    send, _ = with_a_dead_destination(smtproutes=b"other.example:hub")
    for name in (b"remote:@other.example", b"remote:@same.example"):
        send.paces.use(name).limit = 1.0
        send.paces.rest(name)
    send.handle(Changed(configured(smtproutes=b"other.example:hub2")), NOW)
    assert {name: pace.limit for name, pace in send.paces if name.startswith(b"remote:@")} == {b"remote:@same.example": 1}


def test_a_huge_message_is_routed_in_slices_and_others_go_on_between_them() -> None:
    send = brain()
    everybody = [b"u@d%d.example" % (place % 5000) for place in range(20_000)]
    commands = send.handle(Arrived(job(*everybody), NO_TOKEN), NOW)
    assert commands == [More()]  # what goes to one lane shares orders: none begins before all are known
    assert len(orders(send.handle(Arrived(job(b"a@near.example", number=2), NO_TOKEN), NOW))) == 1
    assert send.waiting == 20_000
    slices = 0
    while More() in commands:
        commands = send.handle(Continued(), NOW)
        slices += 1
    assert slices > 10 and send.waiting + (send.in_flight - 1) * 4 == 20_000
    assert {len(order.recipients) for order in orders(commands)} <= {4}


def test_what_is_being_routed_is_routed_again_after_a_reload_and_dropped_with_the_queue() -> None:
    send = brain()
    assert More() in send.handle(Arrived(job(*many(5000)), 7), NOW)
    assert send.handle(Changed(configured(locals=b"far.example")), NOW) == []
    found = orders(whole(send, Continued()))
    assert {order.lane for order in found} == {b"local"}
    assert More() in send.handle(Arrived(job(*many(5000, b"x.example"), number=2), 8), NOW)
    assert Release(8) in send.handle(Lost(), NOW)
    assert send.handle(Continued(), NOW) == [] and send.jobs == 0


def test_a_message_to_many_lanes_is_in_memory_once() -> None:
    send = brain()
    content = bytes(64 << 10)
    frame = job(*[b"u@d%d.example" % place for place in range(2000)])._replace(size=len(content), content=content)
    assert answers(whole(send, Arrived(frame, NO_TOKEN))) == []


# --- the ends of connections


def test_when_the_queue_is_lost_what_waits_is_dropped_and_what_is_out_only_recorded() -> None:
    send = brain(concurrencyremote=b"1")
    (order,) = orders(send.handle(Arrived(job(b"a@x.example", b"b@y.example"), 5), NOW))
    assert send.handle(Lost(), NOW) == [Release(5)]
    assert (send.jobs, send.waiting, send.in_flight) == (0, 0, 1)
    commands = send.handle(report(order, b"D"), NOW)
    assert [type(command) for command in commands] == [Record]


def test_a_job_that_comes_back_after_a_loss_waits_for_the_slots_still_taken() -> None:
    send = brain(concurrencyremote=b"1")
    (stale,) = orders(send.handle(Arrived(job(b"a@x.example"), NO_TOKEN), NOW))
    send.handle(Lost(), NOW)
    assert orders(send.handle(Arrived(job(b"a@x.example"), NO_TOKEN), NOW)) == []
    (order,) = orders(send.handle(report(stale, b"K"), NOW))
    assert answers(send.handle(report(order, b"K"), NOW)) == [frames.Done(1, [10])]


def test_nothing_starts_after_stopping_but_reports_are_still_answered() -> None:
    send = brain(concurrencyremote=b"1")
    (order,) = orders(send.handle(Arrived(job(b"a@x.example", b"b@y.example"), NO_TOKEN), NOW))
    assert send.handle(Stopping(), NOW) == []
    assert orders(send.handle(Arrived(job(b"c@z.example", number=2), NO_TOKEN), NOW)) == []
    commands = send.handle(report(order, b"K"), NOW)
    assert (answers(commands), orders(commands)) == ([frames.Done(1, [10])], [])


# --- the end of a message


def finish(sender: bytes, count: int = 1) -> Finished:
    notes = [b"5.1.1 550 peer\nno\n"] * count
    return Finished(frames.Finish(4, BIRTH, 0, b"smtp", sender, many(count), notes, 5, b"", 0), b"Subject: x\n\n", True)


@pytest.mark.parametrize(
    "sender, bounce_sender, recipient",
    [
        (b"s@away.example", b"", b"s@away.example"),
        (b"l-@host-@[]", b"", b"l-@host"),
        (b"", b"#@[]", b"postmaster@host.example"),
    ],
)
def test_a_failure_is_told_to(sender: bytes, bounce_sender: bytes, recipient: bytes) -> None:
    send = brain()
    (bounce,) = send.handle(finish(sender, 2), NOW)
    assert isinstance(bounce, frames.Bounce)
    assert (bounce.number, bounce.sender, bounce.recipients) == (4, bounce_sender, [recipient])
    values = {"message": 4, "bounce": 77, "sender": sender, "recipient": recipient, "recipients": 2}
    assert send.handle(Committed(frames.Bounced(4, 77)), NOW) == [Record(events.BOUNCED, values)]
    assert send.handle(Committed(frames.Bounced(4, 77)), NOW) == []


@pytest.mark.parametrize(
    "sender, original, flags",
    [
        (b"s@away.example", b"Subject: x\n\nplain\n", 0),
        (b"s@away.example", b"Subject: x\n\n\xe9\n", frames.FLAG_8BIT),
        ("s@bücher.example".encode(), b"Subject: x\n\nplain\n", frames.FLAG_8BIT | frames.FLAG_UTF8),
    ],
)
def test_a_bounce_says_what_its_transport_must_carry(sender: bytes, original: bytes, flags: int) -> None:
    (bounce,) = brain().handle(finish(sender)._replace(original=original), NOW)
    assert isinstance(bounce, frames.Bounce) and bounce.flags == flags


def test_a_local_failure_names_no_server() -> None:
    send = brain()
    (order,) = orders(send.handle(Arrived(job(b"a@host.example"), NO_TOKEN), NOW))
    (failed,) = answers(send.handle(report(order, b"D"), NOW))
    assert failed.note == b"5.1.1 0 \nsaid\n"


def test_a_double_bounce_that_fails_is_discarded_and_recorded() -> None:
    record, ended = brain().handle(finish(b"#@[]"), NOW)
    assert ended == frames.Ended(4)
    assert isinstance(record, Record) and record.event is events.DISCARDED


def test_an_empty_doublebounceto_discards_double_bounces() -> None:
    send = Brain(dataclasses.replace(configured(), doublebounceto=b""), lambda: 0.0)
    assert send.handle(finish(b""), NOW)[-1] == frames.Ended(4)
    assert isinstance(send.handle(finish(b"s@away.example"), NOW)[0], frames.Bounce)


# --- whatever happens, in whatever order

DOMAINS = [b"host.example", b"far.example", b"other.example", b"relayed.example"]
RECIPIENTS = st.lists(
    st.builds(lambda place, domain: b"u%d@%b" % (place, domain), st.integers(0, 9), st.sampled_from(DOMAINS)),
    max_size=8,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("job"), RECIPIENTS, st.booleans()),
        st.tuples(
            st.just("report"),
            st.integers(0, 50),
            st.lists(st.sampled_from(b"KZD?"), min_size=10, max_size=10),
        ),
        st.tuples(st.just("lose"), st.integers(0, 50)),
        st.tuples(st.just("unreached"), st.integers(0, 50)),
        st.tuples(st.just("mangle"), st.integers(0, 50)),
        st.tuples(st.just("change"), st.integers(0, 2)),
        st.tuples(st.just("queue lost")),
    ),
    max_size=40,
)
CONFIGURATIONS = [
    configured(concurrencyremote=b"2", concurrencylocal=b"3", destinationconcurrency=b"1"),
    configured(concurrencyremote=b"0", concurrencylocal=b"5", smtproutes=b"relayed.example:hub"),
    configured(concurrencyremote=b"9", concurrencylocal=b"0", locals=b"far.example"),
]


class Ledger:
    """What the queue would know: who is out, who was answered; and which tokens and orders are open."""

    def __init__(self) -> None:
        self.send = Brain(CONFIGURATIONS[0], lambda: 0.5)
        self.open: dict[int, set[int]] = {}  # of this queue connection
        self.ordered: Counter[tuple[int, int]] = Counter()
        self.orders: list[frames.Order] = []
        self.tokens: set[int] = set()
        self.number = 0

    def handle(self, event: Any) -> None:
        for command in whole(self.send, event):
            if isinstance(command, Place):
                assert command.token == NO_TOKEN or command.token in self.tokens
                assert set(command.order.indexes) <= self.open[command.order.number]
                self.ordered.update((command.order.number, index) for index in command.order.indexes)
                self.orders.append(command.order)
            elif isinstance(command, Release):
                self.tokens.remove(command.token)
            elif isinstance(command, (frames.Done, frames.Deferred)):
                for index in command.indexes:
                    self.open[command.number].remove(index)
            elif isinstance(command, frames.Failed):
                self.open[command.number].remove(command.index)

    def step(self, kind: str, *values: Any) -> None:
        if kind == "job":
            self.number += 1
            token = self.number if values[1] else NO_TOKEN
            if values[1]:
                self.tokens.add(token)
            frame = job(*values[0], number=self.number)
            self.open[self.number] = set(frame.indexes)
            self.handle(Arrived(frame, token))
        elif kind == "change":
            self.handle(Changed(CONFIGURATIONS[values[0]]))
        elif kind == "queue lost":
            self.open.clear()
            self.handle(Lost())
            assert not self.tokens
        elif self.orders:
            order = self.orders.pop(values[0] % len(self.orders))
            count = len(order.recipients)
            outcomes = bytes(values[1][:count]) if kind == "report" else b"K" * (count + 1)
            event = Reported(order.tag, None) if kind == "lose" else report(order, outcomes)
            self.handle(unreached(order) if kind == "unreached" else event)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_every_recipient_is_ordered_once_and_answered_once_whatever_happens(
    steps: list[tuple[Any, ...]],
) -> None:
    ledger = Ledger()
    for kind, *values in steps:
        ledger.step(kind, *values)
    ledger.handle(Changed(configured()))
    while ledger.orders:
        ledger.step("report", 0, b"K" * 10)
    assert not any(ledger.open.values())
    assert not ledger.tokens
    assert set(ledger.ordered.values()) <= {1}
    assert (ledger.send.jobs, ledger.send.in_flight, ledger.send.waiting) == (0, 0, 0)


def test_a_week_of_retries_ends_in_a_failure_that_says_why() -> None:
    send = Brain(configured(), lambda: 1.0)
    now, attempts = BIRTH, 0
    while True:
        (order,) = orders(send.handle(Arrived(job(b"a@far.example"), NO_TOKEN), now))
        attempts += 1
        now += 30 * retry.SECOND
        (answer,) = answers(send.handle(report(order, b"Z", b"cannot connect"), now))
        if isinstance(answer, frames.Failed):
            break
        assert answer.due > now
        now = answer.due
    assert 34 <= attempts <= 40
    assert BIRTH + WEEK < now < BIRTH + WEEK + 40_000 * retry.SECOND
    assert b"too long" in answer.note
