"""The store as its callers see it, on a real directory with real threads. Crashes are in tests/crash."""

from __future__ import annotations

import errno
import os
import pathlib
import resource
import select
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from qmaild.queue.store import Store
from qmaild.queue.values import Job, StoreError

from .store_client import FOREVER, PATIENCE, SEGMENT, Client


@pytest.fixture
def client(tmp_path: pathlib.Path) -> Iterator[Client]:
    client = Client(tmp_path / "queue")
    yield client
    client.store.close()


def test_a_message_is_due_once_durable_with_all_it_was_given(client: Client) -> None:
    number = client.add(b"body", (b"a@example", b"b@example"), flags=7, birth=123)
    assert client.due() == []
    client.settle()
    assert client.next_due() == 0
    assert client.due() == [
        Job(number, 123, 7, b"test", b"from@example", ((0, b"a@example"), (1, b"b@example")), b"body", "attempt", 4, ())
    ]
    assert client.due() == []
    assert client.next_due() is None


def test_a_number_is_never_given_twice_even_when_every_segment_was_written_over(client: Client) -> None:
    numbers = []
    for _ in range(60):
        numbers.append(client.add(b"x" * 5000))
        client.settle()
        for job in client.due():
            client.store.done(job.number, [0])
        client.settle()
    client.reopen()
    numbers.append(client.add())
    assert numbers == sorted(set(numbers))
    assert client.store.counts().segments <= 3


def test_empty_and_null_values_survive(client: Client) -> None:
    client.add(b"", (b"", b"\0\xff"), sender=b"", origin=b"")
    client.settle()
    client.reopen()
    (job,) = client.due()
    assert (job.sender, job.origin, job.content, job.recipients) == (b"", b"", b"", ((0, b""), (1, b"\0\xff")))


def test_states_survive_a_restart_and_what_was_out_is_due_again(client: Client) -> None:
    number = client.add(recipients=tuple(b"r%d@example" % at for at in range(5)))
    client.settle()
    client.due()
    client.store.done(number, [0])
    client.store.fail(number, 1, b"no such user")
    client.store.defer(number, b"remote example", 5_000, [2, 3])
    client.settle()
    client.reopen()
    (summary,) = client.store.messages(0, 10)
    assert [part.state for part in summary.recipients] == ["done", "failed", "waiting", "waiting", "new"]
    assert summary.recipients[1].note == b"no such user"
    assert (summary.recipients[2].lane, summary.recipients[2].due) == (b"remote example", 5_000)
    assert [job.recipients for job in client.due(4_999)] == [((4, b"r4@example"),)]
    assert [job.recipients for job in client.due(5_000)] == [((2, b"r2@example"), (3, b"r3@example"))]


def test_new_messages_come_before_old_ones_and_old_ones_by_due_time(client: Client) -> None:
    late, early, fresh = client.add(), client.add(), client.add()
    client.settle()
    client.due(limit=2)
    client.store.defer(late, b"lane", 200, [0])
    client.store.defer(early, b"lane", 100, [0])
    assert [job.number for job in client.due()] == [fresh, early, late]


def test_one_job_holds_all_that_is_due_of_a_message_whatever_the_lane(client: Client) -> None:
    number = client.add(recipients=(b"a", b"b", b"c"))
    client.settle()
    client.due()
    for index, due in enumerate((10, 20, 30)):
        client.store.defer(number, b"lane %d" % index, due, [index])
    assert client.next_due() == 10
    assert [job.recipients for job in client.due(20)] == [((0, b"a"), (1, b"b"))]
    assert client.next_due() == 30


def test_the_last_recipient_done_ends_the_message(client: Client) -> None:
    number = client.add(recipients=(b"a", b"b"))
    client.settle()
    client.due()
    client.store.done(number, [1])
    assert client.store.counts().messages == 1
    client.store.done(number, [0])
    assert client.store.counts().messages == 0
    client.settle()
    client.reopen()
    assert client.store.counts().messages == 0


def test_an_index_named_twice_counts_once(client: Client) -> None:
    number = client.add(recipients=(b"a", b"b"))
    client.settle()
    client.due()
    client.store.done(number, [0, 0])
    assert [part.state for part in client.store.messages(0, 1)[0].recipients] == ["done", "out"]


