"""qmaild-program: the spawner of the children that run program lines, in the sandbox that programs need."""

from __future__ import annotations

from qmaild.runtime import service
from qmaild.services import spawn


def build(unit: service.Service) -> None:
    spawn.build(unit, has_programs=True)


if __name__ == "__main__":
    service.run("program", build)
