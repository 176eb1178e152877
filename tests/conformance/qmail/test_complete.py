"""Each of the facts is held by a test, listed as a difference, or named as one that is still to come; none is two of these."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from .to_come import TO_COME

ROOT = Path(__file__).resolve().parents[3]
FACTS = set(range(1, 211))
PLACES = ("tests/conformance/qmail", "tests/system")
_NAMED = re.compile(r"test_f(\d{3})_")


def with_a_test() -> set[int]:
    """The numbers of all facts that have a test."""
    found = set()
    for place in PLACES:
        for path in (ROOT / place).glob("test_*.py"):
            names = [node.name for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.FunctionDef)]
            found |= {int(match[1]) for name in names if (match := _NAMED.match(name))}
    return found


def differing() -> set[int]:
    """The numbers at the beginning of the lines under "Differs from qmail"."""
    section = (ROOT / "ARCHITECTURE.md").read_text().partition("\n## 7. Differs from qmail\n")[2].partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| ([\d, -]+) \|", section)
    return {number for row in rows for part in row.split(", ") for number in _range(part)}


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def to_come() -> list[int]:
    return [number for numbers in TO_COME.values() for number in numbers]


def test_no_fact_is_forgotten() -> None:
    assert differing()
    assert sorted(FACTS - with_a_test() - differing() - set(to_come())) == []
    assert sorted((with_a_test() | differing() | set(to_come())) - FACTS) == []


def test_what_is_still_to_come_is_named_once_and_has_not_come() -> None:
    assert len(to_come()) == len(set(to_come()))
    assert sorted(set(to_come()) & (with_a_test() | differing())) == []


def test_a_function_that_looks_like_the_test_of_a_fact_is_one() -> None:
    for path in (ROOT / "tests/conformance/qmail").glob("test_*.py"):
        if path.name != Path(__file__).name:
            names = re.findall(r"(?m)^def (test_\w+)", path.read_text())
            assert [name for name in names if not _NAMED.match(name)] == [], path.name
