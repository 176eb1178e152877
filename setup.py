"""The two native modules. Everything else about the project stands in pyproject.toml."""

from setuptools import setup

setup(cffi_modules=["native/build_queue.py:ffi", "native/build_system.py:ffi"])