def test_done_and_failed_are_final(client: Client) -> None:
    number = client.add(recipients=(b"a", b"b", b"c"))
    client.settle()
    client.due()
    client.store.done(number, [0])
    client.store.fail(number, 1, b"first")
    client.store.fail(number, 0, b"too late")
    client.store.fail(number, 1, b"second")
    client.store.defer(number, b"lane", 1, [0, 1])
    client.store.done(number, [1])
    states = [(part.state, part.note) for part in client.store.messages(0, 1)[0].recipients]
    assert states == [("done", b""), ("failed", b"first"), ("out", b"")]


def test_a_message_with_failures_is_finished_by_its_bounce_in_one_commit(client: Client) -> None:
    number = client.add(recipients=(b"a", b"b"))
    client.settle()
    client.due()
    client.store.fail(number, 1, b"why")
    assert client.due() == []
    client.store.done(number, [0])
    (job,) = client.due()
    assert (job.kind, job.recipients, job.notes) == ("finish", (), ((1, b"b", b"why"),))
    assert client.due() == []
    bounce = client.add(b"bounce", (b"from@example",), sender=b"", ends=number)
    assert client.store.counts().messages == 2
    with pytest.raises(StoreError) as raised:
        client.add(ends=number)
    assert raised.value.reason == "state"
    client.settle()
    assert [summary.number for summary in client.store.messages(0, 9)] == [bounce]
    client.reopen()
    assert [summary.number for summary in client.store.messages(0, 9)] == [bounce]


def test_a_finish_is_due_again_after_give_back_and_after_a_restart(client: Client) -> None:
    number = client.add()
    client.settle()
    client.due()
    client.store.fail(number, 0, b"why")
    assert [job.kind for job in client.due()] == ["finish"]
    client.store.give_back(number)
    assert [job.kind for job in client.due()] == ["finish"]
    client.settle()
    client.reopen()
    assert [job.kind for job in client.due()] == ["finish"]


def test_a_forward_marks_the_recipient_it_served_in_one_commit(client: Client) -> None:
    number = client.add(recipients=(b"a", b"b"))
    client.settle()
    client.due()
    client.add(b"forward", serves=(number, 0))
    with pytest.raises(StoreError) as raised:
        client.add(b"forward again", serves=(number, 0))
    assert raised.value.reason == "state"
    assert client.store.is_out(number, 0)
    client.settle()
    assert not client.store.is_out(number, 0)
    assert client.store.messages(0, 1)[0].recipients[0].state == "done"
    client.add(b"forward", serves=(number, 1))
    client.settle()
    assert [summary.number for summary in client.store.messages(0, 9)] == [number + 1, number + 2]
    client.reopen()
    assert [summary.number for summary in client.store.messages(0, 9)] == [number + 1, number + 2]


@pytest.mark.parametrize("about", [{"ends": 99}, {"serves": (99, 0)}, {"serves": (1, 1)}])
def test_a_message_about_an_unknown_one_is_refused_without_a_trace(client: Client, about: dict[str, object]) -> None:
    client.add()
    client.settle()
    before = client.store.counts()
    with pytest.raises(StoreError) as raised:
        client.add(**about)  # type: ignore[arg-type]
    assert raised.value.reason == "unknown"
    assert client.store.counts() == before


def test_give_back_makes_what_is_out_due_and_leaves_what_waits(client: Client) -> None:
    number = client.add(recipients=(b"a", b"b"))
    client.settle()
    client.due()
    client.store.defer(number, b"lane", FOREVER + 1, [1])
    assert client.store.is_out(number, 0) and not client.store.is_out(number, 1)
    client.store.give_back(number)
    assert [job.recipients for job in client.due()] == [((0, b"a"),)]


def test_retry_makes_a_message_or_some_of_its_recipients_due(client: Client) -> None:
    numbers = [client.add(recipients=(b"a@x", b"b@y", b"c@y")) for _ in range(2)]
    client.settle()
    client.due()
    for number in numbers:
        client.store.defer(number, b"lane x", FOREVER + 1, [0])
        client.store.defer(number, b"lane y", FOREVER + 1, [1, 2])
    client.store.retry(numbers[0])
    assert [(job.number, len(job.recipients)) for job in client.due()] == [(numbers[0], 3)]
    client.store.retry(numbers[1], [2])
    assert [(job.number, job.recipients) for job in client.due()] == [(numbers[1], ((1, b"b@y"), (2, b"c@y")))]
    for wrong in ((999, None), (numbers[1], [3])):
        with pytest.raises(StoreError) as raised:
            client.store.retry(*wrong)
        assert raised.value.reason == "unknown"


