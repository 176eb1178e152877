"""Builds the native modules with cffi: what each is made of. Their interfaces are read from the headers themselves."""

from __future__ import annotations

import pathlib
import re

from cffi import FFI

NATIVE = pathlib.Path("native")  # setup.py runs in the source tree, and setuptools wants relative paths
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"]


def names(pattern: str) -> list[str]:
    return sorted(path.name for path in NATIVE.glob(pattern))


def interface(header: str) -> str:
    """The header without its comments and preprocessor lines, which cffi does not read."""
    return re.sub(r"^#.*$", "", re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL), flags=re.MULTILINE)


def module(name: str, headers: list[str], sources: list[str], own: list[str], flags: list[str]) -> FFI:
    """The module qmaild.NAME: what these headers offer. Headers of its own are those only its sources read."""
    ffi = FFI()
    for header in headers:
        ffi.cdef(interface((NATIVE / header).read_text()))
    ffi.set_source(
        f"qmaild.{name}",
        "".join(f'#include "{header}"\n' for header in headers),
        sources=[str(NATIVE / source) for source in sources],
        include_dirs=[str(NATIVE)],
        depends=[str(NATIVE / header) for header in [*headers, *own]],
        extra_compile_args=[*FLAGS, *flags],
        extra_link_args=flags,
        py_limited_api=True,
    )
    return ffi


# setup.py names these: each is called for the one module it makes.


def body() -> FFI:
    """The scanner of what comes behind DATA."""
    return module("_body", ["body.h"], ["body.c"], [], [])


def queue() -> FFI:
    """The queue core."""
    return module("_queue", ["queue.h", "crc32c.h"], ["crc32c.c", *names("queue*.c")], names("queue_*.h"), ["-pthread"])


def system() -> FFI:
    """Accounts and powers."""
    return module("_system", ["system.h"], ["system.c"], [], [])
