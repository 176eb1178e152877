"""Says at the end how many crash points were tried."""

from __future__ import annotations

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    points: dict[str, int] = {}
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name.startswith("points "):
                points[name[7:]] = points.get(name[7:], 0) + int(str(value))
    if points:
        kinds = ", ".join(f"{kind} {count}" for kind, count in points.items())
        terminalreporter.write_line(f"crash points tried: {sum(points.values())} ({kinds})")