def test_facts_about_unknown_messages_and_recipients_are_refused(client: Client) -> None:
    number = client.add()
    client.settle()
    wrongs: list[Callable[[], object]] = [
        lambda: client.store.done(99, [0]), lambda: client.store.done(number, [1]), lambda: client.store.end(99),
        lambda: client.store.fail(number, 1, b""), lambda: client.store.fail(99, 0, b""),
        lambda: client.store.defer(number, b"", 0, [0, 5]), lambda: client.store.give_back(99),
        lambda: client.store.read(99),
    ]  # fmt: skip
    for wrong in wrongs:
        with pytest.raises(StoreError) as raised:
            wrong()
        assert raised.value.reason == "unknown"
    assert [part.state for part in client.store.messages(0, 1)[0].recipients] == ["new"]


@pytest.mark.parametrize(
    "much",
    [
        {"recipients": ()}, {"recipients": (b"x",) * 100_001}, {"recipients": (b"x" * 65536,)},
        {"content": b"x" * SEGMENT}, {"sender": b"x" * SEGMENT},
    ],
)  # fmt: skip
def test_what_no_record_can_hold_is_refused(client: Client, much: dict[str, object]) -> None:
    with pytest.raises(StoreError) as raised:
        client.add(**much)  # type: ignore[arg-type]
    assert raised.value.reason == "limit"
    assert client.store.counts().messages == 0


def test_a_hundred_thousand_recipients_with_a_lane_each(tmp_path: pathlib.Path) -> None:
    client = Client(tmp_path / "queue", segment_bytes=32 << 20)
    count = 100_000
    number = client.add(recipients=tuple(b"user%d@example" % at for at in range(count)))
    client.settle()
    (job,) = client.due()
    assert len(job.recipients) == count
    for at in range(0, count, 10):
        client.store.defer(number, b"lane %d" % (at % 1000), at * 1_000_000, list(range(at, at + 10)))
    client.settle()
    client.reopen()
    counts = client.store.counts()
    assert (counts.waiting, counts.new, counts.messages) == (count, 0, 1)
    # 100 seconds early, so that it is not read again for each of the next ten thousand due times.
    assert [len(job.recipients) for job in client.due(49_900_000_000)] == [50_010]
    client.store.done(number, list(range(count)))
    assert client.store.counts().messages == 0
    client.store.close()


def test_messages_lists_in_pages_by_number(client: Client) -> None:
    numbers = [client.add(b"x" * at) for at in range(50)]
    client.settle()
    client.store.end(numbers[3])
    del numbers[3]
    found, after = [], 0
    while page := client.store.messages(after, 7):
        assert len(page) <= 7
        found += [summary.number for summary in page]
        after = found[-1]
    assert found == numbers
    assert client.store.messages(0, 1)[0].size == 0


def test_a_large_message_streams_into_a_file_of_its_own(client: Client) -> None:
    staged = client.store.stage()
    for _ in range(100):
        staged.write(b"0123456789" * 1000)
    descriptor = staged.open()
    assert os.fstat(descriptor).st_size == 1_000_000
    os.close(descriptor)
    with pytest.raises(StoreError):
        client.add(b"prefix", staged=staged)  # not synced
    staged.sync()
    with pytest.raises(StoreError):
        staged.write(b"more")
    client.wait_for(staged)
    number = client.add(b"prefix", staged=staged)
    assert number == staged.number
    staged.abort()  # too late: it is the message's
    client.settle()
    client.reopen()
    (job,) = client.due()
    assert (job.content, job.size) == (None, 1_000_006)
    prefix, descriptor = client.store.open_large(number)
    assert (prefix, os.read(descriptor, 10)) == (b"prefix", b"0123456789")
    with pytest.raises(OSError):
        os.write(descriptor, b"x")
    os.close(descriptor)
    with pytest.raises(StoreError):
        client.store.read(number)
    client.store.done(number, [0])
    client.settle()
    assert os.listdir(client.directory + "/large") == []


