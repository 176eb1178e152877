"""Destinations' paces: growth, shrinking, death, revival, and what is remembered of whom."""

from __future__ import annotations

from qmaild.policy.retry import SECOND
from qmaild.scheduler.evidence import Evidence
from qmaild.scheduler.paces import FIRST_LIMIT, MAX_RESTING, SLOW, Pace, Paces, Told

NOW = 1_700_000_000 * SECOND


class Orders:
    """Orders to one destination, one after the other."""

    def __init__(self) -> None:
        self.pace = Pace()
        self.number = 0

    def tell(self, evidence: Evidence, now: int = NOW, is_full: bool = True, took: int = SECOND) -> bool:
        self.number += 1
        return self.pace.learn(Told(evidence, took, b"said"), self.number, self.number, is_full, now)

    def until_dead(self, now: int = NOW) -> int:
        failures = 1
        while not self.tell(Evidence.BAD, now):
            failures += 1
        return failures


def test_it_begins_small_and_each_success_adds_one() -> None:
    orders = Orders()
    assert orders.pace.limit == FIRST_LIMIT
    for _ in range(15):
        orders.tell(Evidence.GOOD)
    assert orders.pace.limit == FIRST_LIMIT + 15


def test_it_grows_only_while_the_limit_is_in_use() -> None:
    orders = Orders()
    orders.tell(Evidence.GOOD, is_full=False)
    orders.tell(Evidence.ANSWERED)
    assert orders.pace.limit == FIRST_LIMIT


def test_trouble_halves_it_and_afterwards_it_grows_by_one_a_round() -> None:
    orders = Orders()
    for _ in range(15):
        orders.tell(Evidence.GOOD)
    orders.tell(Evidence.BAD)
    assert orders.pace.limit == 10
    for _ in range(10):
        orders.tell(Evidence.GOOD)
    assert 10.9 < orders.pace.limit <= 11


def test_orders_begun_before_the_shrinking_shrink_it_no_further() -> None:
    pace = Pace()
    for number in range(1, 6):
        pace.learn(Told(Evidence.BAD, 0, b""), number, 5, True, NOW)
    assert (pace.limit, pace.failures) == (2, 1)
    pace.learn(Told(Evidence.BAD, 0, b""), 6, 7, True, NOW)
    assert (pace.limit, pace.failures) == (1, 2)


def test_failures_in_a_row_at_one_order_make_it_dead_for_a_time_that_doubles() -> None:
    orders = Orders()
    assert orders.until_dead() == 5  # 5, 2, 1, 1, 1
    now, times = NOW, []
    for _ in range(7):
        times.append((orders.pace.dead_until - now) // SECOND)
        assert orders.pace.is_dead(orders.pace.dead_until - 1) and not orders.pace.is_dead(orders.pace.dead_until)
        now = orders.pace.dead_until
        assert orders.tell(Evidence.BAD, now)  # the one that was let through
    assert times == [60, 120, 240, 480, 960, 960, 960]


def test_pressure_shrinks_but_never_kills() -> None:
    orders = Orders()
    assert not any([orders.tell(Evidence.PRESSURE) for _ in range(50)])
    assert orders.pace.limit == 1


def test_any_answer_revives_it() -> None:
    for answer in (Evidence.ANSWERED, Evidence.GOOD, Evidence.PRESSURE):
        orders = Orders()
        orders.until_dead()
        orders.tell(answer, NOW + SECOND)
        assert not orders.pace.is_dead(NOW + SECOND) and not orders.pace.is_doubtful
        assert orders.until_dead() >= 3


def test_a_failure_while_it_is_dead_does_not_lengthen_that() -> None:
    orders = Orders()
    orders.until_dead()
    until = orders.pace.dead_until
    assert not orders.tell(Evidence.BAD, NOW + SECOND)
    assert orders.pace.dead_until == until


def test_our_own_trouble_tells_nothing() -> None:
    orders = Orders()
    orders.tell(Evidence.BAD)
    before = (orders.pace.limit, orders.pace.failures)
    orders.tell(Evidence.NONE, took=SLOW + 1)
    assert (orders.pace.limit, orders.pace.failures) == before and not orders.pace.is_slow


def test_a_clock_that_is_put_back_revives_the_dead() -> None:
    orders = Orders()
    orders.until_dead()
    assert not orders.pace.is_dead(NOW - 3600 * SECOND)


def test_an_order_that_took_long_marks_it_slow_until_a_quicker_one() -> None:
    orders = Orders()
    orders.tell(Evidence.GOOD, took=SLOW + 1)
    assert orders.pace.is_doubtful
    orders.tell(Evidence.GOOD, took=SLOW)
    assert not orders.pace.is_doubtful


def test_what_was_learnt_survives_a_rest_and_the_longest_unused_goes_first() -> None:
    paces = Paces()
    for number in range(MAX_RESTING + 1):
        name = b"remote:%d" % number
        paces.use(name).limit = 7.0
        paces.rest(name)
        assert not paces.is_dead(b"remote:0", NOW)  # it is asked for: the last to be forgotten
    assert paces.use(b"remote:0").limit == 7
    assert paces.use(b"remote:1").limit == FIRST_LIMIT
    assert paces.use(b"remote:2").limit == 7


def test_unmarked_destinations_take_no_room() -> None:
    paces = Paces()
    paces.use(b"remote:a")
    paces.rest(b"remote:a")
    assert list(paces) == []


def test_the_dead_can_be_revived_at_once() -> None:
    paces, orders = Paces(), Orders()
    orders.until_dead()
    paces.use(b"remote:a")
    paces._used[b"remote:a"] = orders.pace
    assert paces.is_dead(b"remote:a", NOW)
    assert paces.revive() == 1
    assert not paces.is_dead(b"remote:a", NOW) and paces.use(b"remote:a").limit == 1


def test_the_destinations_that_take_least_are_shown_first() -> None:
    paces, dead = Paces(), Orders()
    dead.until_dead()
    paces.use(b"remote:well.example")
    paces.use(b"remote:slow.example").learn(Told(Evidence.PRESSURE, 0, b"451 too\nmuch"), 1, 1, True, NOW)
    paces.use(b"remote:dead.example")
    paces._used[b"remote:dead.example"] = dead.pace
    assert paces.lines(NOW, 10) == [
        "dead.example: left alone for 60 seconds, 5 failures in a row; lately: said",
        "slow.example: 2 at a time; lately: 451 too/much",
    ]
    assert len(paces.lines(NOW, 1)) == 1
