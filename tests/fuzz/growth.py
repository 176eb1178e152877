"""How the time of a parser grows with its input: four times the bytes may take about four times as long."""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable

from . import building

SHORT, LONG = 1500, 12_000  # bytes of the smaller input: in `make test`, in `make fuzz`
TIMES = 4
ALLOWED = 9.0  # between linear (4) and quadratic (16)
WORTH = 0.03  # seconds: below, a ratio says more about the machine
TRIES = 4  # a busy machine may look slow once
DRIBBLED = 256_000  # bytes of the smaller input where only the copying of what is held is quadratic
_ENTRY = re.compile(rb'^"(.*)"$', re.MULTILINE)
_ESCAPED = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))")

Entry = Callable[[bytes], object]


def words_of(name: str) -> list[bytes]:
    """Return the entries of a target's dictionary: each is repeated to make an input."""
    entries = _ENTRY.findall(building.dictionary(name).read_bytes())
    words = [_ESCAPED.sub(lambda found: bytes([int(found[1], 16)]) if found[1] else found[2], entry) for entry in entries]
    return [*words, b"a", b" "]


def _seconds(entry: Entry, word: bytes, size: int) -> float:
    data = word * (size // len(word))
    start = time.process_time()
    entry(data)
    return time.process_time() - start


def grows(entry: Entry, word: bytes, size: int) -> bool:
    """Return whether the time for this word, again and again, grows faster than its length."""
    for _ in range(TRIES):
        large = _seconds(entry, word, size * TIMES)
        if large < WORTH or large < _seconds(entry, word, size) * ALLOWED:
            return False
    return True


def too_slow(name: str, size: int) -> list[str]:
    """Return what grows too fast in a Python target, as texts.

    GROWTH has its entries; those of DRIBBLE are about the length alone.
    """
    target = importlib.import_module(f"tests.fuzz.targets.{name}")
    tried = [(title, entry, word, size) for title, entry in target.GROWTH.items() for word in words_of(name)]
    tried += [(title, entry, b"a", DRIBBLED) for title, entry in getattr(target, "DRIBBLE", {}).items()]
    return [
        f"{name}: {title}: the time grows faster than the length of {word!r} repeated"
        for title, entry, word, small in tried
        if grows(entry, word, small)
    ]
