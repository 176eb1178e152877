"""Builds qmaild._queue: the queue core as a cffi module. The interface is read from native/queue.h itself."""

from __future__ import annotations

import pathlib
import re

from cffi import FFI

NATIVE = pathlib.Path("native")  # setup.py runs in the source tree, and setuptools wants relative paths
SOURCES = ["crc32c.c", *sorted(path.name for path in NATIVE.glob("queue*.c"))]
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-pthread", "-Wall", "-Wextra", "-Werror"]


def interface(header: str) -> str:
    """The header without its comments and preprocessor lines, which cffi does not read."""
    return re.sub(r"^#.*$", "", re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL), flags=re.MULTILINE)


ffi = FFI()
ffi.cdef(interface((NATIVE / "queue.h").read_text()) + interface((NATIVE / "crc32c.h").read_text()))
ffi.set_source(
    "qmaild._queue",
    '#include "queue.h"\n#include "crc32c.h"\n',
    sources=[str(NATIVE / name) for name in SOURCES],
    include_dirs=[str(NATIVE)],
    depends=[str(path) for path in sorted(NATIVE.glob("queue*.h"))] + ["native/crc32c.h"],
    extra_compile_args=FLAGS,
    extra_link_args=["-pthread"],
    py_limited_api=True,
)

if __name__ == "__main__":
    ffi.compile(verbose=True)