def test_a_large_message_that_a_forward_ended_is_no_damage(client: Client) -> None:
    staged = client.store.stage()
    staged.write(b"body")
    staged.sync()
    client.wait_for(staged)
    large = client.add(b"prefix", staged=staged)
    client.settle()
    (job,) = client.due()
    client.add(serves=(job.number, 0))
    client.settle()
    assert os.listdir(client.directory + "/large") == []
    client.reopen()
    assert client.store.counts().damaged == 0
    assert large not in [summary.number for summary in client.store.messages(0, 9)]


def test_an_aborted_or_forgotten_file_goes(client: Client) -> None:
    staged = client.store.stage()
    staged.write(b"x")
    assert len(os.listdir(client.directory + "/large")) == 1
    staged.abort()
    staged.abort()
    assert os.listdir(client.directory + "/large") == []
    other = client.store.stage()
    other.write(b"x")
    other.sync()
    other.abort()
    client.store.stage().write(b"left behind")
    client.reopen()
    assert os.listdir(client.directory + "/large") == []


def test_a_file_no_record_names_goes_at_open(client: Client) -> None:
    orphan = client.directory + "/large/00000000000000ff"
    client.store.close()
    pathlib.Path(orphan).write_bytes(b"x")
    client.store = Store.open(client.directory, segment_bytes=SEGMENT)
    assert not os.path.exists(orphan)


def test_tickets_rise_and_nothing_to_commit_answers_the_last(client: Client) -> None:
    client.add()
    first = client.store.commit()
    assert client.store.commit() == first
    client.add()
    assert client.store.commit() > first


def test_the_eventfd_is_quiet_until_something_is_decided_and_after_collect(client: Client) -> None:
    client.settle()
    while select.select([client.store.eventfd], [], [], 0)[0]:
        client.store.collect()
    client.add()
    assert not select.select([client.store.eventfd], [], [], 0)[0]
    client.store.commit()
    assert select.select([client.store.eventfd], [], [], PATIENCE)[0]


def test_close_commits_what_was_appended(client: Client) -> None:
    number = client.add()
    client.reopen()
    assert [job.number for job in client.due()] == [number]


def test_disk_use_stays_within_twice_the_living_bytes_and_two_segments(client: Client) -> None:
    living: list[int] = []
    for turn in range(400):
        number = client.add(os.urandom(3000))
        if turn % 10 == 0:
            living.append(number)
        client.settle()
        for job in client.due():
            if job.number not in living:
                client.store.done(job.number, [0])
            else:
                client.store.defer(job.number, b"lane", FOREVER + job.number, [0])
        client.settle()
    contents = {number: client.store.read(number) for number in living}
    for _ in range(50):
        client.settle()
    counts = client.store.counts()
    assert counts.bytes_disk <= 2 * counts.bytes_living + 2 * SEGMENT
    client.reopen()
    assert {number: client.store.read(number) for number in living} == contents
    assert client.store.counts().waiting == len(living)
    assert client.store.messages(0, 1)[0].recipients[0].due == FOREVER + living[0]


def test_messages_that_wait_in_many_lanes_are_not_copied_for_ever(client: Client) -> None:
    """Their deferrals take more than they do: what a copy must say again is living too."""
    for _ in range(100):
        client.add(recipients=tuple(b"r%d@example" % index for index in range(50)))
    client.settle()
    for job in client.due():
        for index, _ in job.recipients:
            client.store.defer(job.number, b"remote a-domain-with-a-name-%d.example" % index, FOREVER, [index])
    client.settle()
    rounds = 0
    while select.select([client.store.eventfd], [], [], 1)[0]:
        client.store.collect()
        rounds += 1
        assert rounds < 1000, "the store does not rest"
    counts = client.store.counts()
    assert counts.bytes_disk <= 2 * counts.bytes_living + 2 * SEGMENT


def test_copying_forward_keeps_every_state(client: Client) -> None:
    number = client.add(recipients=(b"a", b"b", b"c", b"d"))
    client.settle()
    client.due()
    client.store.done(number, [0])
    client.store.fail(number, 1, b"note")
    client.store.defer(number, b"lane", FOREVER + 5, [2])
    for _ in range(60):
        other = client.add(b"x" * 6000)
        client.settle()
        client.due()
        client.store.done(other, [0])
        client.settle()
    segments = os.listdir(client.directory + "/segments")
    client.reopen()
    assert len(segments) <= 3
    (summary,) = client.store.messages(0, 9)
    assert [part.state for part in summary.recipients] == ["done", "failed", "waiting", "new"]
    assert (summary.recipients[1].note, summary.recipients[2].due) == (b"note", FOREVER + 5)


