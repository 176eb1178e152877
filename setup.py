"""The native modules and the packages. Everything else about the project stands in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    cffi_modules=["native/build.py:body", "native/build.py:queue", "native/build.py:system"],
    # The unit files go along inside the package: `qmaild standalone` reads them.
    packages=[*find_packages(include=["qmaild*"]), "qmaild.units"],
    package_dir={"qmaild.units": "systemd"},
    package_data={"qmaild": ["py.typed", "*.pyi"], "qmaild.units": ["*.socket", "*.service", "*.target"]},
)
