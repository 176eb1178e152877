"""Disk use through a simulated week of mail, and what additions wait for while the store copies. Knows churn.c.

CHURN=400000 in the environment makes it that many messages a day (`make churn`: three million in all).
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import tempfile

import pytest

from .processes import ROOT

DAYS = 8  # a week, and a day after it
MAIL = int(os.environ.get("CHURN", "4000"))
SEGMENT = 64 << 10 if MAIL < 100_000 else 1 << 20
SECONDS = 120 + MAIL // 100
AHEAD = (256 << 10) + (64 << 10)  # what is copied between two looks at the event loop, and a record


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The simulation, on the real core."""
    built = tmp_path_factory.mktemp("churn") / "churn"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{ROOT / 'native'}"]
    core = [*sorted((ROOT / "native").glob("queue*.c")), ROOT / "native" / "crc32c.c"]
    subprocess.run(["cc", *flags, pathlib.Path(__file__).with_name("churn.c"), *core, "-o", built], check=True, timeout=60)
    return built


def churned(program: pathlib.Path, days: float, mail: int, segment: int, threads: int, slowness: int = 0) -> str:
    """What the simulation prints. It must hold its bounds."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        words = [program, directory, days, mail, segment, threads, slowness]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("threads", [0, 1])
def test_disk_use_holds_its_bound_through_a_week_and_copying_delays_no_addition(program: pathlib.Path, threads: int) -> None:
    printed = churned(program, DAYS, MAIL, SEGMENT, threads)
    print(f"\n{'with' if threads else 'without'} threads: {printed.strip()}")
    said = printed.split()
    found = dict(zip(said[::2], map(float, said[1::2]), strict=True))
    assert found["additions"] >= DAYS * MAIL
    assert found["bounces"] > 0
    assert found["rounds"] > 0, "nothing was ever copied"
    assert found["ratio"] <= 2
    if not threads:  # bytes, that a busy machine cannot make more
        assert found["ahead"] <= AHEAD


def test_the_store_rests_however_long_the_next_segment_takes(program: pathlib.Path) -> None:
    """Two segments' worth of living messages and a third in the making: the same messages were copied round and round."""
    for slowness in range(100, 2100, 100):
        assert churned(program, 0.1, 4000, 64 << 10, 1, slowness)
