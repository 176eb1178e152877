"""Cuts the power of a machine that works the store, thousands of times, and counts what was lost: make power CUTS=n."""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from tests.power.block_log import Replay
from tests.power.cuts import Bench, Tally, cut
from tests.power.disk import FILES_AT, FILES_BYTES, MARKS_AT, MARKS_BYTES, make_disk
from tests.power.machine import Machine, fetch_kernel, first_files

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "power"
ENTRIES = 1000  # messages a recording may make; the check's work grows with the square
FLAGS = [
    "-std=c11", "-D_GNU_SOURCE", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{ROOT / 'native'}",
    f"-I{ROOT / 'tests' / 'crash'}", "-DOPS=60000", "-DCOUNT_MAX=6", "-DLARGE_MOST=300000", "-DTHREADS=1",
    "-DCHECKPOINT=40000", "-DCHECKPOINT_SLICE=100",
    "-ffunction-sections", "-Wl,--gc-sections",  # what the model asks of a simulated disk only is left out
]  # fmt: skip
CUTS = 4000
CUTS_A_KILL = 300  # a kill costs a boot
KILLS_EACH = 3  # on one disk
ROOM = 2 << 30  # of scratch files
KILL_SECONDS = (0.2, 5.0)  # of work before the power goes
WEAK_CUTS = 200
WEAKNESSES = {1: "no fdatasync", 2: "no fsync", 3: "no fsync of directories"}


@dataclass(frozen=True, slots=True)
class Plan:
    """One recording: a file system, how it is mounted, how long it works."""

    kind: str
    options: str
    steps: int = 1500


PLANS = [
    Plan("ext4", ""), Plan("ext4", "data=writeback,discard"), Plan("ext4", "data=journal"), Plan("xfs", ""),
]  # fmt: skip


def build(name: str, entries: int, *more: str) -> pathlib.Path:
    """One of the two programs: the core, the crash tests' model on a real disk, and its main."""
    here, model = pathlib.Path(__file__).parent, BUILD / f"model-{name}.o"
    flags = [*FLAGS, *more, f"-DENTRIES={entries}"]
    threads = ["-Dqueue_step=await_decision", "-Dqueue_stage_sync=stage_and_await"]
    subprocess.run(["cc", *flags, *threads, "-c", ROOT / "tests" / "crash" / "model.c", "-o", model], check=True)
    parts = [here / f"{name}.c", here / "real.c", here / "marks.c", model]
    core = [*sorted((ROOT / "native").glob("queue*.c")), ROOT / "native" / "crc32c.c"]
    subprocess.run(["cc", *flags, *parts, *core, "-o", BUILD / name], check=True)
    return BUILD / name


class House:
    """What all recordings share: the kernel, the programs, room for images."""

    def __init__(self, scratch: pathlib.Path) -> None:
        BUILD.mkdir(parents=True, exist_ok=True)
        self.kernel = fetch_kernel(BUILD)
        self.scratch = scratch
        self.first = scratch / "first"
        self.first.write_bytes(first_files(self.kernel, build("guest", ENTRIES, "-static")))
        self.bench = Bench(scratch, build("look", ENTRIES + 10))

    def record(self, plan: Plan, disk: pathlib.Path, seed: int, weak: int = 0) -> pathlib.Path:
        """Run a machine on this disk to its end; return the log."""
        log = disk.with_suffix(".log")
        running = disk.with_suffix(".running")
        shutil.copyfile(disk, running)
        settings = {"type": plan.kind, "options": plan.options, "weak": weak, "seed": seed, "steps": plan.steps}
        machine = Machine(self.kernel, self.first, running, settings, log)
        try:
            machine.wait_for("worked")
            machine.finish()
        finally:
            machine.cut()
            running.unlink()
        return log


def show(what: str, tally: Tally, seconds: float) -> None:
    cuts = ", ".join(f"{count} {fate}" for fate, count in sorted(tally.cuts.items()))
    print(
        f"{what}: {sum(tally.cuts.values())} cuts ({cuts}), {tally.facts} acknowledged facts and {tally.messages} messages "
        f"checked, {sum(tally.broken.values())} broken, {tally.damaged.total()} with damage, {tally.torn} torn writes, "
        f"{tally.served} opened with a checkpoint, {seconds:.0f} s",
        flush=True,
    )
    for promise, count in tally.broken.most_common():
        print(f"    {count} x {promise}", flush=True)


