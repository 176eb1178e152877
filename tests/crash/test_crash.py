"""The queue core dies at every system call, meets every failure, reads every damage, and keeps what it promised.

The core is built with the address and undefined-behaviour sanitizers, over a simulated disk (disk.c), beside a model
of what was promised (model.c). After every crash it is opened with its checkpoint and without, and must be the same.
A broken promise or a sanitizer's finding ends the program with a word about it.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "crash"
FLAGS = [
    "-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined",
    "-fno-sanitize-recover", "-Wall", "-Wextra", "-Werror", "-pthread",
]  # fmt: skip
ENVIRONMENT = {**os.environ, "ASAN_OPTIONS": "quarantine_size_mb=16"}  # more only takes the kernel's time, for fresh pages
WORKLOADS = {"eio": 2, "enospc": 2, "dying": 2, "full": 2, "ebbing": 2, "stranded": 2}  # three of all others
POINTS_EACH = 250  # a workload makes more calls than this; fewer tried means that the workload broke off
EBB_POINTS = 150  # three for each call
SERVED_PART = 3  # at one point in so many the store must have opened with a checkpoint
SECONDS = 300

Record = Callable[[str, object], None]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The programs crash, damage and cases, built with sanitizers."""
    into = tmp_path_factory.mktemp("crash")
    sources = [*sorted((ROOT / "native").glob("queue*.c")), ROOT / "native" / "crc32c.c", *sorted(HERE.glob("*.c"))]

    def object_of(source: pathlib.Path) -> pathlib.Path:
        made = into / f"{source.stem}.o"
        words = ["cc", *FLAGS, f"-I{ROOT / 'native'}", f"-I{HERE}", "-c", source, "-o", made]
        subprocess.run(words, check=True, timeout=SECONDS)
        return made

    with ThreadPoolExecutor(2) as pool:
        objects = {made.stem: made for made in pool.map(object_of, sources)}
    programs = [objects.pop(name) for name in ("crash", "damage", "cases")]
    for program in programs:
        subprocess.run(["cc", *FLAGS, *objects.values(), program, "-o", into / program.stem], check=True, timeout=SECONDS)
    return into


def numbers_of(program: pathlib.Path, *words: object) -> dict[str, int]:
    """Run it; return the numbers it prints behind their names, or fail with what it said."""
    done = subprocess.run([str(program), *map(str, words)], capture_output=True, text=True, timeout=SECONDS, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-4000:]
    said = done.stdout.split()
    return {name: int(number) for name, number in zip(said[::2], said[1::2], strict=True)}


def tried(built: pathlib.Path, mode: str, record: Record, least: int = POINTS_EACH) -> None:
    """Every call of each workload. Two runs share one: three workloads keep two processors busy."""
    runs = [(seed, first) for seed in range(1, WORKLOADS.get(mode, 3) + 1) for first in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda run: numbers_of(built / "crash", mode, *run, 2), runs))
    points = sum(each["points"] for each in found)
    assert min(each["points"] for each in found) >= least / 2
    assert sum(each["served"] for each in found) * SERVED_PART >= points
    record(f"points {mode}", points)


def damaged(built: pathlib.Path, what: str, much: int, record: Record) -> int:
    with ThreadPoolExecutor(2) as pool:
        points = sum(pool.map(lambda seed: numbers_of(built / "damage", what, seed, much)["points"], (1, 101)))
    record(f"points damaged {what}", points)
    return points


@pytest.mark.parametrize("mode", ["lost", "kept", "torn"])
def test_power_lost_at_every_call_breaks_no_promise(
    built: pathlib.Path, mode: str, record_property: Record
) -> None:
    tried(built, mode, record_property)


def test_killed_or_cut_off_again_during_recovery_breaks_no_promise(
    built: pathlib.Path, record_property: Record
) -> None:
    tried(built, "twice", record_property)


def test_what_a_killed_process_left_in_the_cache_serves_the_next_one_and_survives_the_power_cut_that_follows(
    built: pathlib.Path, record_property: Record
) -> None:
    tried(built, "inherited", record_property)


def test_power_lost_while_whole_segments_are_let_go_brings_nothing_back(
    built: pathlib.Path, record_property: Record
) -> None:
    tried(built, "ebbing", record_property, EBB_POINTS)


def test_a_call_that_fails_while_whole_segments_are_let_go_misleads_no_other_process(
    built: pathlib.Path, record_property: Record
) -> None:
    tried(built, "stranded", record_property, EBB_POINTS)


def test_power_lost_soon_after_a_call_has_failed_breaks_no_promise(built: pathlib.Path, record_property: Record) -> None:
    tried(built, "faltering", record_property)


def test_a_message_acknowledged_right_after_a_call_has_failed_survives_the_power_cut_that_follows(
    built: pathlib.Path, record_property: Record
) -> None:
    tried(built, "hurried", record_property)


def test_no_checkpoint_is_ahead_of_the_log_when_the_power_goes_before_what_failed_comes_again(
    built: pathlib.Path, record_property: Record
) -> None:
    tried(built, "waiting", record_property)


def test_what_another_process_shows_after_a_failed_sync_survives_the_power_cut_that_follows(
    built: pathlib.Path, record_property: Record
) -> None:
    tried(built, "believing", record_property)


@pytest.mark.parametrize("mode", ["eio", "enospc"])
def test_any_call_failing_once_breaks_no_promise(built: pathlib.Path, mode: str, record_property: Record) -> None:
    tried(built, mode, record_property)


@pytest.mark.parametrize("mode", ["dying", "full"])
def test_a_disk_that_fails_from_some_call_on_breaks_no_promise_and_is_used_again_when_it_recovers(
    built: pathlib.Path, mode: str, record_property: Record
) -> None:
    tried(built, mode, record_property)


def test_damaged_segments_cost_only_the_records_that_were_touched(
    built: pathlib.Path, record_property: Record
) -> None:
    assert damaged(built, "segments", 200, record_property) == 400


def test_a_damaged_checkpoint_is_not_believed_and_costs_nothing_but_time(
    built: pathlib.Path, record_property: Record
) -> None:
    assert damaged(built, "checkpoint", 2, record_property) > 1000


def test_a_place_behind_the_checkpoints_beginning_is_not_believed_when_the_log_does_not_tell_it(
    built: pathlib.Path, record_property: Record
) -> None:
    assert damaged(built, "misplaced", 1, record_property) > 10


def test_a_forged_checkpoint_leads_to_no_bad_access(built: pathlib.Path, record_property: Record) -> None:
    assert damaged(built, "forged", 500, record_property) == 1000


def test_the_checkpoint_of_another_queue_is_not_believed(built: pathlib.Path, record_property: Record) -> None:
    assert damaged(built, "foreign", 1, record_property) == 2


def test_a_segment_is_filled_to_its_last_byte_and_no_further(built: pathlib.Path) -> None:
    assert numbers_of(built / "cases", "brim") == {"points": 10}


def test_what_stands_in_a_segment_whose_sync_failed_is_copied_out_of_it(built: pathlib.Path) -> None:
    assert numbers_of(built / "cases", "spoiled") == {"points": 1}


def test_what_a_torn_write_left_is_no_damage_when_more_has_been_written_behind_it(built: pathlib.Path) -> None:
    assert numbers_of(built / "cases", "torn") == {"points": 1}
