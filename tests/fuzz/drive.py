"""Runs one Python target as libFuzzer does, under atheris where it is there: python -m tests.fuzz.drive TARGET OPTIONS FOLDERS.

Without atheris nothing guides it: files of the corpus are changed at random, and it says so.
"""

from __future__ import annotations

import hashlib
import importlib
import pathlib
import random
import sys
import time
import traceback

try:
    import atheris  # type: ignore[import-not-found]  # in the venv of `make fuzz`
except ImportError:
    atheris = None


def _guided(name: str) -> None:
    with atheris.instrument_imports(include=["qmaild"]):
        target = importlib.import_module(f"tests.fuzz.targets.{name}")
    atheris.Setup(sys.argv, target.one_input)
    atheris.Fuzz()


def _changed(seeds: list[bytes], chance: random.Random, most: int) -> bytes:
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0:
                data[place : place + 1] = chance.randbytes(1)
            case 1:
                del data[place : place + chance.randrange(1, 9)]
            case 2:
                other = chance.choice(seeds)
                start = chance.randrange(len(other) + 1)
                data[place:place] = other[start : start + chance.randrange(1, 40)]
            case _:
                data[place:place] = data[place : place + chance.randrange(1, 40)]
    return bytes(data[:most])


def _blind(name: str) -> int:
    print("atheris cannot be had: the corpus is changed at random, unguided", file=sys.stderr)
    one_input = importlib.import_module(f"tests.fuzz.targets.{name}").one_input
    options = dict(word[1:].split("=", 1) for word in sys.argv[1:] if word.startswith("-"))
    folders = [pathlib.Path(word) for word in sys.argv[1:] if not word.startswith("-")]
    seeds = [path.read_bytes() for folder in folders for path in sorted(folder.iterdir())]
    end, runs, chance = time.monotonic() + float(options.get("max_total_time", 60)), 0, random.Random()
    while time.monotonic() < end:
        data = _changed(seeds, chance, int(options.get("max_len", 4096)))
        runs += 1
        try:
            one_input(data)
        except Exception:
            traceback.print_exc()
            found = pathlib.Path(options.get("artifact_prefix", "./") + "crash-" + hashlib.sha1(data).hexdigest())
            found.write_bytes(data)
            print(f"Test unit written to {found}", file=sys.stderr)
            return 77
    print(f"stat::number_of_executed_units: {runs}", file=sys.stderr)
    return 0


def main() -> int:
    name = sys.argv.pop(1)
    if atheris is None:
        return _blind(name)
    _guided(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
