"""RESULTS.md: sections replace themselves and leave the others alone, and floors are what was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from .measure import Result, comparisons
from .results import facts, is_met, lines_of, write_section


def test_a_section_replaces_itself_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.md"
    for title, text in (("One", "first"), ("Two", "second"), ("Three", "third"), ("Two", "again")):
        write_section(title, [text], file)
    begin, *sections = file.read_text().split("\n## ")
    assert begin.startswith("# Results\n")
    assert [each.strip() for each in sections] == ["One\n\nfirst", "Two\n\nagain", "Three\n\nthird"]


@pytest.mark.parametrize(
    ("workload", "ratio", "value", "met"),
    [
        ("accept", "rate_ratio", 2.5, True), ("accept", "rate_ratio", 2.49, False),
        ("maildir", "rate_ratio", 1.99, False), ("relay", "rate_ratio", 1.5, True),
        ("fanout", "rate_ratio", 1.49, False), ("large", "rate_ratio", 1.49, False),
        ("relay", "cpu_ratio", 0.45, True), ("relay", "cpu_ratio", 0.46, False),
        ("latency", "p50_ratio", 1.0, True), ("latency", "p99_ratio", 1.01, False),
    ],
)  # fmt: skip
def test_floors_are_what_was_asked_for(workload: str, ratio: str, value: float, met: bool) -> None:
    assert is_met(workload, ratio, value) is met


def test_a_ratio_stands_beside_its_floor_and_says_whether_it_is_met() -> None:
    results = [Result("qmaild", "relay", 20, 100, 1, 1), Result("postfix", "relay", 20, 100, 2, 2)]
    rows = [each.row() for each in lines_of(comparisons(results))]
    assert rows == [
        "| relay, 20 sessions, rate ratio | 2.00 | >= 1.50 | met |",
        "| relay, 20 sessions, cpu ratio | 0.50 | <= 0.45 | **not met** |",
    ]


def test_the_facts_name_no_path_of_the_machine(tmp_path: Path) -> None:
    told = "\n".join(facts(tmp_path, {"Postfix": "3.7"}))
    assert "Postfix 3.7" in told
    assert not any(part in told for part in ("/tmp", "/dev", "/home", "/root", str(tmp_path)))