def test_the_index_takes_at_most_200_bytes_for_a_queued_message(tmp_path: pathlib.Path) -> None:
    client = Client(tmp_path / "queue", segment_bytes=8 << 20)
    for turn in range(40_000):
        client.add(b"", (b"someone@example",))
        if turn % 1000 == 999:
            client.settle()
    for job in client.due(limit=40_000):
        client.store.defer(job.number, b"remote example", 5, [0])
    counts = client.store.counts()
    assert counts.bytes_index / counts.messages <= 200
    client.store.close()


def test_a_full_disk_refuses_messages_keeps_marks_and_resumes(tmp_path: pathlib.Path) -> None:
    """The file-size limit stands in for the full disk: a segment cannot be made. In a child, for the limit is for all."""
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path / "queue")], capture_output=True, text=True,
                          timeout=60, cwd=pathlib.Path(__file__).parents[2])  # fmt: skip
    assert done.returncode == 0, done.stderr


FULL_DISK = """
import resource, select, signal, sys
from qmaild.queue.store import FRESH, Store
from qmaild.queue.values import StoreError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store.open(sys.argv[1], segment_bytes=65536)
numbers = []

def settle():
    ticket = store.commit()
    while True:
        collected = store.collect()
        if collected.durable >= ticket:
            return collected
        assert select.select([store.eventfd], [], [], 20)[0]

def add():
    numbers.append(store.add(birth=1, flags=0, origin=b"", sender=b"", recipients=[b"x"], content=b"y" * 3000))

add()
settle()
# Behind the last place of a record (61440) and before the end of a segment (65536).
resource.setrlimit(resource.RLIMIT_FSIZE, (62000, resource.RLIM_INFINITY))
refused = False
for _ in range(100):
    try:
        add()
    except StoreError as error:
        assert error.reason in ("space", "io"), error.reason
        refused = True
        break
    settle()
assert refused
assert len(numbers) > 10
jobs = list(iter(lambda: store.due(1, FRESH), None))
for job in jobs[:-1]:
    store.done(job.number, [0])
assert settle().failed == []
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for _ in range(1000):
    try:
        add()
        break
    except StoreError:
        select.select([store.eventfd], [], [], 1)
        store.collect()
else:
    raise SystemExit("it does not resume")
settle()
store.close()
store = Store.open(sys.argv[1], segment_bytes=65536)
assert store.counts().messages == 2, store.counts()
"""


def test_a_second_opener_is_refused(client: Client) -> None:
    with pytest.raises(StoreError) as raised:
        Store.open(client.directory, segment_bytes=SEGMENT)
    assert raised.value.reason == "locked"
    assert client.directory in str(raised.value)


