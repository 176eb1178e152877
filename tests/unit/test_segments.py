"""The second reading of the queue's files: it agrees with the store's own, and names what is damaged."""

from __future__ import annotations

import contextlib
import itertools
import json
import pathlib
import random
import select
import shutil
import struct
from collections.abc import Iterator

import pytest

from qmaild.commands import qmailctl
from qmaild.commands.dumping import Reading, Unreadable
from qmaild.queue.core import checksum
from qmaild.queue.log import NEW, Living
from qmaild.queue.segments import COPY, HEAD_BYTES, START, Damage, Record, header, records
from qmaild.queue.store import Store
from qmaild.queue.values import StoreError

from .store_client import PATIENCE, SEGMENT, Client

States = dict[int, list[tuple[str, bytes, int]]]


def reading(directory: pathlib.Path) -> tuple[Reading, dict[int, Living], list[tuple[str, Record | Damage]]]:
    """A directory read to its end: the reading, what lives, every item with its segment."""
    found = Reading(str(directory))
    items = [(segment.name, item) for segment in found.order() for item in found.items(segment)]
    return found, found.finish()[0], items


def by_dump(directory: pathlib.Path) -> States:
    return {
        number: [message.states.get(index, (NEW, b"", 0)) for index in range(message.count)]
        for number, message in reading(directory)[1].items()
    }


def by_store(directory: pathlib.Path) -> tuple[States, int]:
    """What the store itself finds, and how many damages it counts. It repairs what it opens: read before."""
    store = Store.open(str(directory), segment_bytes=SEGMENT, large_bytes=20_000)
    found: States = {}
    after = 0
    while messages := store.messages(after, 1000):
        after = messages[-1].number
        for each in messages:
            found[each.number] = [
                (part.state, part.lane, part.due) if part.state == "waiting" else (part.state, b"", 0)
                for part in each.recipients
            ]
    damaged = store.counts().damaged
    store.close()
    return found, damaged


def live_through(client: Client, chance: random.Random, steps: int) -> None:
    """A life: messages come, are tried, deferred, fail, bounce, are forwarded and end."""
    for _ in range(steps):
        count = chance.choice((1, 1, 2, 5, 40))
        recipients = tuple(b"u%d@d%d.example" % (place, chance.randrange(9)) for place in range(count))
        client.add(chance.randbytes(chance.choice((0, 10, 3000, 9000))), recipients, sender=b"s%d@x.example" % count)
        if chance.random() < 0.4:
            client.settle()
        for job in client.due(limit=chance.randrange(12)):
            indexes = [index for index, _ in job.recipients]
            chance.shuffle(indexes)
            cuts = sorted(chance.choices(range(len(indexes) + 1), k=3))
            done, late, failed = (sorted(indexes[begin:end]) for begin, end in itertools.pairwise([0, *cuts]))
            if done:
                client.store.done(job.number, done)
            if late:
                client.store.defer(job.number, b"remote:d%d.example" % chance.randrange(9), chance.randrange(1, 1 << 50), late)
            for index in failed:
                client.store.fail(job.number, index, b"no such user")
            if job.kind == "finish":
                client.add(b"a bounce", (b"s@x.example",), ends=job.number)
            elif not chance.randrange(9):
                with contextlib.suppress(StoreError):  # it has ended with its last recipient
                    client.store.end(job.number)
    client.settle()


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> pathlib.Path:
    """A queue with a history and six messages, the last of them in a batch of its own, closed."""
    client = Client(tmp_path / "queue")
    live_through(client, random.Random(1), 30)
    for number in client.store.find(None, 0, 1000)[0]:
        client.store.end(number)
    for place in range(6):
        client.add(b"content %d" % place, (b"a@b.example", b"c@d.example"))
        if place >= 4:
            client.settle()
    client.store.close()
    return tmp_path / "queue"


@pytest.mark.parametrize("seed", range(12))
def test_it_finds_alive_what_the_store_finds(seed: int, tmp_path: pathlib.Path) -> None:
    chance = random.Random(seed)
    client = Client(tmp_path / "queue")
    for _ in range(3):
        live_through(client, chance, chance.randrange(1, 60))
        found = by_dump(tmp_path / "queue")
        client.store.close()
        expected, _ = by_store(tmp_path / "queue")
        assert found == expected and (found or seed)
        assert reading(tmp_path / "queue")[0].damages == 0
        client.store = Store.open(client.directory, segment_bytes=SEGMENT)


