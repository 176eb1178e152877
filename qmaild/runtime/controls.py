"""Reads the control directory. All settings or an error naming file, line and what was expected; never half."""

from __future__ import annotations

import os
import socket

from qmaild.control.settings import TABLE, Problem, Settings, parse
from qmaild.runtime import paths

MAX_FILE_BYTES = 16 << 20  # a list of a million domains fits


class ControlError(ValueError):
    """The control files cannot be used; the text names each file, line and what was expected."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(f"{paths.CONTROL}/{problem}" for problem in problems))
        self.problems = problems


def host_name() -> bytes:
    """Return /etc/mailname's first word, else the host's own full name."""
    try:
        with open("/etc/mailname", "rb") as file:
            words = file.read(1024).split()
        if words:
            return words[0]
    except OSError:
        pass
    name = socket.gethostname().encode()
    return name or b"localhost"


def read_files(directory: str | None = None) -> tuple[dict[str, bytes], list[Problem]]:
    """Return the content of each known control file that exists. One that cannot be read is a problem, not a missing file."""
    files: dict[str, bytes] = {}
    problems: list[Problem] = []
    for name in TABLE:
        try:
            with open(os.path.join(directory or paths.CONTROL, name), "rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            problems.append(Problem(name, 0, f"a readable file ({error.strerror})"))
            continue
        if len(content) > MAX_FILE_BYTES:
            problems.append(Problem(name, 0, f"at most {MAX_FILE_BYTES} bytes"))
            continue
        files[name] = content
    return files, problems


def read(directory: str | None = None) -> Settings:
    """Return the settings, or raise ControlError with every problem there is."""
    files, problems = read_files(directory)
    settings, more = parse(files, host_name())
    if problems or more:
        raise ControlError(problems + more)
    return settings