def test_a_directory_that_is_not_there_is_refused_unless_it_may_be_made(tmp_path: pathlib.Path) -> None:
    with pytest.raises(StoreError) as raised:
        Store.open(str(tmp_path / "none"), create=False)
    assert raised.value.reason == "io"
    with pytest.raises(StoreError):
        Store.open(str(tmp_path / "none" / "deeper"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize("part", ["", "segments", "large"])
def test_a_directory_of_someone_else_is_refused(tmp_path: pathlib.Path, part: str) -> None:
    Store.open(str(tmp_path / "queue"), segment_bytes=SEGMENT).close()
    os.chown(tmp_path / "queue" / part, 12345, 12345)
    with pytest.raises(StoreError) as raised:
        Store.open(str(tmp_path / "queue"), segment_bytes=SEGMENT)
    assert raised.value.reason == "owner"


@pytest.mark.parametrize("text", [b"qmaild queue 2\n", b"", b"qmaild queue 1\nmore", b"\0" * 5000])
def test_a_foreign_format_is_refused_and_left_alone(client: Client, text: bytes) -> None:
    client.add()
    client.settle()
    client.store.close()
    file = pathlib.Path(client.directory, "format")
    file.write_bytes(text)
    with pytest.raises(StoreError) as raised:
        Store.open(client.directory, segment_bytes=SEGMENT)
    assert raised.value.reason == "format"
    assert str(file) in str(raised.value)
    assert file.read_bytes() == text
    file.unlink()
    with pytest.raises(StoreError) as raised:
        Store.open(client.directory, segment_bytes=SEGMENT)
    assert raised.value.reason == "format"
    file.write_bytes(b"qmaild queue 1\n")
    client.store = Store.open(client.directory, segment_bytes=SEGMENT)
    assert client.store.counts().messages == 1


@pytest.mark.parametrize("size", [0, 4096, SEGMENT + 1, 2 << 30])
def test_a_segment_size_that_cannot_be_is_refused(tmp_path: pathlib.Path, size: int) -> None:
    with pytest.raises(StoreError) as raised:
        Store.open(str(tmp_path / "queue"), segment_bytes=size)
    assert raised.value.reason == "limit"


def test_segments_keep_their_size_when_another_is_asked_for(client: Client) -> None:
    numbers = [client.add(b"x" * 20_000) for _ in range(5)]
    client.settle()
    client.options["segment_bytes"] = 1 << 20
    client.reopen()
    numbers.append(client.add(b"x" * 500_000))
    client.settle()
    client.options["segment_bytes"] = SEGMENT
    client.reopen()
    assert [summary.number for summary in client.store.messages(0, 99)] == numbers


def spoil(client: Client, text: bytes) -> None:
    """Change a bit of the message that has this text, in its segment. The store is closed."""
    segment = client.holder(text)
    content = bytearray(segment.read_bytes())
    content[content.index(text) + 9] ^= 1
    segment.write_bytes(content)


def test_damage_costs_one_message_and_is_counted(client: Client) -> None:
    numbers = [client.add(b"%d " % at * 500) for at in range(5)]
    client.settle()
    numbers.append(client.add(b"its batch says that all before it was durable"))
    client.settle()
    client.store.close()
    spoil(client, b"2 2 2 2")
    client.store = Store.open(client.directory, segment_bytes=SEGMENT)
    assert [summary.number for summary in client.store.messages(0, 99)] == numbers[:2] + numbers[3:]
    assert client.store.counts().damaged == 1


def test_what_is_bad_in_the_last_batch_counts_as_torn_once_and_never_as_damage(client: Client) -> None:
    numbers = [client.add(b"%d " % at * 500) for at in range(5)]
    client.settle()
    client.store.close()
    spoil(client, b"2 2 2 2")
    del numbers[2]
    for torn in (1, 0):
        client.store = Store.open(client.directory, segment_bytes=SEGMENT)
        assert [summary.number for summary in client.store.messages(0, 99)] == numbers
        assert (client.store.counts().damaged, client.store.counts().torn) == (0, torn)
        numbers.append(client.add(b"its batch says that all before it was durable"))
        client.settle()
        client.store.close()


def test_a_record_that_goes_bad_while_open_is_never_delivered(client: Client) -> None:
    bad, good = client.add(b"bad " * 100), client.add(b"good")
    client.settle()
    segment = client.holder(b"bad bad")
    with segment.open("r+b") as file:
        file.seek(segment.read_bytes().index(b"bad bad"))
        file.write(b"BAD")
    assert [job.number for job in client.due(1_000)] == [good]
    assert client.next_due() == 1_000 + 300_000_000
    assert client.store.counts().damaged == 1
    with pytest.raises(StoreError) as raised:
        client.store.read(bad)
    assert raised.value.reason == "damaged"


def test_a_body_cannot_imitate_a_record(client: Client) -> None:
    """A copy of another record stands in a body whose own record is damaged: the scan for the next one passes it."""
    victim = client.add(b"victim")
    client.settle()
    segment = client.holder(b"victim")
    record = segment.read_bytes()[4096 : 4096 + 200]
    forged = bytearray(record)
    forged[16:24] = b"\0" * 8  # the stamp, which no sender knows
    for shift in range(8):
        client.add(b"x" * shift + bytes(forged))
    client.store.end(victim)
    client.settle()
    client.store.close()
    content = bytearray(segment.read_bytes())
    content[4096 + 4] ^= 1
    segment.write_bytes(content)
    client.store = Store.open(client.directory, segment_bytes=SEGMENT)
    assert victim not in [summary.number for summary in client.store.messages(0, 99)]


def test_too_many_open_files_is_said_and_passes(client: Client) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(StoreError) as raised:
            client.store.stage()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert raised.value.reason == "io"
    assert os.strerror(errno.EMFILE) in str(raised.value)
    client.store.stage().abort()
