"""Replaces a cdb: written beside its place, synced, renamed. Whoever reads meanwhile has the old one or the new one, whole."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable

from qmaild.control import cdb


def replace(path: str, temporary: str, records: Iterable[tuple[bytes, bytes]]) -> None:
    """Put a cdb of these records at `path`. Whatever is raised, OSError or an error of the records, the old one stands."""
    try:
        with open(temporary, "wb") as file:
            maker = cdb.Maker()
            file.write(bytes(cdb.HEAD))
            for key, value in records:
                file.write(maker.add(key, value))
            tables, head = maker.finish()
            file.write(tables)
            file.seek(0)
            file.write(head)
            file.flush()
            os.fchmod(file.fileno(), 0o644)  # the services read it as users of their own
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def compile_file(program: str, source: str, path: str, records_of: Callable[[bytes], Iterable[tuple[bytes, bytes]]]) -> int:
    """Replace the cdb at `path` by the records of the text at `source`. The exit status: 0, or 111 and a word why not."""
    try:
        with open(source, "rb") as file:
            content = file.read()
        replace(path, f"{path}.tmp.{os.getpid()}", records_of(content))
    except OSError as error:
        print(f"{program}: {error.filename or path}: {error.strerror}", file=sys.stderr)
        return 111
    except ValueError as error:  # what is wrong in the text, by its line
        print(f"{program}: {source}: {error}", file=sys.stderr)
        return 111
    return 0