def recordings(house: House, cuts: int, seed: int) -> list[Tally]:
    """Each plan on a fresh disk, then again on one that a cut left behind, so that recovery is cut as well."""
    tallies = []
    for turn, plan in enumerate(PLANS * 2):
        disk = house.scratch / f"{turn % len(PLANS)}.disk"
        began = time.monotonic()
        again = turn >= len(PLANS)
        if not again:
            make_disk(disk, plan.kind)
        log = house.record(plan, disk, seed + turn)
        tally = Tally()
        replay = Replay(disk, log)
        marks = house.scratch / "marks"
        cut(house.bench, replay, plan.kind, marks, cuts // (2 * len(PLANS)), seed + turn, tally, None if again else disk)
        log.unlink()
        show(f"{plan.kind} {plan.options}{' after a cut' if again else ''}", tally, time.monotonic() - began)
        tallies.append(tally)
    return tallies


def weakened(house: House, seed: int) -> bool:
    """The same with a core whose syncs do nothing: whether each kind that a journal does not make up for is found."""
    found = {}
    for weakness, what in WEAKNESSES.items():
        began = time.monotonic()
        disk = house.scratch / "weak.disk"
        make_disk(disk, "ext4")
        plan = Plan("ext4", "", 900)
        log = house.record(plan, disk, seed, weakness)
        tally = Tally()
        cut(house.bench, Replay(disk, log), plan.kind, house.scratch / "marks", WEAK_CUTS, seed, tally)
        log.unlink()
        show(f"ext4, {what}", tally, time.monotonic() - began)
        found[weakness] = sum(tally.broken.values())
    return bool(found[1] and found[2])


def kills(house: House, count: int, seed: int) -> Tally:
    """Real power: the machine ends at any moment, is looked at, and started again on the same disk."""
    chance, tally, began = random.Random(seed), Tally(), time.monotonic()
    disk, marks = BUILD / "kill.disk", house.scratch / "marks"
    for turn in range(count):
        kind = PLANS[turn // KILLS_EACH % len(PLANS)].kind
        if turn % KILLS_EACH == 0:
            make_disk(disk, kind)
        settings = {"type": kind, "options": "", "weak": 0, "seed": seed + turn, "steps": 1_000_000}
        machine = Machine(house.kernel, house.first, disk, settings)
        try:
            machine.wait_for("working")
            with contextlib.suppress(subprocess.TimeoutExpired):
                machine.process.wait(chance.uniform(*KILL_SECONDS))
                raise RuntimeError("the machine ended by itself:\n" + "".join(machine.said))
        finally:
            machine.cut()
        content = disk.read_bytes()
        marks.write_bytes(content[MARKS_AT : MARKS_AT + MARKS_BYTES])
        house.bench.free_view()[:] = content[FILES_AT : FILES_AT + FILES_BYTES]
        house.bench.look(kind, marks, MARKS_BYTES // 512, (tally, "kept", f"kill {turn} of seed {seed}"))
        house.bench.wait()
    disk.unlink()
    show("killed machines", tally, time.monotonic() - began)
    return tally


def main() -> int:
    cuts = int(sys.argv[1]) if len(sys.argv) > 1 else CUTS
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}", flush=True)
    memory = pathlib.Path("/dev/shm")
    roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM
    with tempfile.TemporaryDirectory(dir=memory if roomy else None, prefix="power.") as scratch:
        house = House(pathlib.Path(scratch))
        try:
            tallies = [*recordings(house, cuts, seed), kills(house, max(cuts // CUTS_A_KILL, KILLS_EACH), seed)]
            can_fail = weakened(house, seed)
        finally:
            house.bench.close()
    broken = sum(sum(tally.broken.values()) for tally in tallies)
    damaged = sum(tally.damaged.total() for tally in tallies)
    served = sum(tally.served for tally in tallies)
    print(
        f"{sum(sum(tally.cuts.values()) for tally in tallies)} power cuts, {sum(tally.facts for tally in tallies)} acknowledged "
        f"facts checked, {served} stores opened with a checkpoint, {broken} broken, {damaged} with damage"
    )
    for tally in tallies:
        print("".join(f"{example}\n" for example in tally.examples[:5]), end="")
    if not can_fail:
        print("A core without its syncs was not found out: this test proves nothing.")
    if not served:
        print("No checkpoint was there to be opened with.")
    return 0 if can_fail and served and not broken and not damaged else 1


if __name__ == "__main__":
    sys.exit(main())
