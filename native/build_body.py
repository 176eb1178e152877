"""Builds qmaild._body: the scanner of native/body.h as a cffi module."""

from __future__ import annotations

import pathlib
import re

from cffi import FFI

NATIVE = pathlib.Path("native")
FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Werror"]


def interface(header: str) -> str:
    """The header without its comments and preprocessor lines, which cffi does not read."""
    return re.sub(r"^#.*$", "", re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL), flags=re.MULTILINE)


ffi = FFI()
ffi.cdef(interface((NATIVE / "body.h").read_text()))
ffi.set_source(
    "qmaild._body",
    '#include "body.h"\n',
    sources=["native/body.c"],
    include_dirs=["native"],
    depends=["native/body.h"],
    extra_compile_args=FLAGS,
    py_limited_api=True,
)

if __name__ == "__main__":
    ffi.compile(verbose=True)
