"""The disk of the machine: two partitions, MARKS, written around every cache, and FILES, with the file system."""

from __future__ import annotations

import pathlib
import subprocess

MIB = 1 << 20
MARKS_AT, MARKS_BYTES = 1 * MIB, 15 * MIB
FILES_AT, FILES_BYTES = 16 * MIB, 64 * MIB
MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-b", "4096", "-J", "size=4"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
}


def make_disk(path: pathlib.Path, kind: str) -> None:
    """A disk with both partitions and a fresh file system."""
    files = path.with_suffix(".files")
    with files.open("wb") as image:
        image.truncate(FILES_BYTES)
    # xfsprogs makes no file system this small but for tests
    settings = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TEST_DIR": "x", "TEST_DEV": "x", "QA_CHECK_FS": "x"}
    subprocess.run([*MAKE[kind], files], check=True, env=settings, capture_output=True)
    table = b"".join(
        bytes([0, 0, 0, 0, 0x83, 0, 0, 0]) + (at // 512).to_bytes(4, "little") + (size // 512).to_bytes(4, "little")
        for at, size in ((MARKS_AT, MARKS_BYTES), (FILES_AT, FILES_BYTES))
    )
    with path.open("wb") as disk:
        disk.truncate(FILES_AT + FILES_BYTES)
        disk.seek(446)
        disk.write(table.ljust(64, b"\0") + b"\x55\xaa")
        disk.seek(FILES_AT)
        disk.write(files.read_bytes())
    files.unlink()
