"""Every file of the corpora goes to its target once; C targets are built with the sanitizers by whatever compiler there is."""

from __future__ import annotations

import importlib
import pathlib
import subprocess

import pytest

from . import building, growth

SECONDS = 200
FEWEST = 20  # files that a target begins with


def corpus(name: str) -> list[pathlib.Path]:
    return sorted(building.corpus(name).iterdir())


@pytest.mark.parametrize("name", building.PYTHON)
def test_every_file_keeps_the_properties(name: str) -> None:
    target = importlib.import_module(f"tests.fuzz.targets.{name}")
    assert len(corpus(name)) >= FEWEST
    for path in corpus(name):
        try:
            target.one_input(path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{path.relative_to(building.ROOT)} breaks a property") from error


@pytest.mark.parametrize("name", building.NATIVE)
def test_every_file_keeps_the_properties_in_c(name: str, tmp_path: pathlib.Path) -> None:
    files = corpus(name)
    assert len(files) >= FEWEST
    program = building.build(name, tmp_path, "cc")
    done = subprocess.run([str(program), *map(str, files)], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == f"{len(files)}\n"


@pytest.mark.parametrize("name", building.PYTHON)
def test_no_parser_takes_longer_than_its_input_explains(name: str) -> None:
    assert growth.too_slow(name, growth.SHORT) == []


def test_quadratic_work_is_seen_and_linear_work_is_not() -> None:
    def look_again_and_again(data: bytes) -> int:
        return sum(sum(data[:place]) for place in range(0, len(data), 4))

    def look_once(data: bytes) -> int:
        return sum(sum(range(50)) for _ in data)

    assert growth.grows(look_again_and_again, b"a", 3000)
    assert not growth.grows(look_once, b"a", 30_000)


def test_every_corpus_and_dictionary_has_its_target() -> None:
    own = set(building.TARGETS) - set(building.SEEDS)
    assert {path.name for path in building.CORPUS.iterdir()} == own
    assert {path.stem for path in building.HERE.glob("*.dict")} == own
