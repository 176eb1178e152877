"""Power cuts: a recorded disk at one moment, mounted again, the store opened and held against what it had promised."""

from __future__ import annotations

import mmap
import pathlib
import random
import re
import subprocess
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.power.block_log import Replay
from tests.power.disk import FILES_BYTES

WORKERS = 2
LOOK_SECONDS = 120
FATES = ("kept", "lost", "some", "torn")
# The namespace is there so that nothing stays mounted, whatever happens.
LOOK = """ulimit -c 0
mount -t "$1" -o "loop$7" "$2" "$3" || exit 99
"$4" "$5" "$6" "$3" 2>&1; status=$?
umount "$3" || exit 98
exit $status"""
BROKEN = re.compile(r"^after the cut: (.+?): message", re.MULTILINE)
SAID = re.compile(r"blocks (\d+) sure (\d+) messages (\d+) damaged (\d+) torn (\d+) served (\d)")


@dataclass(slots=True)
class Tally:
    """What was looked at, and what was found. broken: how often which promise was, damaged: cuts with a record skipped,
    served: cuts after which the store opened with its checkpoint."""

    cuts: Counter[str] = field(default_factory=Counter)
    facts: int = 0
    messages: int = 0
    torn: int = 0
    served: int = 0
    damaged: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, fate: str, where: str, status: int, text: str) -> None:
        self.cuts[fate] += 1
        said = SAID.search(text) if status == 0 else None
        if said:
            sure, messages, damaged, torn, served = map(int, said.groups()[1:])
            self.facts += sure
            self.messages += messages
            self.torn += torn
            self.served += served
            self.damaged[fate] += damaged > 0
            if damaged:
                self.examples.append(f"{where}: {text.strip()[-400:]}")
            return
        promise = BROKEN.search(text)
        self.broken[promise[1] if promise else f"status {status}: {text.strip()[-200:]}"] += 1
        self.examples.append(f"{where}: {text.strip()[-400:]}")


class Bench:
    """Places to look at images, a few at a time."""

    def __init__(self, scratch: pathlib.Path, program: pathlib.Path) -> None:
        self.program = program
        self.pool = ThreadPoolExecutor(WORKERS)
        self.places = [scratch / f"place{number}" for number in range(WORKERS + 1)]
        self.waiting: list[Future[None] | None] = [None] * len(self.places)
        self.views: list[memoryview] = []
        for place in self.places:
            place.mkdir()
            with (place / "image").open("w+b") as image:
                image.truncate(FILES_BYTES)
                self.views.append(memoryview(mmap.mmap(image.fileno(), FILES_BYTES)))
            (place / "mount").mkdir()
        self.turn = 0

    def _look(self, place: pathlib.Path, kind: str, marks: pathlib.Path, blocks: int, note: tuple[Tally, str, str]) -> None:
        # Two moments of one disk are looked at at a time; XFS would take them for the same.
        options = ",nouuid" if kind == "xfs" else ""
        words = [kind, place / "image", place / "mount", self.program, marks, str(blocks), options]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", LOOK, "look", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", timeout=LOOK_SECONDS,
        )  # fmt: skip
        tally, fate, where = note
        tally.add(fate, where, done.returncode, done.stdout)

    def free_view(self) -> memoryview:
        """The image to be looked at next, free to be filled."""
        self.turn = (self.turn + 1) % len(self.places)
        before = self.waiting[self.turn]
        if before:
            before.result()
        return self.views[self.turn]

    def look(self, kind: str, marks: pathlib.Path, blocks: int, note: tuple[Tally, str, str]) -> None:
        """Look at the image that free_view gave, soon."""
        self.waiting[self.turn] = self.pool.submit(self._look, self.places[self.turn], kind, marks, blocks, note)

    def wait(self) -> None:
        for future in self.waiting:
            if future:
                future.result()

    def close(self) -> None:
        self.pool.shutdown()


def cut(
    bench: Bench, replay: Replay, kind: str, marks: pathlib.Path, count: int, seed: int, tally: Tally,
    keep: pathlib.Path | None = None,
) -> None:  # fmt: skip
    """Look at `count` moments of a recording, in order, half of them with something in the cache. keep: one of them, late,
    becomes the disk of another machine."""
    chance = random.Random(seed)
    kept = count * 4 // 5
    marks.write_bytes(replay.marks_in_the_end())
    at = 0
    restless = replay.restless()
    drawn = [chance.randrange(len(replay.entries)) if turn % 2 else chance.choice(restless) for turn in range(count)]
    for turn, moment in enumerate(sorted(drawn)):
        while at <= moment:
            replay.step(replay.entries[at])
            at += 1
        fate = chance.choice(FATES) if replay.cached else "kept"
        image = bench.free_view()
        replay.lose(fate, chance, image)
        if keep and turn == kept:
            replay.save(keep, image)
        bench.look(kind, marks, replay.blocks, (tally, fate, f"seed {seed}, entry {moment}, {fate}"))
    bench.wait()