def hurt(path: pathlib.Path, chance: random.Random) -> None:
    """Damage one file: a bit, zeros, bytes of elsewhere, a cut."""
    data = bytearray(path.read_bytes())
    at, length = chance.randrange(len(data)), chance.randrange(1, 300)
    kind = chance.randrange(6)
    if kind == 0:
        del data[at:]
    elif kind == 1:
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == 2:
        data[at : at + length] = data[START : START + len(data[at : at + length])]
    else:
        data[chance.choice((at, START + at % 4096, at % 96))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_of_damaged_files_it_finds_alive_what_the_store_finds(seed: int, tmp_path: pathlib.Path) -> None:
    chance = random.Random(seed)
    client = Client(tmp_path / "queue")
    live_through(client, chance, 60)
    client.store.close()
    for place in range(12):
        copy = tmp_path / f"copy{place}"
        shutil.copytree(tmp_path / "queue", copy)
        for _ in range(chance.randrange(1, 4)):
            hurt(chance.choice(sorted((copy / "segments").iterdir())), chance)
        dumped = by_dump(copy)
        damages = reading(copy)[0].damages
        expected, damaged = by_store(copy)
        assert dumped == expected
        assert damages >= damaged


def dump(directory: pathlib.Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    code = qmailctl.main(["queue", "dump", str(directory), *options])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def messages(directory: pathlib.Path) -> Iterator[tuple[pathlib.Path, Record]]:
    """The living messages' records and their files."""
    _, living, items = reading(directory)
    for name, item in items:
        if isinstance(item, Record) and item.kind == 1 and item.number in living:
            yield directory / "segments" / name, item


def test_a_sound_queue_is_dumped_in_lines_and_in_json(directory: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = dump(directory, capsys)
    assert code == 0 and out.endswith("6 messages live; 0 places are damaged\n")
    assert "<from@example>  a@b.example, c@d.example (test)" in out
    code, out, _ = dump(directory, capsys, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and lines[-1] == {"living": [item.number for _, item in messages(directory)], "damages": 0}
    assert {"version", "generation", "stamp", "previous_end"} <= lines[0].keys()
    assert [line["recipients"] for line in lines if line.get("kind") == "message"][-1] == ["a@b.example", "c@d.example"]


def test_a_damaged_record_is_named_and_skipped_and_the_rest_is_read(
    directory: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, record = list(messages(directory))[2]
    data = bytearray(path.read_bytes())
    data[record.offset + 50] ^= 1
    path.write_bytes(data)
    code, out, _ = dump(directory, capsys)
    assert code == 1
    expected = f"a message record of message {record.number} is not whole"
    assert f"DAMAGED segments/{path.name} at {record.offset}, {record.length} bytes: {expected}" in out
    assert out.endswith("5 messages live; 1 places are damaged\n")


def test_another_record_of_a_number_with_another_size_is_named_and_changes_nothing(
    directory: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _, items = reading(directory)
    newest = found.log[-1].name
    record = [item for name, item in items if name == newest and isinstance(item, Record) and item.kind == 1][-1]
    end = max(item.offset + item.length for name, item in items if name == newest)
    path = directory / "segments" / newest
    data = bytearray(path.read_bytes())
    data[end : end + record.length] = data[record.offset : record.offset + record.length]
    data[end + 96 : end + 104] = (5).to_bytes(8, "little")  # bytes in a file of its own, which is not there
    data[end + 4 : end + 8] = checksum(data[end + 8 : end + record.length]).to_bytes(4, "little")
    path.write_bytes(data)
    code, out, _ = dump(directory, capsys)
    assert code == 1 and f"a message record of message {record.number} that cannot be" in out
    assert out.endswith("6 messages live; 1 places are damaged\n")
    dumped = by_dump(directory)
    assert by_store(directory) == (dumped, 1)


def test_what_is_bad_in_the_last_batch_is_named_and_is_no_damage(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = Client(tmp_path / "queue")
    for size in (10, 3000, 10):
        client.add(b"x" * size)
    client.settle()
    client.store.close()
    path, record = list(messages(tmp_path / "queue"))[1]
    data = bytearray(path.read_bytes())
    data[record.offset + 512 : record.offset + 1024] = bytes(512)
    path.write_bytes(data)
    code, out, _ = dump(tmp_path / "queue", capsys)
    assert code == 0 and out.endswith("2 messages live; 0 places are damaged\n")
    expected = f"the write was cut short: a message record of message {record.number} is not whole"
    assert f"{record.offset:>10} {record.length:>8}  {expected}\n" in out


def test_a_copy_whose_facts_a_crash_took_does_not_outlive_them(tmp_path: pathlib.Path) -> None:
    directory = tmp_path / "queue"
    client = Client(directory)
    number = client.add(b"content", (b"a@b.example", b"c@d.example"))
    client.settle()
    client.store.done(number, [0])
    client.settle()

    others = []
    while len(reading(directory)[0].log) < 2:
        others.append(client.add(bytes(3000)))
        client.settle()
    client.store.close()
    found, _, items = reading(directory)
    newest = found.log[-1]
    end = max(item.offset + item.length for name, item in items if name == newest.name)
    path, record = next(each for each in messages(directory) if each[1].number == number)
    copy = bytearray(path.read_bytes()[record.offset : record.offset + record.length])
    copy[8:24] = struct.pack("<QQ", newest.generation, newest.stamp)
    copy[38:40] = COPY.to_bytes(2, "little")
    copy[4:8] = checksum(bytes(copy[8:])).to_bytes(4, "little")
    path = directory / "segments" / newest.name
    data = bytearray(path.read_bytes())
    data[end : end + len(copy)] = copy
    path.write_bytes(data)
    (directory / "checkpoint").unlink(missing_ok=True)
    client.store = Store.open(client.directory, segment_bytes=SEGMENT)
    for _ in range(60):  # until the segments of now have been written over
        for other in others:
            client.store.end(other)
        others = [client.add(bytes(3000))]
        client.settle()
        assert by_dump(directory)[number] == [("done", b"", 0), (NEW, b"", 0)]
    assert not {each.generation for each in reading(directory)[0].log} & {each.generation for each in found.log}


def test_a_torn_tail_is_named_and_is_no_damage(directory: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, _, items = reading(directory)
    newest = found.log[-1]
    end = max([item.offset + item.length for name, item in items if name == newest.name], default=START)
    path = directory / "segments" / newest.name
    data = bytearray(path.read_bytes())
    data[end : end + 60] = b"QMR1" + bytes(4) + newest.generation.to_bytes(8, "little") + b"x" * 44
    path.write_bytes(data)
    code, out, _ = dump(directory, capsys)
    assert code == 0 and "the write was cut short" in out and out.endswith("6 messages live; 0 places are damaged\n")


def test_a_cut_segment_keeps_what_stands_before_the_cut(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Without a history: what a later record says of older segments would be cut off too.
    directory = tmp_path / "queue"
    client = Client(directory)
    for _ in range(6):
        client.add(b"content", (b"a@b.example", b"c@d.example"))
    client.settle()
    client.store.close()
    path, record = list(messages(directory))[3]
    path.write_bytes(path.read_bytes()[: record.offset + 8])
    code, out, _ = dump(directory, capsys)
    assert code == 1 and "the file is cut" in out and "3 messages live" in out


def test_garbage_beside_the_log_changes_nothing_that_lives(directory: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "segments" / "0000ffff").write_bytes(random.Random(2).randbytes(SEGMENT))
    (directory / "segments" / "ffff0000").write_bytes(b"QMR1" * 5000)
    (directory / "segments" / "fffff000").write_bytes(b"")
    code, out, _ = dump(directory, capsys)
    assert code == 1 and "DAMAGED segments/0000ffff at 0" in out and "6 messages live" in out


def test_headers_that_are_gone_are_named_and_records_read(directory: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next(messages(directory))[0]
    data = bytearray(path.read_bytes())
    data[:HEAD_BYTES] = data[-START : HEAD_BYTES - START] = bytes(range(HEAD_BYTES))
    path.write_bytes(data)
    code, out, _ = dump(directory, capsys)
    assert code == 1 and out.count("the header is damaged") == 2 and "no header" in out and "a@b.example" in out


def test_a_foreign_version_is_named(directory: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next(messages(directory))[0]
    data = bytearray(path.read_bytes())
    for at in (0, len(data) - START):
        data[at + 8 : at + 12] = (7).to_bytes(4, "little")
        data[at + 12 : at + 16] = checksum(data[at + 16 : at + HEAD_BYTES], checksum(data[at : at + 12])).to_bytes(4, "little")
    path.write_bytes(data)
    code, out, _ = dump(directory, capsys)
    assert code == 1 and "expected version 1, found 7" in out
    (directory / "format").write_text("qmaild queue 2\n")
    assert dump(directory, capsys)[::2] == (1, f"qmailctl: {directory}/format: expected b'qmaild queue 1\\n', "
                                               "found b'qmaild queue 2\\n'\n")  # fmt: skip


def test_a_directory_that_is_no_queue_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Unreadable, match="format: No such file"):
        Reading(str(tmp_path))


def test_a_queue_without_segments_is_empty(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "format").write_text("qmaild queue 1\n")
    (tmp_path / "segments").mkdir()
    assert dump(tmp_path, capsys) == (0, "0 messages live; 0 places are damaged\n", "")


def test_content_is_written_whole_with_the_body_of_a_large_message(
    tmp_path: pathlib.Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    client = Client(tmp_path / "queue", large_bytes=4096)
    staged = client.store.stage()
    staged.write(b"large\n" * 9000)
    staged.sync()
    while not client.store.collect().staged:
        assert select.select([client.store.eventfd], [], [], PATIENCE)[0]
    number = client.add(b"Received: x\n", staged=staged)
    client.settle()
    client.store.close()
    assert qmailctl.main(["queue", "dump", str(tmp_path / "queue"), "--content", str(number)]) == 0
    assert capfdbinary.readouterr().out == b"Received: x\n" + b"large\n" * 9000
    (tmp_path / "queue" / "large" / f"{number:016x}").unlink()
    assert qmailctl.main(["queue", "dump", str(tmp_path / "queue")]) == 1
    assert b"has lost its body" in capfdbinary.readouterr().out
    assert qmailctl.main(["queue", "dump", str(tmp_path / "queue"), "--content", "99"]) == 1


def test_no_bytes_whatsoever_make_it_fail() -> None:
    chance = random.Random(5)
    for _ in range(300):
        data = bytearray(chance.randbytes(START + 3000))
        for _ in range(20):
            at = START + chance.randrange(2900)
            data[at : at + 24] = b"QMR1" + bytes(4) + (1).to_bytes(8, "little") + (2).to_bytes(8, "little")
        list(records(bytes(data), 1, 2, len(data), chance.random() < 0.5))
        header(bytes(data))
